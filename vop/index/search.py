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
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vop.index.cosines import Cosines, tell_damaged
from vop.index.near import CANDIDATES
from vop.index.spans import Span, Timeline, spans
from vop.index.table import ADAPTER, Table, VideoIndexError, read_numbers, read_table
from vop.places import absolute, join

if TYPE_CHECKING:
    from torch import Tensor

    from vop.retriever import Retriever

logger = logging.getLogger(__name__)
EVERYTHING = (0.0, float("inf"))
ANYTHING = "*"
RANKED = 2000  # windows whose videos a head with a score of its own scores
MORE = 2000  # windows that each graph is asked for where fewer made too few moments
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
        self.cosines = Cosines(table, self.contents, self.line.video_N)

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, device: str = "auto", overrides: Iterable[str] = ()) -> Index:
        """The index in a folder. device, overrides: of its model, as in `Retriever.load`.

        Raises VideoIndexError where there is none, or one that cannot be read.
        """
        index = cls(read_table(absolute(os.fspath(folder))), device, overrides)
        tell_damaged(index.table)
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
            score_N = self.cosines.of(vector_E, wanted_N, asked)
            if row_S is not None:
                score_N = self._own_scores(row_S, score_N)
            found = spans(score_N, self.line, top, least, self.cosines.typical(score_N))
            if len(found) == top or not self.cosines.graphs:
                break
        return [self._hit(span, path) for span in found]

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
