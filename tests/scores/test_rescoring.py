"""Dual softmax and QB-Norm against loops written from the papers' formulas, and examples that can be checked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vop.scores import tiles
from vop.scores.ranks import retrieval_ranks
from vop.scores.rescoring import BETA, SCALE, QueryBank, compare


def unit(seed: int, *shape: int) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def slow_dual_softmax(scores: list[list[float]], scale: float) -> list[list[float]]:
    totals = [sum(math.exp(scale * row[g]) for row in scores) for g in range(len(scores[0]))]
    return [[s * math.exp(scale * s) / totals[g] for g, s in enumerate(row)] for row in scores]


def slow_querybank(scores: list[list[float]], bank: list[list[float]], beta: float) -> list[list[float]]:
    totals = [sum(math.exp(beta * row[g]) for row in bank) for g in range(len(scores[0]))]
    hubs = {row.index(max(row)) for row in bank}
    return [[math.exp(beta * s) / totals[g] for g, s in enumerate(r)] if r.index(max(r)) in hubs else r for r in scores]


def slow_ranks(scores: list[list[float]], truth: list[int]) -> list[int]:
    return [1 + sum(s > row[t] for s in row) for row, t in zip(scores, truth, strict=True)]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("size", [3, 1024])
def test_dual_softmax_is_the_formula(seed: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "ROWS", size)
    text, video, owner = unit(seed, 13, 4), unit(seed + 50, 9, 4), [*range(9), 0, 3, 3, 8]
    raw = (text.astype(np.float64) @ video.T).astype(np.float32).astype(np.float64)
    found = compare(text, video, owner, scale=12.0).rescored["dsl/t2v"]
    np.testing.assert_array_equal(found.rank, slow_ranks(slow_dual_softmax(raw.tolist(), 12.0), owner))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("size", [3, 1024])
def test_querybank_norm_is_the_formula(seed: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "COLS", size)
    text, video, bank = unit(seed, 12, 4), unit(seed + 50, 12, 4), unit(seed + 90, 5, 4)
    raw, of_bank = ((x.astype(np.float64) @ video.T).astype(np.float32).astype(np.float64).tolist() for x in (text, bank))
    found = compare(text, video, range(12), bank, beta=8.0).rescored["qbnorm/t2v"]
    expected = slow_ranks(slow_querybank(raw, of_bank, 8.0), list(range(12)))
    np.testing.assert_array_equal(found.rank, expected)
    assert expected != slow_ranks(raw, list(range(12)))  # else the comparison would say nothing


def test_dual_softmax_by_hand() -> None:
    """Video 0 is everybody's favourite. Text 0 wants it most, so the others are sent to their own."""
    scores = np.array([[0.9, 0.1, 0.1], [0.8, 0.7, 0.1], [0.8, 0.1, 0.7]], np.float32)
    t2v, _ = retrieval_ranks(scores, np.eye(3, dtype=np.float32), [0, 1, 2])
    assert t2v.rank.tolist() == [1, 2, 2]
    assert compare(scores, np.eye(3, dtype=np.float32), [0, 1, 2]).rescored["dsl/t2v"].rank.tolist() == [1, 1, 1]


def test_querybank_by_hand() -> None:
    """The bank's captions all land on video 0, a hub: text 1 is freed of it; text 2's best is no hub, and stays."""
    gallery, bank = np.eye(3, dtype=np.float32), np.array([[0.9, 0.1, 0.1]] * 4, np.float32)
    scores = np.array([[0.9, 0.0, 0.0], [0.8, 0.7, 0.1], [0.7, 0.1, 0.75]], np.float32)
    assert retrieval_ranks(scores, gallery, [0, 1, 2])[0].rank.tolist() == [1, 2, 1]
    rescored = compare(scores, gallery, [0, 1, 2], bank).rescored["qbnorm/t2v"]
    assert rescored.rank.tolist() == [1, 1, 1]
    freed = compare(scores[[0, 1, 2, 1, 2]], gallery, [0, 0, 0, 1, 2], bank).rescored["qbnorm/t2v"]
    assert freed.rank.tolist() == [1, 3, 2, 1, 1]  # video 0 falls to the end for text 1; text 2 keeps its raw scores


def test_equal_videos_still_tie() -> None:
    """A clip and its reverse have one embedding; no correction may tell them apart."""
    text, video = unit(0, 40, 8), np.repeat(unit(1, 20, 8), 2, axis=0)
    found = compare(text, video, range(40), unit(2, 30, 8)).rescored
    assert (found["dsl/t2v"].ties_Q == 1).all() and (found["qbnorm/t2v"].ties_Q == 1).all()
    assert not found["dsl/v2t"].ties_Q.any()  # here the gallery is the texts, all different


def test_small_products_do_not_collapse_into_ties() -> None:
    text = np.array([[1, 0], [0.02, math.sqrt(1 - 0.0004)], [0.01, math.sqrt(1 - 0.0001)]], np.float32)
    video = np.array([[1, 0], [1, 0]], np.float32) * [[1.0], [0.5]]
    found = compare(text, video.astype(np.float32), [0, 0, 1], scale=400.0).rescored["dsl/t2v"]
    assert not found.ties_Q.any()


def test_metrics_have_names_of_their_own() -> None:
    text, video = unit(0, 6, 4), unit(1, 6, 4)
    without = compare(text, video, range(6)).rescored_metrics()
    assert {key.rpartition("/")[0] for key in without} == {"dsl/t2v", "dsl/v2t"}
    metrics = compare(text, video, range(6), unit(2, 3, 4)).rescored_metrics()
    assert metrics["qbnorm/bank"] == 3 and "qbnorm/t2v/R1" in metrics and "qbnorm/v2t/R1" not in metrics
    assert not {"t2v/R1", "v2t/R1"} & metrics.keys()
    assert (SCALE, BETA) == (100.0, 20.0)


def test_an_empty_bank_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one caption"):
        QueryBank(np.zeros((0, 4)), unit(0, 3, 4), BETA)
