"""The scores of M texts and N videos, tile by tile, so that what ranks them is found in one pass and little memory.

A tile is computed in fp32, and what is certain within the bound of its rounding is counted there. What is not is computed
again: a score is the fp64 dot product, rounded to fp32. So ranks and ties are those of scores that are all computed like that.

R rows and C columns of a tile; P pairs of a text and a video that belong together; Q queries of one of the directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vop.model.frozen import product

ROWS, COLS = 1024, 2048  # of a tile: what a matrix product needs to be fast, and about what a cache holds
AT_ONCE = 4096  # rows of embeddings, or pairs, in fp64
DENSE = 64  # where more than one of so many scores is needed, all are computed: a matrix product is so much cheaper
U = 2.0**-24  # the relative error of a rounding to fp32


@dataclass(frozen=True)
class Tile:
    """Scores [R, C] of some texts with some videos, and which of them are of pairs that belong together."""

    rows: slice
    cols: slice
    scores_RC: Tensor
    own: tuple[Tensor, Tensor]


class Scores:
    """The scores of two sets of embeddings, numpy or torch, which are computed on the GPU where there is one.

    exact: tiles hold the scores themselves; else each is within `slack` of its score. limit: no score is greater.
    Raises ValueError for embeddings and scores that are not finite.
    """

    def __init__(self, text_ME: Any, video_NE: Any, *, exact: bool = False) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.text_ME, self.video_NE = (as_tensor(x).to(device) for x in (text_ME, video_NE))
        self.limit = _longest("query", self.text_ME) * _longest("gallery", self.video_NE)
        # In fp64 too where fp32 would overflow, or where torch was told to compute matrix products in less than fp32.
        less = torch.get_float32_matmul_precision() != "highest" or torch.is_autocast_enabled(device)
        self.exact = exact or less or self.limit > 1e37
        # Of a sum of n products in any order: n U / (1 - n U) times the lengths (Higham, Accuracy and Stability of Numerical
        # Algorithms, 3.1); n has room for the rounding of the embeddings, of the score and of what it is compared with.
        n = self.text_ME.shape[1] + 8
        self.slack = 0.0 if self.exact else n * U / (1 - n * U) * self.limit + n * 2.0**-120

    def tiles(self, own: Own | None = None) -> Iterator[Tile]:
        """All tiles; those of the same columns come in a row, and columns from the first to the last."""
        dtype = torch.float64 if self.exact else torch.float32
        for col in range(0, len(self.video_NE), COLS):
            video_CE = self.video_NE[col : col + COLS].to(dtype)
            for row in range(0, len(self.text_ME), ROWS):
                scores_RC = product(self.text_ME[row : row + ROWS].to(dtype), video_CE).float()
                if self.limit > 1e37:
                    finite("score", scores_RC, row)
                place = slice(row, row + len(scores_RC)), slice(col, col + len(video_CE))
                yield Tile(*place, scores_RC, own.inside(*place) if own else (torch.empty(0, dtype=torch.int64),) * 2)

    def at(self, rows_P: Tensor, cols_P: Tensor) -> Tensor:
        """The scores themselves [P], fp32, of some pairs."""
        if not len(rows_P):
            return torch.zeros(0, device=self.text_ME.device)
        (top, bottom), (left, right) = ((int(x.min()), int(x.max()) + 1) for x in (rows_P, cols_P))
        if len(rows_P) * DENSE > (bottom - top) * (right - left):
            scores = self.text_ME[top:bottom].double() @ self.video_NE[left:right].double().T
            return scores[rows_P - top, cols_P - left].float()
        parts = zip(rows_P.split(AT_ONCE), cols_P.split(AT_ONCE), strict=True)
        dots = [torch.einsum("pe,pe->p", self.text_ME[r].double(), self.video_NE[c].double()) for r, c in parts]
        return torch.cat(dots).float()


class Own:
    """The P pairs that belong together, by row: where they are, and their scores. Raises ValueError for a query without one."""

    def __init__(self, scores: Scores, truth_M: Tensor, owner_N: Tensor) -> None:
        order_N = owner_N.argsort(stable=True)
        sorted_N = owner_N[order_N].contiguous()
        first_M, end_M = (torch.searchsorted(sorted_N, truth_M.contiguous(), right=right) for right in (False, True))
        count_M = end_M - first_M
        if not bool((count_M > 0).all()):
            raise ValueError(f"query {int((count_M == 0).int().argmax())} has no true item in the gallery")
        self.rows_P = torch.arange(len(truth_M), device=truth_M.device).repeat_interleave(count_M)
        within_P = torch.arange(len(self.rows_P), device=truth_M.device) - (count_M.cumsum(0) - count_M)[self.rows_P]
        self.cols_P = order_N[first_M[self.rows_P] + within_P]
        self.scores_P = scores.at(self.rows_P, self.cols_P)

    def queries(self, dim: int) -> Tensor:
        """Of each pair the query, where queries are rows (dim 1) or columns (dim 0)."""
        return self.rows_P if dim else self.cols_P

    def inside(self, rows: slice, cols: slice) -> tuple[Tensor, Tensor]:
        """Those of a tile, by their places in it."""
        bounds = torch.tensor([rows.start, rows.stop], device=self.rows_P.device)
        part = slice(*torch.searchsorted(self.rows_P, bounds).tolist())
        rows_P, cols_P = self.rows_P[part], self.cols_P[part]
        here_P = (cols_P >= cols.start) & (cols_P < cols.stop)
        return rows_P[here_P] - rows.start, cols_P[here_P] - cols.start

    def best(self, key_P: Tensor, dim: int, size: int) -> tuple[Tensor, Tensor]:
        """For each query the highest key of its pairs [Q], and which pair has it [Q]; ValueError for one without a pair."""
        query_P, places_P = self.queries(dim), torch.arange(len(key_P), device=key_P.device)
        best_Q = torch.full((size,), -torch.inf, dtype=key_P.dtype, device=key_P.device)
        best_Q = best_Q.scatter_reduce(0, query_P, key_P, "amax")
        place_Q = torch.full((size,), len(key_P), device=key_P.device)
        found_P = places_P.where(key_P == best_Q[query_P], len(key_P))
        place_Q = place_Q.scatter_reduce(0, query_P, found_P, "amin")
        if bool((place_Q == len(key_P)).any()):
            raise ValueError(f"query {int((place_Q == len(key_P)).int().argmax())} has no true item in the gallery")
        return best_Q, place_Q


class Counts:
    """Of each query, how many keys of items that are not its own are higher than its truth's, and how many are equal.

    truth_Q: the truth's key. key_at(rows, columns): exact keys of pairs. dim: 1 where queries are the rows, 0 where they are
    the columns.
    """

    def __init__(self, truth_Q: Tensor, key_at: Callable[[Tensor, Tensor], Tensor], dim: int) -> None:
        self.truth_Q, self.key_at, self.dim = truth_Q, key_at, dim
        self.higher_Q, self.ties_Q = (torch.zeros(len(truth_Q), dtype=torch.int64, device=truth_Q.device) for _ in range(2))

    def add(self, tile: Tile, bounds: tuple[Tensor, Tensor], thresholds: tuple[Tensor, Tensor], exact: bool = False) -> None:
        """Count a tile whose keys lie within `bounds` (both [R, C], changed here), `exact`: are the bounds.

        thresholds: both [Q]; above the second is what is surely higher than the truth, below the first what is surely lower.
        """
        (lower_RC, upper_RC), dim = bounds, self.dim
        queries = tile.rows if dim else tile.cols
        below, above = (t[queries].unsqueeze(dim) for t in thresholds)
        lower_RC[tile.own] = upper_RC[tile.own] = -torch.inf
        flags_RC = torch.empty_like(lower_RC)  # in floats: torch counts them ten times as fast as truth values
        higher = torch.gt(lower_RC, above, out=flags_RC).sum(dim).long()
        unsure = torch.ge(upper_RC, below, out=flags_RC).sum(dim).long() - higher
        self.higher_Q[queries] += higher
        if exact:
            self.ties_Q[queries] += unsure
        elif len(some := unsure.nonzero().squeeze(1)):
            lower, upper, below, above = (x.movedim(dim, 1)[some] for x in (lower_RC, upper_RC, below, above))
            self._resolve(tile, some, (upper >= below) & ~(lower > above))

    def _resolve(self, tile: Tile, some: Tensor, near: Tensor) -> None:
        """Count what is near the truth, by its exact key; `near`: a row for each of some queries of the tile."""
        query, item = (x.flatten() for x in where(near))
        query = some[query]
        row, col = (query, item) if self.dim else (item, query)
        key = self.key_at(row + tile.rows.start, col + tile.cols.start)
        query = query + (tile.rows.start if self.dim else tile.cols.start)
        for counts_Q, found in ((self.higher_Q, key > self.truth_Q[query]), (self.ties_Q, key == self.truth_Q[query])):
            counts_Q += torch.bincount(query[found], minlength=len(counts_Q))


class RawCounts(Counts):
    """`Counts` by the scores themselves. Spoils a tile's scores of own pairs, so it comes after all that reads them."""

    def __init__(self, scores: Scores, own: Own, dim: int) -> None:
        size = len(scores.text_ME if dim else scores.video_NE)
        super().__init__(own.best(own.scores_P, dim, size)[0], scores.at, dim)
        self.exact = scores.exact
        slack = torch.tensor(scores.slack, dtype=torch.float64)
        self.thresholds = (self.truth_Q - slack).float(), (self.truth_Q + slack).float()

    def take(self, tile: Tile) -> None:
        """Count a tile."""
        self.add(tile, (tile.scores_RC, tile.scores_RC), self.thresholds, self.exact)


