"""One pass over tiles in fp32 against all scores in fp64: the same ranks and ties, raw and rescored, the same best videos."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.throughput.scores import all_ranks_before, embeddings, top_k_before
from vop.scores import tiles
from vop.scores.ranks import Ranks, retrieval_ranks, top_k
from vop.scores.rescoring import compare
from vop.scores.tiles import Scores


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def case(kind: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Texts, videos, the video of each text, a bank."""
    rng = np.random.default_rng(seed)
    N, extra, E = int(rng.integers(2, 60)), int(rng.integers(0, 60)), int(rng.choice([1, 2, 3, 64, 512]))
    video, bank = rng.normal(size=(N, E)), rng.normal(size=(int(rng.integers(1, 20)), E))
    owner = rng.permutation(np.r_[np.arange(N), rng.integers(0, N, extra)])
    text = video[owner] + rng.normal(size=(len(owner), E)) * rng.choice([1e-3, 0.3, 2])
    if kind == "signs":  # scores are multiples of 1 / E: many tie
        text, video, bank = np.sign(text), np.sign(video), np.sign(bank)
    elif kind == "one video":
        video[:] = video[0]
    elif kind == "twins":
        video = np.repeat(video, 2, axis=0)[:N]
    elif kind == "texts that differ in the last bits":
        text[:] = text[0] + rng.normal(size=text.shape) * 1e-7
    elif kind == "videos that differ in the last bits":
        video = video[rng.integers(0, 3, N) % N] * (1 + rng.normal(size=(N, E)) * 1e-7)
    return unit(text), unit(video), owner, unit(bank)


KINDS = (
    *("noise", "signs", "one video", "twins"),
    *("texts that differ in the last bits", "videos that differ in the last bits"),
)


def same(a: Ranks, b: Ranks) -> bool:
    return bool((a.higher_Q == b.higher_Q).all() and (a.ties_Q == b.ties_Q).all())


@pytest.mark.parametrize("size", [(1024, 2048), (40, 30)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_ranks_ties_and_the_best_are_those_of_all_scores_in_fp64(kind, seed, size, monkeypatch):
    monkeypatch.setattr(tiles, "ROWS", size[0])
    monkeypatch.setattr(tiles, "COLS", size[1])
    text, video, owner, bank = case(kind, 10 * KINDS.index(kind) + seed)
    expected = all_ranks_before(text, video, owner, bank)
    found = compare(text, video, owner, bank, top=5)
    for name, ranks in ({"t2v": found.t2v, "v2t": found.v2t} | found.rescored).items():
        assert same(ranks, expected[name]), name
    assert all(map(same, retrieval_ranks(text, video, owner), (expected["t2v"], expected["v2t"])))
    for best in (top_k(text, video, 5), (found.best_scores_MK, found.best_MK)):
        for part, whole in zip(best, top_k_before(text, video, 5), strict=True):
            np.testing.assert_array_equal(part, whole)


def test_fp32_alone_would_rank_otherwise_and_its_bound_holds():
    rng = np.random.default_rng(0)
    text, video = unit(rng.normal(size=(300, 512))), unit(1 + 1e-7 * rng.normal(size=(300, 512)))
    scores, exact = Scores(text, video), Scores(text, video, exact=True)
    (tile,), (truth,) = scores.tiles(), exact.tiles()
    difference = (tile.scores_RC.double() - truth.scores_RC.double()).abs().max()
    assert 0 < difference < scores.slack < 1e-4 and exact.slack == 0
    rows, cols = (x.flatten() for x in torch.meshgrid(torch.arange(300), torch.arange(300), indexing="ij"))
    assert torch.equal(scores.at(rows, cols).view(300, 300), truth.scores_RC)
    assert torch.equal(scores.at(rows[::400], cols[::400]), truth.scores_RC.flatten()[::400]), "few of them, one by one"


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_embeddings_of_another_precision_are_not_rounded(dtype):
    text, video, owner, bank = case("noise", 5)
    text, video = text.astype(dtype), video.astype(dtype)
    expected = all_ranks_before(text, video, owner, bank)
    assert all(map(same, retrieval_ranks(text, video, owner), (expected["t2v"], expected["v2t"])))


def test_a_lower_precision_of_torch_changes_nothing():
    text, video, owner, _ = case("noise", 7)
    expected = retrieval_ranks(text, video, owner)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert Scores(text, video).exact
        torch.set_float32_matmul_precision("highest")
        with torch.autocast("cpu", torch.bfloat16):
            assert all(map(same, retrieval_ranks(text, video, owner), expected))
        torch.set_float32_matmul_precision("medium")
        assert all(map(same, retrieval_ranks(text, video, owner), expected))
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_pass_holds_no_more_than_tiles():
    scores = Scores(np.ones((2500, 1)), np.ones((5000, 1)))
    shapes = [tile.scores_RC.shape for tile in scores.tiles()]
    assert shapes == [(rows, cols) for cols in (2048, 2048, 904) for rows in (1024, 1024, 452)]


def test_the_measured_embeddings_are_neither_chance_nor_solved():
    text, video, bank = embeddings(400)
    assert 30 < compare(text, video, np.arange(400), bank).t2v.metrics()["R1"] < 99
