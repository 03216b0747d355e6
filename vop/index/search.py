"""Index: an index of `vop index`, opened for searching: a text or an example -> moments of videos.

N windows of all videos, E joint embedding, S numbers of a query for a head with a score of its own.
"""

from __future__ import annotations

import fnmatch
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vop.index.near import CANDIDATES, EXACT, Graph, graphs_of, keys_of, library
from vop.index.spans import Span, Timeline, spans
from vop.index.table import ADAPTER, PARTS, Table, VideoIndexError, read_numbers, read_table
from vop.places import absolute, join

if TYPE_CHECKING:
    from torch import Tensor

    from vop.retriever import Retriever

logger = logging.getLogger(__name__)
EVERYTHING = (0.0, float("inf"))
ANYTHING = "*"
RANKED = 2000  # windows whose videos a head with a score of its own scores
MORE = 2000  # windows that each graph is asked for where fewer made too few moments
GROWN, BESIDE = 50, 20  # so many best windows, and those on each side of them, are scored: moments grow at most so far
SAMPLE = 1000  # windows of a large index that are scored for every query, to know what a typical score is
FEW_ROWS = 2**13
AT_ONCE = 2**15  # windows whose embeddings are made float32 together
WHOLE = 1e9  # seconds: longer than any clip


@dataclass(frozen=True)
class Hit:
    """A moment: a video's path, where it lies in it in seconds, and its score; also: other paths of the same video."""

    video: str
    start: float
    end: float
    score: float
    also: tuple[str, ...] = ()


