"""Cosines of a query with the windows of an index: all of them, or in a large index those that may be among the best.

N windows of all videos, E joint embedding.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vop.index.near import CANDIDATES, EXACT, Graph, graphs_of, keys_of, library
from vop.index.table import PARTS, Table, read_numbers
from vop.places import join

logger = logging.getLogger(__name__)
GROWN, BESIDE = 50, 20  # so many best windows, and those on each side of them, are scored: moments grow at most so far
SAMPLE = 1000  # windows of a large index that are scored for every query, to know what a typical score is
FEW_ROWS = 2**13
AT_ONCE = 2**15  # windows whose embeddings are made float32 together


class Cosines:
    """The embeddings of an index's windows, read at the first query.

    contents: in the order of their windows; video_N: the place among them of each window's.
    """

    def __init__(self, table: Table, contents: Sequence[str], video_N: NDArray[np.int64]) -> None:
        self.table, self.contents, self.video_N = table, contents, video_N

    def __len__(self) -> int:
        return len(self.video_N)

    @cached_property
    def vectors(self) -> NDArray[np.floating[Any]]:
        """The windows' unit embeddings [N, E], float32, of a large index float16; NaN for those of a part that is damaged."""
        found = read_numbers(self.table, "vectors", self.contents)
        tell_damaged(self.table)
        vector_NE = np.full((len(self), self.table.manifest.width), np.nan, np.float32 if self._exact else np.float16)
        first = 0
        for content in self.contents:
            stop = first + len(self.table.held[content].end_N)
            vector_NE[first:stop] = found.pop(content, np.nan)
            first = stop
        return vector_NE

    @cached_property
    def graphs(self) -> list[Graph]:
        """What approximate search asks; none where an exact one is done."""
        found = [] if self._exact or library() is None else graphs_of(self.table.folder)
        for graph in list(found):
            try:
                _ = graph.opened
            except (OSError, ValueError, RuntimeError) as error:
                logger.warning("%s is damaged (%s): search is exact; vop index mends it", graph.place, error)
                found.remove(graph)
        return found

    @property
    def _exact(self) -> bool:
        return len(self) <= EXACT

    def of(self, vector_E: NDArray[np.float32], wanted_N: NDArray[np.bool_], asked: int = CANDIDATES) -> NDArray[np.float32]:
        """[N], exact where computed; -inf for what is not wanted or lost.

        Of a large index all but these too: the `asked` windows that each graph names, what is beside the best of them, what no
        graph covers, and a sample of all.
        """
        vector_NE = self.vectors
        if self._exact:
            return np.where(wanted_N, np.nan_to_num(vector_NE @ vector_E, nan=-np.inf), -np.inf).astype(np.float32)
        score_N = np.full(len(self), -np.inf, np.float32)

        def score(place_M: NDArray[np.int64]) -> None:
            place_M = place_M[wanted_N[place_M]]
            for part in np.array_split(place_M, 1 + len(place_M) // AT_ONCE):
                score_N[part] = np.nan_to_num(_dots(vector_NE[part].astype(np.float32), vector_E), nan=-np.inf)

        if not self.graphs or np.count_nonzero(wanted_N) <= EXACT:
            score(np.arange(len(self)))
            return score_N
        place_S, sample_SE = self._sample
        score_N[place_S] = np.where(wanted_N[place_S], np.nan_to_num(_dots(sample_SE, vector_E), nan=-np.inf), -np.inf)
        named_M = self._named(vector_E, asked)
        score(np.concatenate([named_M, self._uncovered]))
        best = named_M[np.argsort(-score_N[named_M], kind="stable")[:GROWN]]
        score(np.unique(np.clip(best[:, None] + np.arange(-BESIDE, BESIDE + 1), 0, len(self) - 1)))
        return score_N

    def typical(self, score_N: NDArray[np.float32]) -> float:
        """The median of the scores that `of` gave, in a large index of a sample."""
        known = score_N if self._exact else score_N[self._sample[0]]
        known = known[np.isfinite(known)]
        return float(np.median(known)) if len(known) else -1.0

    def _named(self, vector_E: NDArray[np.float32], asked: int) -> NDArray[np.int64]:
        """The places of the windows that the graphs name."""
        named = np.concatenate([graph.nearest(vector_E, asked) for graph in self.graphs])
        place = np.minimum(np.searchsorted(self._keys, named), len(self) - 1)
        return np.asarray(place[self._keys[place] == named])

    @cached_property
    def _sample(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Windows of a large index that are scored for every query: their places, and their embeddings."""
        place_S = np.arange(0, len(self), max(1, len(self) // SAMPLE))
        return place_S, self.vectors[place_S].astype(np.float32)

    @cached_property
    def _keys(self) -> NDArray[np.uint64]:
        """What graphs call the windows; they rise."""
        return np.concatenate([keys_of(self.table.held[content]) for content in self.contents])

    @cached_property
    def _uncovered(self) -> NDArray[np.int64]:
        """The places of the windows that no graph has."""
        held = [self.table.held[content] for content in self.contents]
        without_V = np.array([not any(graph.covers(each) for graph in self.graphs) for each in held])
        return np.flatnonzero(without_V[self.video_N])


def tell_damaged(table: Table) -> None:
    """Name the damaged parts of an index, each once."""
    for name in sorted(table.damaged.keys() - table.told):
        table.told.add(name)
        place = join(table.folder, PARTS, name)
        logger.warning("%s is damaged (%s): its videos are left out; vop index mends it", place, table.damaged[name])


def _dots(vector_ME: NDArray[np.float32], vector_E: NDArray[np.float32]) -> NDArray[np.float32]:
    """[M]. A few rows on one thread: those of BLAS would cost more than they spare."""
    if len(vector_ME) < FEW_ROWS:
        return np.asarray(np.einsum("me,e->m", vector_ME, vector_E))
    return np.asarray(vector_ME @ vector_E)
