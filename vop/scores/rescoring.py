"""Scores corrected with knowledge that a single query does not have: dual softmax and QB-Norm.

Never the headline: both are reported beside the raw scores, under names of their own, with what they assume.

- Dual softmax (DSL; Cheng et al., CAMoE, arXiv 2109.04290): score S[q, g] times softmax(scale * S) over the *queries* q.
  It assumes that all queries of the test are known at once, and so that each gallery item is wanted by few of them;
  where each has exactly one (MSR-VTT and its like), that gives away part of the answer.
- QB-Norm (Bogolin et al., "Cross Modal Retrieval with Querybank Normalisation", CVPR 2022), with its dynamic inverted
  softmax: exp(beta * S[q, g]) divided by the sum of exp(beta * S[b, g]) over a bank b of training captions, for those
  queries alone whose best item is a hub: the best of some query in the bank. It assumes that training captions are at
  hand at search time and meet the same hubs; of the test it uses no other query. For text-to-video only: video-to-text
  would need a bank of training videos.

Shapes as in `vop/scores/tiles.py`; G gallery items, Q queries, B captions in the bank.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vop.model.head import Head
from vop.scores.heads import scores_of
from vop.scores.ranks import Array, Ranks, own_pairs, ranks_of
from vop.scores.tiles import Best, Counts, Own, RawCounts, Scores, Tile, U

NAMES = ("dsl", "qbnorm")
SCALE = 100.0  # CLIP's logit scale: the temperature at which DSL is used with CLIP
BETA = 20.0  # QB-Norm's published inverse temperature, for cosines


@dataclass(frozen=True, eq=False)
class Comparison:
    """Of M texts and N videos: ranks both ways, scores and places of each text's best videos [M, k], ranks by corrected scores.

    rescored: "dsl/t2v", "dsl/v2t" and, with a bank of training captions, "qbnorm/t2v"; bank: how many captions are in it.
    """

    t2v: Ranks
    v2t: Ranks
    best_scores_MK: NDArray[np.float32]
    best_MK: NDArray[np.int64]
    rescored: dict[str, Ranks]
    bank: int

    def rescored_metrics(self) -> dict[str, float]:
        """`Ranks.metrics` of them, flat: "dsl/t2v/R1", ...; "qbnorm/bank" is the number of captions in the bank."""
        result = {key: value for name, r in self.rescored.items() for key, value in r.metrics(f"{name}/").items()}
        return result | ({"qbnorm/bank": float(self.bank)} if self.bank else {})


def compare(
    text_ME: Array,
    video_NE: Array,
    video_of_text_M: Array,
    bank_BE: Array | None = None,
    head: Head | None = None,
    *,
    top: int = 0,
    scale: float = SCALE,
    beta: float = BETA,
) -> Comparison:
    """All that an evaluation says of M texts, each of one of N videos, in two passes over their scores.

    The first computes them all in fp64, because the sums decide between keys that lie as near as rounding; the second ranks by
    corrected scores. bank_BE: training captions; head: as in `ranks.py`; scale, beta: of DSL and of QB-Norm. Raises as
    `ranks`.
    """
    scores = scores_of(text_ME, video_NE, head, exact=True)
    own = own_pairs(scores, video_of_text_M)
    bank = QueryBank(bank_BE, video_NE, beta, head) if bank_BE is not None and len(bank_BE) else None
    best, sums, highest = Best(scores, top), Sums(scores, scale), RowMax(scores, None if bank is None else bank.hub_G)
    t2v, v2t = RawCounts(scores, own, 1), RawCounts(scores, own, 0)
    for tile in scores.tiles(own):
        for part in (best, sums, highest, t2v, v2t):
            part.take(tile)
    scores = scores_of(text_ME, video_NE, head)
    dual = DualSoftmax(scores, own, sums)
    normed = None if bank is None else QuerybankNorm(scores, own, bank, highest)
    for tile in scores.tiles(own):
        dual.take(tile)
        if normed is not None:
            normed.take(tile)
    rescored = {"dsl/t2v": dual.t2v.counts, "dsl/v2t": dual.v2t.counts} | (
        {} if normed is None else {"qbnorm/t2v": normed.counts}
    )
    return Comparison(
        ranks_of(t2v),
        ranks_of(v2t),
        best.scores_MK.cpu().numpy(),
        best.places_MK.cpu().numpy(),
        {name: ranks_of(counts) for name, counts in rescored.items()},
        0 if bank_BE is None else len(bank_BE),
    )


class Sums:
    """Logarithms, in fp64, of sums of exp(scale * score): for each video over the texts [N], for each text over the videos [M].

    It needs exact scores: the sums decide between keys that lie as near as rounding.
    """

    def __init__(self, scores: Scores, scale: float) -> None:
        assert scores.exact
        self.scale, self.shift = scale, scale * scores.limit
        sizes, device = (len(scores.video_NE), len(scores.text_ME)), scores.text_ME.device
        self.low = torch.tensor(-self.shift, dtype=torch.float64, device=device)
        self.total_N, self.total_M = (torch.full((n,), -torch.inf, dtype=torch.float64, device=device) for n in sizes)

    def take(self, tile: Tile) -> None:
        """Add a tile."""
        if self.shift < 300:  # one exp for both directions, and none comes near fp64's limits of 700
            scaled_RC = torch.add(self.low, tile.scores_RC.double(), alpha=self.scale).exp_()
            of_C, of_R = (scaled_RC.sum(dim).log_() + self.shift for dim in (0, 1))
        else:
            of_C, of_R = ((tile.scores_RC.double() * self.scale).logsumexp(dim) for dim in (0, 1))
        self.total_N[tile.cols] = torch.logaddexp(self.total_N[tile.cols], of_C)
        self.total_M[tile.rows] = torch.logaddexp(self.total_M[tile.rows], of_R)


class DualSoftmax:
    """Ranks by dual softmax, of a second pass: `t2v` and `v2t`.

    With the truth t of a query, the product S[g] * exp(scale * (S[g] - S[t]) - total[g] + total[t]) is compared with S[t]: the
    same order as that of the key, which has no exp that is out of bounds.
    """

    def __init__(self, scores: Scores, own: Own, sums: Sums) -> None:
        self.scale, self.slack = sums.scale, scores.slack
        # Of the exponent, in fp32: six roundings of numbers that are no greater than this.
        greatest = 4 * self.scale * scores.limit + 2 * float(max(sums.total_N.abs().max(), sums.total_M.abs().max()))
        self.relative = 2 * (self.scale * self.slack + 10 * U * (greatest + 1))
        self.t2v, self.v2t = (_Direction(scores, own, sums, dim) for dim in (1, 0))

    def take(self, tile: Tile) -> None:
        """Count a tile."""
        scores_RC = tile.scores_RC
        scaled_RC, error_RC = scores_RC * self.scale, scores_RC.abs().mul_(self.relative).add_(self.slack)
        lower_RC, upper_RC = scores_RC - error_RC, error_RC.add_(scores_RC)
        self.t2v.take(tile, scaled_RC, lower_RC, upper_RC)
        self.v2t.take(tile, scaled_RC, lower_RC, upper_RC)


class _Direction:
    """One direction of it: queries are rows (dim 1) or columns (dim 0)."""

    def __init__(self, scores: Scores, own: Own, sums: Sums, dim: int) -> None:
        self.dim, self.total_G = dim, sums.total_N if dim else sums.total_M

        def key(scores_P: Tensor, row_P: Tensor, col_P: Tensor) -> Tensor:
            return _dual_softmax(scores_P, self.total_G[col_P if dim else row_P], sums.scale)

        own_P = key(own.scores_P, own.rows_P, own.cols_P)
        truth_Q, pair_Q = own.best(own_P, dim, len(sums.total_M if dim else sums.total_N))
        truth_score_Q = own.scores_P[pair_Q].double()
        item_Q = (own.cols_P if dim else own.rows_P)[pair_Q]
        self.counts = Counts(truth_Q, lambda row_P, col_P: key(scores.at(row_P, col_P), row_P, col_P), dim)
        self.shift_Q = (self.total_G[item_Q] - sums.scale * truth_score_Q).float()
        self.thresholds = (truth_score_Q - TINY).float(), (truth_score_Q + TINY).float()
        self.total = self.total_G.float()

    def take(self, tile: Tile, scaled_RC: Tensor, lower_RC: Tensor, upper_RC: Tensor) -> None:
        queries, items = (tile.rows, tile.cols) if self.dim else (tile.cols, tile.rows)
        weight_RC = scaled_RC - self.total[items].unsqueeze(1 - self.dim)
        weight_RC.add_(self.shift_Q[queries].unsqueeze(self.dim)).clamp_(-LOWEST, HIGHEST).exp_()
        self.counts.add(tile, (lower_RC * weight_RC, weight_RC.mul_(upper_RC)), self.thresholds)


# The exponents between which a product is computed, and what a truth's score must exceed for all below to be less.
LOWEST, HIGHEST, TINY = 60.0, 80.0, 1e-20


def _dual_softmax(scores_P: Tensor, total_P: Tensor, scale: float) -> Tensor:
    """The key by which DSL ranks: S * softmax(...) in logarithms, because the products are too small to compare as such."""
    # Negative scores keep their order under their sign; `above` is more than any of the logarithms is below 0.
    above, scores_P = 2 * scale + 120, scores_P.double()
    log_P = scores_P.abs().log() + scale * scores_P - total_P
    return _rounded(torch.where(scores_P == 0, 0.0, scores_P.sign() * (log_P + above)))


class QueryBank:
    """What QB-Norm knows of a gallery from its bank: the sums over the bank, and which items are hubs."""

    def __init__(self, bank_BE: Array, gallery_GE: Array, beta: float, head: Head | None = None) -> None:
        if not len(bank_BE):
            raise ValueError("QB-Norm needs at least one caption in its bank")
        scores = scores_of(bank_BE, gallery_GE, head, exact=True)
        sums, best = Sums(scores, beta), RowMax(scores)
        for tile in scores.tiles():
            sums.take(tile)
            best.take(tile)
        self.normal_G = sums.total_N / beta
        self.hub_G = torch.zeros(len(scores.video_NE), dtype=torch.bool, device=self.normal_G.device)
        for tile in scores.tiles():
            self.hub_G[tile.cols] |= (tile.scores_RC == best.all_M[tile.rows, None]).any(0)


class RowMax:
    """Of each text its highest score [M], and its highest with a hub; they are equal where its best video is one."""

    def __init__(self, scores: Scores, hub_N: Tensor | None = None) -> None:
        self.hub_N = hub_N
        self.all_M, self.hubs_M = (
            torch.full((len(scores.text_ME),), -torch.inf, device=scores.text_ME.device) for _ in range(2)
        )

    def take(self, tile: Tile) -> None:
        """Look at a tile."""
        self.all_M[tile.rows] = torch.maximum(self.all_M[tile.rows], tile.scores_RC.amax(1))
        if self.hub_N is not None and self.hub_N[tile.cols].any():
            of_hubs = tile.scores_RC[:, self.hub_N[tile.cols]].amax(1)
            self.hubs_M[tile.rows] = torch.maximum(self.hubs_M[tile.rows], of_hubs)


class QuerybankNorm:
    """Ranks by QB-Norm, of a second pass; `bank` as a first pass with `RowMax` used it."""

    def __init__(self, scores: Scores, own: Own, bank: QueryBank, best: RowMax) -> None:
        self.freed_M, self.normal_N = best.all_M == best.hubs_M, bank.normal_G

        def key(scores_P: Tensor, row_P: Tensor, col_P: Tensor) -> Tensor:
            return _rounded(scores_P.double() - self.normal_N[col_P] * self.freed_M[row_P])

        truth_M, _ = own.best(key(own.scores_P, own.rows_P, own.cols_P), 1, len(self.freed_M))
        self.counts = Counts(truth_M, lambda row_P, col_P: key(scores.at(row_P, col_P), row_P, col_P), 1)
        slack = scores.slack + 1e-9 + 8 * U * (scores.limit + float(self.normal_N.abs().max()))
        self.thresholds = (truth_M - slack).float(), (truth_M + slack).float()
        self.factor_M, self.normal = self.freed_M.float(), self.normal_N.float()

    def take(self, tile: Tile) -> None:
        """Count a tile."""
        key_RC = torch.addcmul(tile.scores_RC, self.factor_M[tile.rows, None], self.normal[tile.cols], value=-1)
        self.counts.add(tile, (key_RC, key_RC), self.thresholds)


def _rounded(key_P: Tensor) -> Tensor:
    """Equal items must tie: sums over queries may differ in their last bits."""
    return key_P.round(decimals=9)
