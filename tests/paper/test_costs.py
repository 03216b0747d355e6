"""What methods cost to use, against the same by hand: multiply-adds of matrices, one layer after the other."""

from __future__ import annotations

from functools import cache

import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from vop.config import load_experiment
from vop.paper.costs import WORDS, Cost, cost_of
from vop.paper.methods import METHODS

pytestmark = pytest.mark.usefixtures("slow")  # each builds a ViT-B/32, if only its shape
FRAMES, TOKENS, D, D_TEXT, E = 12, 50, 768, 512, 512  # of ViT-B/32


@cache
def cost(name: str) -> Cost:
    return cost_of(load_experiment({"backbone": {"pretrained": "random"}}, [f"{k}={v}" for k, v in METHODS[name].items()]))


def block(rows: int, width: int, sequences: int = 1, read: int = 0) -> int:
    """Of sequences of so many rows; read: of the last layer, so many rows of each are computed."""
    asked = read or rows
    keys = 2 * width * width * rows
    return sequences * (keys + (2 + 8) * width * width * asked + 2 * width * rows * asked)


def tower(rows: int, width: int, sequences: int = 1) -> int:
    return 11 * block(rows, width, sequences) + block(rows, width, sequences, read=1) + sequences * width * E


def test_clip_costs_what_its_matrices_do() -> None:
    patches = FRAMES * (TOKENS - 1) * 32 * 32 * 3 * D
    assert cost("zero-shot").video_flops == 2 * (patches + tower(TOKENS, D, FRAMES))
    assert cost("zero-shot").text_flops == 2 * tower(WORDS, D_TEXT)


def test_what_a_batch_needs_once_is_left_out() -> None:
    assert cost("LoRA") == Cost(491_520, cost("zero-shot").video_flops, cost("zero-shot").text_flops, 2 * E)


def test_discovla_asks_once_more_for_each_frame() -> None:
    """In four layers: a query, an output, the tokens of all frames, and an adapter of 8; nothing for texts."""
    more = 4 * FRAMES * (2 * D * D + 2 * FRAMES * TOKENS * D + 2 * 8 * D)
    assert cost("DiscoVLA").video_flops - cost("zero-shot").video_flops == 2 * more
    assert cost("DiscoVLA").text_flops == cost("zero-shot").text_flops


def test_prompts_cost_their_keys_and_those_that_merge_cost_less() -> None:
    layers, prompts = 12, 8
    more = layers * FRAMES * prompts * 2 * D * TOKENS - FRAMES * prompts * 2 * D * (TOKENS - 1)  # the last layer asks once
    assert cost("VoP visual only").video_flops - cost("zero-shot").video_flops == 2 * more
    assert 0.64 < cost("TempMe").video_flops / cost("zero-shot").video_flops < 0.7


@pytest.mark.parametrize(
    ("name", "count"),
    [
        *((name, 2 * E) for name in ("VoP", "seqTransf", "DiscoVLA", "DGL transformer")),
        ("X-Pool", 2 * E + 4 * (2 * FRAMES * E + 3 * (FRAMES + 2) ** 2 + FRAMES)),  # three squares, and which frames are real
        ("WTI", 2 * E + 4 * FRAMES * (E + 1)),
    ],
)
def test_bytes_of_a_video_in_an_index(name: str, count: int) -> None:
    """A unit embedding in 16 bits, the rows of a head with a score of its own in 32."""
    assert cost(name).index_bytes == count


def test_the_command_prints_them_of_another_backbone() -> None:
    result = CliRunner().invoke(app, ["methods", "--costs", "backbone.name=ViT-toy"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    rows = [line for line in result.output.splitlines() if line.strip().startswith(tuple(METHODS))]
    assert len(rows) == len(METHODS)
    toy = cost_of(load_experiment({"backbone": {"name": "ViT-toy", "pretrained": "random"}}, ["tuning.name=zero-shot"]))
    assert f"{toy.video_flops / 1e9:.2f}" in rows[0] and f"{toy.index_bytes:,}" in rows[0]