class Best:
    """Of each text the k best videos: their scores and places, both [M, k], best first, equal ones in the gallery's order."""

    def __init__(self, scores: Scores, k: int) -> None:
        self.scores, self.k = scores, min(k, len(scores.video_NE))
        shape, device = (len(scores.text_ME), self.k), scores.text_ME.device
        self.scores_MK = torch.full(shape, -torch.inf, device=device)
        self.places_MK = torch.full(shape, -1, device=device)

    def take(self, tile: Tile) -> None:
        """Take what is better than the worst so far, for which the first tile stands where there is none yet."""
        slack, k = self.scores.slack, self.k
        if not k:
            return
        floor_R = self.scores_MK[tile.rows, -1]
        if tile.cols.start == 0 and tile.scores_RC.shape[1] >= k:
            floor_R = tile.scores_RC.topk(k).values[:, -1] - slack
        row, col = where(tile.scores_RC >= (floor_R - slack)[:, None])
        some, row = row.unique(return_inverse=True)
        if not len(some):
            return
        exact = self.scores.exact
        found = tile.scores_RC[some[row], col] if exact else self.scores.at(some[row] + tile.rows.start, col + tile.cols.start)
        here = some + tile.rows.start
        row = torch.cat([torch.arange(len(some), device=row.device).repeat_interleave(k), row])
        found = torch.cat([self.scores_MK[here].flatten(), found])
        place = torch.cat([self.places_MK[here].flatten(), col + tile.cols.start])
        order = found.argsort(descending=True, stable=True)  # stable: earlier places before later ones
        order = order[row[order].argsort(stable=True)]
        count = torch.bincount(row)
        order = order[(count.cumsum(0) - count)[:, None] + torch.arange(k, device=row.device)]
        self.scores_MK[here], self.places_MK[here] = found[order], place[order]


