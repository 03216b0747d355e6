"""`Scores` of the rows that a head keeps (`vop/model/head.py`): dot products as ever, or the head's own, in bounded chunks."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vop.model.head import Head
from vop.scores.tiles import AT_ONCE, COLS, ROWS, Own, Scores, Tile, as_tensor, finite

HELD = 2**23  # numbers in fp64 that a chunk holds at once: 64 MiB
TOGETHER = 32  # pairs that stand apart are scored in squares of so many, of which the diagonal is kept


def scores_of(text_MS: Any, video_NR: Any, head: Head | None = None, *, exact: bool = False) -> Scores:
    """The scores of two sets of rows; without a head, or with one whose `dot` is true, dot products. Raises as `Scores`."""
    return Scores(text_MS, video_NR, exact=exact) if head is None or head.dot else HeadScores(text_MS, video_NR, head)


def all_scores(text_MS: Any, video_NR: Any, head: Head) -> Tensor:
    """All scores [M, N] of a head that has its own, fp32."""
    scores = HeadScores(text_MS, video_NR, head)
    scores_MN = torch.empty(len(scores.text_ME), len(scores.video_NE))
    for tile in scores.tiles():
        scores_MN[tile.rows, tile.cols] = tile.scores_RC.cpu()
    return scores_MN


class HeadScores(Scores):
    """Scores that a head computes from its rows: always in fp64, rounded to fp32, so that what is equal ties."""

    def __init__(self, text_MS: Any, video_NR: Any, head: Head) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.text_ME, self.video_NE = (as_tensor(x).to(device) for x in (text_MS, video_NR))
        for name, rows in (("query", self.text_ME), ("gallery", self.video_NE)):
            count = max(1, min(AT_ONCE, HELD // rows.shape[1]))
            for start in range(0, len(rows), count):
                finite(name, rows[start : start + count], start)
        self.head = copy.deepcopy(head).requires_grad_(False).to(device, torch.float64).eval()
        self.limit, self.exact, self.slack = self.head.limit, True, 0.0

    def tiles(self, own: Own | None = None) -> Iterator[Tile]:
        """All tiles, in the order of `Scores.tiles`."""
        cols = max(1, min(COLS, HELD // self.video_NE.shape[1]))
        for col in range(0, len(self.video_NE), cols):
            video_CR = self.video_NE[col : col + cols]
            for row in range(0, len(self.text_ME), ROWS):
                scores_RC = self._block(self.text_ME[row : row + ROWS], video_CR)
                place = slice(row, row + len(scores_RC)), slice(col, col + len(video_CR))
                yield Tile(*place, scores_RC, own.inside(*place) if own else (torch.empty(0, dtype=torch.int64),) * 2)

    def at(self, rows_P: Tensor, cols_P: Tensor) -> Tensor:
        """The scores [P] of some pairs."""
        if not len(rows_P):
            return torch.zeros(0, device=self.text_ME.device)
        (top, bottom), (left, right) = ((int(x.min()), int(x.max()) + 1) for x in (rows_P, cols_P))
        if len(rows_P) * TOGETHER > (bottom - top) * (right - left):
            return self._block(self.text_ME[top:bottom], self.video_NE[left:right])[rows_P - top, cols_P - left]
        found = []
        for row, col in zip(rows_P.split(TOGETHER), cols_P.split(TOGETHER), strict=True):
            (rows, row), (cols, col) = (x.unique(return_inverse=True) for x in (row, col))
            found.append(self._block(self.text_ME[rows], self.video_NE[cols])[row, col])
        return torch.cat(found)

    def _block(self, text_RS: Tensor, video_CR: Tensor) -> Tensor:
        """Scores [R, C], fp32, of so many texts at a time as memory is meant for."""
        video_CR = video_CR.double()
        chunk = max(1, HELD // (len(video_CR) * self.head.numbers_per_pair(text_RS.shape[1])))
        parts = [self.head.scores(part.double(), video_CR).float() for part in text_RS.split(chunk)]
        return finite("score", torch.cat(parts))
