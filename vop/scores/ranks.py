"""Retrieval metrics, fair to tied scores (the rule: method, section 2), in one pass over tiles of the scores.

Q queries, G gallery items, M captions, N videos, E joint embedding. Embeddings are L2-normalized, numpy or torch, on any
device; scores are dot products, on the GPU where there is one (`vop/scores/tiles.py`). With a `head` they are the rows that it
keeps, and scores are the head's (`vop/scores/heads.py`). Results are numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vop.model.head import Head
from vop.scores.heads import scores_of
from vop.scores.tiles import Best, Counts, Own, RawCounts, Scores, as_tensor, finite

Array = Tensor | NDArray[Any] | Sequence[Any]


@dataclass(frozen=True, eq=False)
class Ranks:
    """Per query, how many items scored strictly higher than the truth, how many others the same; int64 [Q].

    `ranks[mask_Q]` or `ranks[indices]` are those of some queries, each still against the whole gallery.
    """

    higher_Q: NDArray[np.int64]
    ties_Q: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.higher_Q)

    def __getitem__(self, queries: Any) -> Ranks:
        return Ranks(np.atleast_1d(self.higher_Q[queries]), np.atleast_1d(self.ties_Q[queries]))

    @property
    def rank(self) -> NDArray[np.float64]:
        """[Q], from 1: the expected rank over random orders of the tied items, so it may end in .5."""
        return 1 + self.higher_Q + self.ties_Q / 2

    def hit(self, k: int) -> NDArray[np.float64]:
        """[Q], in 0..1: the probability that the truth is in the top k when ties are put in random order."""
        return self._gained(np.ones(k))

    def _gained(self, gain_K: NDArray[np.float64]) -> NDArray[np.float64]:
        """[Q]: the mean of a gain of each rank, none after the Kth, over random orders of the tied items."""
        total = np.concatenate([[0.0], np.cumsum(gain_K)])
        first_Q, last_Q = (np.minimum(rank_Q, len(gain_K)) for rank_Q in (self.higher_Q, self.higher_Q + self.ties_Q + 1))
        gained_Q: NDArray[np.float64] = (total[last_Q] - total[first_Q]) / (self.ties_Q + 1)
        return gained_Q

    def gains(self, prefix: str = "") -> dict[str, float]:
        """nDCG10 and MAP, in percent, of queries with one true item each, as MTEB and trec_eval have them (MAP is then MRR)."""
        places = np.arange(1, (self.higher_Q + self.ties_Q).max() + 2)
        gained = {"nDCG10": 1 / np.log2(places[:10] + 1), "MAP": 1 / places}
        return {f"{prefix}{name}": 100 * float(self._gained(gain_K).mean()) for name, gain_K in gained.items()}

    def metrics(self, prefix: str = "") -> dict[str, float]:
        """R1, R5, R10 (percent), MdR, MnR (ranks, from 1), queries (a count). ValueError for none."""
        if not len(self):
            raise ValueError(f"{prefix}metrics of no queries")
        recall = {f"{prefix}R{k}": 100 * float(self.hit(k).mean()) for k in (1, 5, 10)}
        middle = {f"{prefix}MdR": float(np.median(self.rank)), f"{prefix}MnR": float(self.rank.mean())}
        return recall | middle | {f"{prefix}queries": len(self)}


def ranks(query_QE: Array, gallery_GE: Array, truth_Q: Array, owner_G: Array | None = None) -> Ranks:
    """Rank the truth of each query among all gallery items.

    truth_Q: int [Q], the index of the true item; or, with `owner_G` (int [G]), the label its true items carry
    there. Of several true items the best counts; the others never count against it, not even as ties. Raises ValueError for
    lengths that disagree, for a query without a true item and for scores that are not finite.
    """
    scores = Scores(query_QE, gallery_GE)
    own = own_pairs(scores, truth_Q, owner_G)
    counts = RawCounts(scores, own, 1)
    for tile in scores.tiles(own):
        counts.take(tile)
    return ranks_of(counts)


def retrieval_ranks(text_ME: Array, video_NE: Array, video_of_text_M: Array, head: Head | None = None) -> tuple[Ranks, Ranks]:
    """Ranks of each caption's video (t2v, M queries) and of each video's best caption (v2t, N queries).

    video_of_text_M: int [M], the video of each caption. v2t competes with the captions of other videos only.
    Raises as `ranks`, so also for a video without a caption.
    """
    scores = scores_of(text_ME, video_NE, head)
    own = own_pairs(scores, video_of_text_M)
    t2v, v2t = RawCounts(scores, own, 1), RawCounts(scores, own, 0)
    for tile in scores.tiles(own):
        t2v.take(tile)
        v2t.take(tile)
    return ranks_of(t2v), ranks_of(v2t)


def own_pairs(scores: Scores, truth_Q: Array, owner_G: Array | None = None) -> Own:
    """The true items of each query, given as in `ranks`."""
    queries, items = len(scores.text_ME), len(scores.video_NE)
    truth, owner = as_tensor(truth_Q), as_tensor(range(items) if owner_G is None else owner_G)
    if (len(truth), len(owner)) != (queries, items):
        raise ValueError(f"{queries} x {items} scores, {len(truth)} x {len(owner)} labels")
    device = scores.text_ME.device
    return Own(scores, truth.to(device), owner.to(device))


def ranks_of(counts: Counts) -> Ranks:
    """What was counted, as `Ranks`."""
    return Ranks(counts.higher_Q.cpu().numpy(), counts.ties_Q.cpu().numpy())


def retrieval_metrics(
    text_ME: Array, video_NE: Array, video_of_text_M: Array, group_M: Array | None = None
) -> dict[str, float]:
    """`Ranks.metrics` of both directions, flat: "t2v/R1" to "t2v/queries", "v2t/R1" to "v2t/queries"; "t2v/nDCG10", "t2v/MAP".

    group_M: a name for each caption; adds "<name>/t2v/..." over its captions and "<name>/v2t/..." over their
    videos, each still ranked against everything. Raises as `ranks`.
    """
    return grouped_metrics(*retrieval_ranks(text_ME, video_NE, video_of_text_M), video_of_text_M, group_M)


def grouped_metrics(t2v: Ranks, v2t: Ranks, video_of_text_M: Array, group_M: Array | None = None) -> dict[str, float]:
    """`retrieval_metrics` of ranks that are known."""
    result = t2v.metrics("t2v/") | v2t.metrics("v2t/") | t2v.gains("t2v/")
    names_M = np.asarray([] if group_M is None else group_M)
    for name in np.unique(names_M):
        member_M = names_M == name
        videos = np.unique(as_tensor(video_of_text_M).cpu().numpy()[member_M])
        result |= t2v[member_M].metrics(f"{name}/t2v/") | v2t[videos].metrics(f"{name}/v2t/")
    return result


def pair_accuracy(
    text_ME: Array,
    video_NE: Array,
    truth_M: Array,
    opposite_M: Array,
    tolerance: float = 1e-6,
    head: Head | None = None,
) -> float:
    """Percent of captions that score higher with their own video than with its opposite; chance is 50.

    truth_M, opposite_M: int [M], videos; the opposite is the same clip reversed in time, -1 for none (left
    out). Scores at most `tolerance` apart are a tie and count one half. Raises ValueError when no caption has
    an opposite, for an index outside the gallery and for embeddings that are not finite.
    """
    text_ME, video_NE = (finite(name, as_tensor(x).cpu()) for name, x in (("text", text_ME), ("video", video_NE)))
    truth_M, opposite_M = as_tensor(truth_M).cpu(), as_tensor(opposite_M).cpu()
    paired_M = opposite_M != -1
    if not paired_M.any():
        raise ValueError("no caption has an opposite video")
    pairs = torch.stack([truth_M, opposite_M])[:, paired_M]
    if pairs.min() < 0 or pairs.max() >= len(video_NE):
        raise ValueError(f"videos {int(pairs.min())} to {int(pairs.max())}, in a gallery of {len(video_NE)}")
    if head is None or head.dot:
        own_M, other_M = (text_ME[paired_M].double() * video_NE[pairs].double()).sum(-1)
    else:
        scores, rows_M = scores_of(text_ME, video_NE, head), paired_M.nonzero().squeeze(1)
        own_M, other_M = (scores.at(rows_M, cols_M).double().cpu() for cols_M in pairs)
    margin_M = (own_M - other_M).where((own_M - other_M).abs() > tolerance, 0.0)
    return 50 * (1 + float(margin_M.sign().mean()))


def top_k(text_ME: Array, video_NE: Array, k: int, head: Head | None = None) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scores and indices of each caption's k best videos (all, if there are fewer), both [M, k], best first.

    Equal scores come in the order of the gallery. Raises ValueError for scores that are not finite.
    """
    scores = scores_of(text_ME, video_NE, head)
    best = Best(scores, k)
    for tile in scores.tiles():
        best.take(tile)
    return best.scores_MK.cpu().numpy(), best.places_MK.cpu().numpy()