def where(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of what is true, in order."""
    if mask.is_cuda:
        row, col = mask.nonzero(as_tuple=True)
        return row, col
    flat = torch.from_numpy(np.flatnonzero(mask.numpy()))  # numpy is ten times as fast as torch where few are true
    return flat // mask.shape[1], flat % mask.shape[1]


def as_tensor(x: Any) -> Tensor:
    """An array or sequence as a tensor without gradient; not copied where that can be."""
    if isinstance(x, Tensor):
        return x.detach()
    x = np.asarray(x)
    return torch.from_numpy(x) if x.flags.writeable and min(x.strides, default=0) >= 0 else torch.tensor(x)


def _longest(name: str, x_RE: Tensor) -> float:
    """The length of the longest row; all must be finite."""
    lengths = [torch.linalg.vector_norm(part.double(), dim=1) for part in x_RE.split(AT_ONCE)]
    finite(name, torch.cat(lengths)[:, None])
    return max((float(part.max()) for part in lengths if len(part)), default=0.0)


def finite(name: str, x_RC: Tensor, start: int = 0) -> Tensor:
    """The same; ValueError where a row of it is not finite."""
    bad_R = ~x_RC.isfinite().all(1)
    if bad_R.any():
        first = start + int(bad_R.int().argmax())
        raise ValueError(f"not finite: {int(bad_R.sum())} of {len(x_RC)} {name} rows, first row {first}")
    return x_RC