class Index:
    """The windows of an index in memory; the model and their embeddings are read at the first search.

    What the index held when it was opened is searched; open it again for what has come since. Several threads may search.
    """

    def __init__(self, table: Table, device: str = "auto", overrides: Iterable[str] = ()) -> None:
        self.table, self.device, self.overrides = table, device, list(overrides)
        found = table.found
        self.contents = sorted(found, key=lambda content: (table.held[content].part, table.held[content].row))
        self.paths = [[file.path for file in found[content]] for content in self.contents]
        held = [table.held[content] for content in self.contents]
        self.line = Timeline(
            np.repeat(np.arange(len(held)), np.array([len(each.end_N) for each in held], np.int64)),
            np.concatenate([np.empty(0, np.float32), *(each.start_N for each in held)]),
            np.concatenate([np.empty(0, np.float32), *(each.end_N for each in held)]),
        )
        self.duration_V = np.array([each.duration for each in held])
        self._told = set[str]()

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, device: str = "auto", overrides: Iterable[str] = ()) -> Index:
        """The index in a folder. device, overrides: of its model, as in `Retriever.load`.

        Raises VideoIndexError where there is none, or one that cannot be read.
        """
        index = cls(read_table(absolute(os.fspath(folder))), device, overrides)
        index._tell(index.table.damaged)
        return index

    def __len__(self) -> int:
        return len(self.line.video_N)

    def __repr__(self) -> str:
        made = self.table.manifest
        return f"Index({len(self.contents)} videos, {len(self)} windows of {made.window:g} s each {made.stride:g} s)"

    @property
    def unreadable(self) -> dict[str, str]:
        """{path: why it cannot be read} of the files that are in the index without windows."""
        return {file.path: file.error for file in self.table.files.values() if file.error}

    def search(
        self,
        text: str = "",
        *,
        like: str | os.PathLike[str] = "",
        top: int = 5,
        threshold: float | None = None,
        path: str = ANYTHING,
        duration: tuple[float, float] = EVERYTHING,
        time: tuple[float, float] = EVERYTHING,
    ) -> list[Hit]:
        """The `top` moments that fit a text best, or a picture or clip (`like`), best first.

        Scores are cosines in -1..1; with a head of another score they are that head's, for `like` cosines nevertheless.
        threshold: the least score. path: what a video's path must match (`*/kitchen/*`); duration: its least and greatest
        length; time: windows that begin and end between these seconds of their video. Raises VideoIndexError for a query that
        says nothing, or two things; FrameError for a file that cannot be read.
        """
        if bool(text.strip()) == bool(os.fspath(like)) or top < 1:
            raise VideoIndexError(f"search: give a text or like=FILE, one of both, and top at least 1 (given: {text!r}, {top})")
        vector_E, row_S = self._of_text(text) if text.strip() else self._of_example(os.fspath(like))
        wanted_N, least = self._wanted(path, duration, time), -np.inf if threshold is None else threshold
        for asked in (CANDIDATES, MORE):
            score_N = self.cosines(vector_E, wanted_N, asked)
            if row_S is not None:
                score_N = self._own_scores(row_S, score_N)
            found = spans(score_N, self.line, top, least, self._typical(score_N))
            if len(found) == top or not self.graphs:
                break
        return [self._hit(span, path) for span in found]

    def _typical(self, score_N: NDArray[np.float32]) -> float:
        """The median of the scores, in a large index of a sample."""
        known = score_N if self._exact else score_N[self._sample[0]]
        known = known[np.isfinite(known)]
        return float(np.median(known)) if len(known) else -1.0

    def _hit(self, span: Span, path: str) -> Hit:
        first, *others = sorted(self.paths[span.video], key=lambda each: not fnmatch.fnmatchcase(each, path))
        return Hit(first, round(span.start, 3), round(span.end, 3), span.score, tuple(others))

    def _wanted(self, path: str, duration: tuple[float, float], time: tuple[float, float]) -> NDArray[np.bool_]:
        """Which windows the filters leave."""
        if (path, duration, time) == (ANYTHING, EVERYTHING, EVERYTHING):
            return np.ones(len(self), bool)
        named_V = np.ones(len(self.paths), bool)
        if path != ANYTHING:
            named_V[:] = [any(fnmatch.fnmatchcase(each, path) for each in paths) for paths in self.paths]
        wanted_V = named_V & (self.duration_V >= duration[0]) & (self.duration_V <= duration[1])
        line = self.line
        return np.asarray(wanted_V[line.video_N] & (line.start_N >= time[0]) & (line.end_N <= time[1]))

    # -- what a query is, and what it scores -------------------------------------------------------------------------------

    @cached_property
    def retriever(self) -> Retriever:
        """The model that the windows were embedded by."""
        from vop.index.rows import is_tiny
        from vop.retriever import Retriever

        overrides = [*self.table.manifest.overrides, *self.overrides]
        found = Retriever.load(join(self.table.folder, ADAPTER), device=self.device, overrides=overrides)
        if tiny := is_tiny(found.experiment):
            logger.warning("%s", tiny)
        return found

    @cached_property
    def vectors(self) -> NDArray[np.floating[Any]]:
        """The windows' unit embeddings [N, E], float32, of a large index float16; NaN for those of a part that is damaged."""
        found = read_numbers(self.table, "vectors", self.contents)
        self._tell(self.table.damaged)
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

    def _of_text(self, text: str) -> tuple[NDArray[np.float32], Tensor | None]:
        from vop.index.rows import text_rows

        vector_1E, row_1S = text_rows(self.retriever.model, [text])
        return vector_1E[0].numpy(), row_1S

    def _of_example(self, place: str) -> tuple[NDArray[np.float32], None]:
        """The embedding of a picture or of a whole clip."""
        import torch

        from vop.index.rows import rule_of, window_rows
        from vop.video.windows import read_windows

        whole = next(read_windows(place, rule_of(self.retriever, WHOLE, WHOLE)))
        pixels_1FHWC, mask_1F = torch.from_numpy(whole.frames()), torch.from_numpy(whole.mask_WF)
        return window_rows(self.retriever.model, pixels_1FHWC, mask_1F)[0][0].numpy(), None

    def cosines(
        self, vector_E: NDArray[np.float32], wanted_N: NDArray[np.bool_], asked: int = CANDIDATES
    ) -> NDArray[np.float32]:
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
        return np.flatnonzero(without_V[self.line.video_N])

    def _own_scores(self, row_1S: Tensor, cosine_N: NDArray[np.float32]) -> NDArray[np.float32]:
        """What a head with a score of its own gives the videos of the RANKED best windows; -inf for the others."""
        from vop.scores.heads import all_scores

        best_N = np.argsort(-cosine_N, kind="stable")[:RANKED]
        videos = np.unique(self.line.video_N[best_N[np.isfinite(cosine_N[best_N])]])
        found = read_numbers(self.table, "rows", [self.contents[video] for video in videos])
        score_N = np.full_like(cosine_N, -np.inf)
        for video in videos:
            rows = found.get(self.contents[video])
            if rows is not None:
                score_N[self.line.video_N == video] = all_scores(row_1S, rows, self.retriever.model.head)[0].numpy()
        return np.where(np.isfinite(cosine_N), score_N, -np.inf).astype(np.float32)

    def _tell(self, damaged: dict[str, str]) -> None:
        """Name damaged parts, each once."""
        for name in sorted(damaged.keys() - self._told):
            self._told.add(name)
            place = join(self.table.folder, PARTS, name)
            logger.warning("%s is damaged (%s): its videos are left out; vop index mends it", place, damaged[name])


def _dots(vector_ME: NDArray[np.float32], vector_E: NDArray[np.float32]) -> NDArray[np.float32]:
    """[M]. A few rows on one thread: those of BLAS would cost more than they spare."""
    if len(vector_ME) < FEW_ROWS:
        return np.asarray(np.einsum("me,e->m", vector_ME, vector_E))
    return np.asarray(vector_ME @ vector_E)
