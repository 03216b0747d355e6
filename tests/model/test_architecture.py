"""What a model's configuration alone tells: the room that text prompts leave for captions."""

from __future__ import annotations

import logging

import pytest

from pipelines.sweep.space import experiment_of
from pipelines.train.plan import check_captions, plan
from pipelines.train.run import run_experiment
from vop.config import ConfigError, load_experiment
from vop.model.architecture import FEW, caption_tokens
from vop.model.retrieval import shape_of_model


@pytest.mark.parametrize(
    ("overrides", "left"),
    [
        ([], 77 - 2 - 8),
        (["text_prompt.length=0"], 75),
        (["text_prompt.length=74"], 1),
        (["text_prompt.length=100", "text_prompt.depth=2-12"], 75),
        (["text_prompt.length=8", "text_prompt.suffix=4"], 67),
        (["backbone.name=ViT-toy", "text_prompt.length=45"], 1),
    ],
)
def test_tokens_that_are_left_for_a_caption(overrides: list[str], left: int) -> None:
    assert caption_tokens(load_experiment("", overrides)) == left


@pytest.mark.parametrize("length", [75, 76, 77, 1024])
def test_prompts_that_leave_nothing_are_refused_before_any_work(length: int) -> None:
    """Ray cannot be started here (tests/conftest.py), so none was."""
    experiment = load_experiment("", [f"text_prompt.length={length}", "backbone.pretrained=random"])
    for start in (run_experiment, plan, shape_of_model):
        with pytest.raises(
            ConfigError, match=rf"text_prompt\.length: {length} prompts leave 0 of the 77 .* at most 74, better 59"
        ):
            start(experiment)
    with pytest.raises(ConfigError, match=rf"length={length}: text_prompt\.length: {length} prompts leave 0"):
        experiment_of({}, {"text_prompt.length": length}, 0)


def test_prompts_that_leave_little_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_captions(load_experiment("", [f"text_prompt.length={75 - FEW}"]))
        assert not caplog.records
        check_captions(load_experiment("", [f"text_prompt.length={76 - FEW}"]))
    assert f"60 prompts leave {FEW - 1} tokens for a caption" in caplog.text


@pytest.mark.parametrize(
    "override",
    [
        *(
            "text_prompt.length=1000000000",
            "video_prompt.length=1000000000",
            "frames.count=1000000000",
            "text_prompt.length=1e9",
        ),
        *("tuning={name: lora, rank: 1000000000}", "tuning={name: adapter-attn, bottleneck: 1000000000}"),
    ],
)
def test_what_no_machine_can_hold_is_refused_in_a_sentence(override: str) -> None:
    with pytest.raises(ConfigError, match=r"less than or equal to|valid integer"):
        load_experiment("", [override])
