"""Metrics against slow references: a loop over the whole matrix, and every order of tied items."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vop.scores import tiles
from vop.scores.ranks import Ranks, pair_accuracy, ranks, retrieval_metrics, retrieval_ranks, top_k

SEEDS = range(12)


def integers(seed: int, *shape: int, low: int = -1, high: int = 2) -> np.ndarray:
    """Small integers: their scores are exact and often tie."""
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.float32)


def captions(seed: int, videos: int, extra: int) -> np.ndarray:
    """The video of each caption, shuffled; every video has at least one."""
    generator = np.random.default_rng(seed)
    return generator.permutation(np.r_[np.arange(videos), generator.integers(0, videos, extra)])


def competition(scores_G: list[float], own: set[int]) -> list[float]:
    """The best score among `own`, first, then the scores of the items that are not its own."""
    return [max(scores_G[g] for g in own), *(s for g, s in enumerate(scores_G) if g not in own)]


def places_over_all_orders(scores: list[float]) -> list[int]:
    """The place (from 1) of item 0 in each order of the items that is sorted by score."""
    orders = permutations(range(len(scores)))
    return [o.index(0) + 1 for o in orders if all(scores[a] >= scores[b] for a, b in pairwise(o))]


def slow_counts(scores_QG: np.ndarray, truth_Q: np.ndarray, owner_G: np.ndarray) -> list[tuple[int, int]]:
    rows = []
    for scores_G, truth in zip(scores_QG.tolist(), truth_Q, strict=True):
        best, *others = competition(scores_G, {g for g, owner in enumerate(owner_G) if owner == truth})
        rows.append((sum(s > best for s in others), sum(s == best for s in others)))
    return rows


def counts(result: Ranks) -> list[tuple[int, int]]:
    return list(zip(result.higher_Q.tolist(), result.ties_Q.tolist(), strict=True))


def test_hand_example():
    scores = [[9, 1, 5], [7, 7, 0], [3, 2, 1]]  # text by video: first, tied first, last
    result = retrieval_metrics(np.array(scores, np.float32), np.eye(3, dtype=np.float32), [0, 1, 2])
    assert result == {
        "t2v/R1": pytest.approx(50.0),  # (1 + 1/2 + 0) / 3
        "t2v/R5": 100.0,
        "t2v/R10": 100.0,
        "t2v/MdR": 1.5,
        "t2v/MnR": pytest.approx((1 + 1.5 + 3) / 3),
        "t2v/queries": 3,
        "v2t/R1": pytest.approx(200 / 3),  # columns 9 7 3, 1 7 2, 5 0 1: places 1, 1, 2
        "v2t/R5": 100.0,
        "v2t/R10": 100.0,
        "v2t/MdR": 1.0,
        "v2t/MnR": pytest.approx(4 / 3),
        "v2t/queries": 3,
        "t2v/nDCG10": pytest.approx(100 * (1 + (1 + 1 / np.log2(3)) / 2 + 1 / np.log2(4)) / 3),
        "t2v/MAP": pytest.approx(100 * (1 + (1 + 1 / 2) / 2 + 1 / 3) / 3),
    }


def test_rank_and_hits_of_given_counts():
    result = Ranks(np.array([0, 0, 4, 3, 12]), np.array([0, 3, 0, 2, 4]))
    np.testing.assert_array_equal(result.rank, [1, 2.5, 5, 5, 15])
    np.testing.assert_allclose(result.hit(1), [1, 1 / 4, 0, 0, 0])
    np.testing.assert_allclose(result.hit(5), [1, 1, 1, 2 / 3, 0])
    np.testing.assert_allclose(result.hit(15), [1, 1, 1, 1, 3 / 5])


def test_gains_are_the_means_over_all_orders_of_tied_items() -> None:
    result = Ranks(np.array([0, 2, 8, 11]), np.array([0, 1, 4, 0]))
    places = [[1], [3, 4], [9, 10, 11, 12, 13], [12]]
    ndcg = [np.mean([1 / np.log2(1 + place) if place <= 10 else 0.0 for place in own]) for own in places]
    found = [np.mean([1 / place for place in own]) for own in places]
    assert result.gains() == {"nDCG10": pytest.approx(100 * np.mean(ndcg)), "MAP": pytest.approx(100 * np.mean(found))}


def test_median_of_an_even_number_is_between_the_middles():
    assert Ranks(np.array([0, 1, 4, 9]), np.zeros(4, int)).metrics("x/")["x/MdR"] == 3.5


@pytest.mark.parametrize("seed", SEEDS)
def test_rank_and_hits_are_the_expectation_over_all_orders(seed):
    text_ME, video_NE, video_of_text_M = (
        integers(seed, 5, 2),
        integers(seed + 100, 4, 2),
        captions(seed, 4, 1),
    )
    t2v, v2t = retrieval_ranks(text_ME, video_NE, video_of_text_M)
    scores_MN = text_ME @ video_NE.T
    tables = [
        [competition(row.tolist(), {video}) for row, video in zip(scores_MN, video_of_text_M, strict=True)],
        [competition(scores_MN[:, n].tolist(), set(np.flatnonzero(video_of_text_M == n))) for n in range(4)],
    ]
    for result, table in zip((t2v, v2t), tables, strict=True):
        for i, scores in enumerate(table):
            places = places_over_all_orders(scores)
            assert result.rank[i] == pytest.approx(float(Fraction(sum(places), len(places))))
            for k in range(1, 6):
                assert result.hit(k)[i] == pytest.approx(sum(p <= k for p in places) / len(places))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("extra", [0, 9])
def test_counts_equal_the_slow_loop(seed, extra):
    text_ME, video_NE, video_of_text_M = (
        integers(seed, 13 + extra, 3),
        integers(-seed + 99, 13, 3),
        captions(seed, 13, extra),
    )
    t2v, v2t = retrieval_ranks(text_ME, video_NE, video_of_text_M)
    scores_MN = text_ME @ video_NE.T
    assert counts(t2v) == slow_counts(scores_MN, video_of_text_M, np.arange(13))
    assert counts(v2t) == slow_counts(scores_MN.T, np.arange(13), video_of_text_M)
    assert t2v.ties_Q.any() and v2t.ties_Q.any()


@pytest.mark.parametrize(("rows", "cols"), [(1, 20), (20, 1), (3, 7), (19, 19), (20, 20)])
def test_the_size_of_tiles_changes_nothing(monkeypatch, rows, cols):
    text_ME, video_NE = torch.tensor(integers(1, 20, 3)), torch.tensor(integers(2, 20, 3))
    truth_M = torch.tensor(captions(3, 20, 0))
    whole = ranks(text_ME, video_NE, truth_M), retrieval_ranks(text_ME, video_NE, truth_M), top_k(text_ME, video_NE, 4)
    monkeypatch.setattr(tiles, "ROWS", rows)
    monkeypatch.setattr(tiles, "COLS", cols)
    assert counts(ranks(text_ME, video_NE, truth_M)) == counts(whole[0])
    assert [*map(counts, retrieval_ranks(text_ME, video_NE, truth_M))] == [*map(counts, whole[1])]
    for part, expected in zip(top_k(text_ME, video_NE, 4), whole[2], strict=True):
        np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize("n", [2, 3, 7, 13, 331, 1025])
def test_a_collapsed_model_scores_chance(n):
    # Not integers: the fp32 product of some of these sizes gives equal columns unequal scores.
    text_ME = F.normalize(torch.randn(n, 512, generator=torch.Generator().manual_seed(n)), dim=1)
    result = retrieval_metrics(text_ME, text_ME[:1].repeat(n, 1), torch.arange(n))
    assert result["t2v/R1"] == pytest.approx(100 / n)
    assert result["t2v/MdR"] == result["t2v/MnR"] == (n + 1) / 2
    both = retrieval_metrics(text_ME[:1].repeat(n, 1), text_ME[:1].repeat(n, 1), torch.arange(n))
    for direction in ("t2v", "v2t"):
        assert both[f"{direction}/R1"] == pytest.approx(100 / n)
        assert both[f"{direction}/R10"] == pytest.approx(100 * min(10, n) / n)


@pytest.mark.parametrize("n", [6, 7, 50, 1003])
def test_repeated_captions_of_different_videos_tie(n):
    generator = torch.Generator().manual_seed(n)
    text_ME = F.normalize(torch.randn(n, 64, generator=generator), dim=1)
    text_ME[n - 1] = text_ME[0]
    video_NE = F.normalize(text_ME + 0.02 * torch.randn(n, 64, generator=generator), dim=1)
    t2v, v2t = retrieval_ranks(text_ME, video_NE, torch.arange(n))
    assert counts(v2t) == [(0, 1), *[(0, 0)] * (n - 2), (0, 1)]
    assert v2t.metrics()["R1"] == pytest.approx(100 * (n - 1) / n)
    assert sorted(t2v.higher_Q[[0, n - 1]]) == [0, 1]  # one of the two queries finds its twin's video first


def test_v2t_takes_the_best_own_caption_and_the_others_never_count_against_it():
    text_ME = np.array([[3, 0], [3, 0], [1, 0], [2, 1], [3, 2]], np.float32)
    _, v2t = retrieval_ranks(text_ME, np.eye(2, dtype=np.float32), [0, 0, 0, 1, 1])
    # Video 0: own 3 3 1, others 2 3, so only the 3 of video 1 ties. Video 1: own 1 2, others 0 0 0.
    assert counts(v2t) == [(0, 1), (0, 0)]


def test_one_caption_a_video_makes_v2t_the_transpose():
    text_ME, video_NE, order = integers(5, 15, 3), integers(6, 15, 3), captions(7, 15, 0)
    _, v2t = retrieval_ranks(text_ME, video_NE, order)
    assert counts(v2t) == counts(ranks(video_NE, text_ME, np.argsort(order)))


def test_numpy_and_torch_and_readonly_agree(recwarn):
    text_ME, video_NE, truth_M = integers(1, 9, 3), integers(2, 9, 3), captions(3, 9, 0)
    expected = retrieval_metrics(torch.tensor(text_ME, requires_grad=True), torch.tensor(video_NE), torch.tensor(truth_M))
    for array in (text_ME, video_NE, truth_M):
        array.flags.writeable = False
    assert retrieval_metrics(text_ME, video_NE, truth_M) == expected
    assert not recwarn.list


def test_scores_are_compared_in_fp32():
    a = 1.0 + 2.0**-40  # one in fp32
    assert counts(ranks(np.ones((1, 1)), np.array([[1.0], [a]]), [0])) == [(0, 1)]
    b = 1.0 + 2.0**-23  # the next number
    assert counts(ranks(np.ones((1, 1)), np.array([[1.0], [b]]), [0])) == [(1, 0)]


@pytest.mark.parametrize("index", [np.arange(8) % 2 == 0, torch.arange(8) % 2 == 0, [0, 2, 4, 6], slice(0, 8, 2)])
def test_a_part_of_the_ranks_is_still_against_the_whole_gallery(index):
    whole = ranks(integers(1, 8, 2), integers(2, 8, 2), np.arange(8))
    assert counts(whole[index]) == counts(whole)[::2]
    assert len(whole[3]) == 1


def test_groups_are_reported_apart_and_ranked_against_everything():
    text_ME, video_NE, video_of_text_M = integers(1, 14, 3), integers(2, 10, 3), captions(3, 10, 4)
    group_M = np.where(video_of_text_M < 4, "time_pairs", "ordinary")
    result = retrieval_metrics(text_ME, video_NE, video_of_text_M, group_M.tolist())
    t2v, v2t = retrieval_ranks(text_ME, video_NE, video_of_text_M)
    assert result == (
        retrieval_metrics(text_ME, video_NE, video_of_text_M)
        | t2v[group_M == "time_pairs"].metrics("time_pairs/t2v/")
        | t2v[group_M == "ordinary"].metrics("ordinary/t2v/")
        | v2t[:4].metrics("time_pairs/v2t/")
        | v2t[4:].metrics("ordinary/v2t/")
    )
    assert result["time_pairs/t2v/MnR"] != result["ordinary/t2v/MnR"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("function", [retrieval_metrics, lambda t, v, i: top_k(t, v, 2)])
def test_what_is_not_finite_is_an_error(bad, function):
    text_ME, video_NE = integers(1, 9, 3), integers(2, 9, 3)
    text_ME[[4, 7], 1] = bad
    with pytest.raises(ValueError, match="2 of 9 query rows, first row 4"):
        function(text_ME, video_NE, np.arange(9))
    with pytest.raises(ValueError, match="2 of 9 gallery rows, first row 4"):
        function(video_NE, text_ME, np.arange(9))


def test_scores_that_overflow_are_an_error(monkeypatch):
    monkeypatch.setattr(tiles, "ROWS", 2)
    query_QE = np.array([[1], [1], [1], [1e30]])
    with pytest.raises(ValueError, match="1 of 2 score rows, first row 3"):
        ranks(query_QE, query_QE, np.arange(4))


def test_wrong_labels_are_errors(monkeypatch):
    monkeypatch.setattr(tiles, "ROWS", 2)
    text_ME, video_NE = integers(1, 5, 3), integers(2, 4, 3)
    with pytest.raises(ValueError, match="5 x 4 scores, 1 x 4 labels"):
        ranks(text_ME, video_NE, [0])
    with pytest.raises(ValueError, match="5 x 4 scores, 5 x 3 labels"):
        ranks(text_ME, video_NE, [0, 1, 2, 3, 3], [0, 1, 2])
    for stranger in (4, -1):
        with pytest.raises(ValueError, match="query 3 has no true item"):
            ranks(text_ME, video_NE, [0, 1, 2, stranger, 3])
    with pytest.raises(ValueError, match="query 2 has no true item"):
        retrieval_metrics(text_ME, video_NE, [0, 1, 3, 3, 1])
    with pytest.raises(ValueError, match="no queries"):
        ranks(text_ME, video_NE, [0, 1, 2, 3, 3])[[False] * 5].metrics("empty/")


def test_pair_accuracy_by_hand():
    video_NE = np.array([[1, 0], [0, 1], [1, 1e-7], [1, 1e-5]], np.float64)
    text_ME = np.array([[2, 1], [2, 1], [0, 1], [0, 1], [5, 5]], np.float64)
    truth_M, opposite_M = [0, 1, 0, 3, 0], [1, 0, 2, 0, -1]  # won, lost, a tie (1e-7), won by 1e-5, left out
    assert pair_accuracy(text_ME, video_NE, truth_M, opposite_M) == pytest.approx(62.5)
    assert pair_accuracy(text_ME, video_NE, truth_M, opposite_M, tolerance=1e-4) == pytest.approx(50.0)
    assert pair_accuracy(text_ME, video_NE, truth_M, opposite_M, tolerance=0) == pytest.approx(50.0)
    assert pair_accuracy(text_ME[:1], video_NE, [0], [1], tolerance=1) == 50  # 2 - 1: at most the tolerance
    assert pair_accuracy(text_ME[:1], video_NE, [0], [1]) == 100
    assert pair_accuracy(text_ME[:1], video_NE, [1], [0]) == 0
    assert pair_accuracy(text_ME[:1], video_NE[[0, 0]], [0], [1], tolerance=0) == 50


@pytest.mark.parametrize("seed", SEEDS)
def test_pair_accuracy_equals_the_slow_loop(seed):
    text_ME, video_NE, truth_M = integers(seed, 10, 2), integers(seed + 50, 8, 2), captions(seed, 8, 2)
    opposite_M = np.where(truth_M < 6, truth_M ^ 1, -1)
    won = []
    for text_E, truth, opposite in zip(text_ME, truth_M, opposite_M, strict=True):
        if opposite >= 0:
            own, other = text_E @ video_NE[truth], text_E @ video_NE[opposite]
            won.append(1.0 if own > other else 0.5 if own == other else 0.0)
    assert pair_accuracy(text_ME, video_NE, truth_M, opposite_M) == pytest.approx(100 * np.mean(won))


def test_pair_accuracy_errors():
    text_ME, video_NE = np.ones((2, 1)), np.ones((3, 1))
    with pytest.raises(ValueError, match="no caption has an opposite"):
        pair_accuracy(text_ME, video_NE, [0, 1], [-1, -1])
    for truth_M, opposite_M in (([0, 3], [1, 1]), ([0, -1], [1, 1]), ([0, 1], [-2, -1]), ([0, 1], [3, -1])):
        with pytest.raises(ValueError, match="in a gallery of 3"):
            pair_accuracy(text_ME, video_NE, truth_M, opposite_M)
    with pytest.raises(ValueError, match="1 of 3 video rows, first row 2"):
        pair_accuracy(text_ME, np.array([[1], [1], [np.nan]]), [0, 1], [1, 0])


@pytest.mark.parametrize("seed", SEEDS)
def test_top_k_equals_a_sorted_list(seed):
    text_ME, video_NE = integers(seed, 6, 2), integers(seed + 30, 40, 2)
    scores_MK, indices_MK = top_k(text_ME, video_NE, 5)
    for row, scores_N in enumerate((text_ME @ video_NE.T).tolist()):
        expected = sorted(range(40), key=lambda n, s=scores_N: (-s[n], n))[:5]
        assert indices_MK[row].tolist() == expected
        assert scores_MK[row].tolist() == [scores_N[n] for n in expected]


def test_top_k_of_embeddings_with_gradients():
    text_ME = torch.ones(2, 1, requires_grad=True)
    assert top_k(text_ME, text_ME, 1)[0].tolist() == [[1], [1]]


def test_top_k_of_a_small_gallery_is_all_of_it():
    scores_MK, indices_MK = top_k(np.ones((2, 1)), np.array([[1.0], [3.0]]), 10)
    assert scores_MK.tolist() == [[3, 1], [3, 1]] and indices_MK.tolist() == [[1, 0], [1, 0]]
