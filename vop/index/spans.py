"""Windows that fit a query, merged into moments of videos: spans, none of which overlaps another of its video.

N windows, those of a video side by side in the order of time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vop.index.table import Times


@dataclass(frozen=True)
class Timeline:
    """Of each of N windows: which video, and its seconds in it."""

    video_N: NDArray[np.int64]
    start_N: Times
    end_N: Times


@dataclass(frozen=True)
class Span:
    """A moment: which video, its seconds, the score of its best window."""

    video: int
    start: float
    end: float
    score: float


def spans(score_N: NDArray[np.float32], line: Timeline, top: int, threshold: float, typical: float) -> list[Span]:
    """The `top` best spans, best first. A window that scores -inf is in none, nor is one below the threshold.

    A span grows from the best window that is left over its neighbours, as long as these score above the middle between that
    window and a typical one: half of the rise, as a peak's width is measured. What overlaps it is then used up.
    """
    left, found = score_N.copy(), list[Span]()
    while len(left) and len(found) < top:
        best = int(left.argmax())
        if not left[best] >= max(threshold, np.finfo(np.float32).min):
            break
        level = max(threshold, (float(left[best]) + min(typical, float(left[best]))) / 2)
        first = _grown(left, line, best, -1, level)
        last = _grown(left, line, best, 1, level)
        span = Span(int(line.video_N[best]), float(line.start_N[first]), float(line.end_N[last]), float(left[best]))
        found.append(span)
        video = slice(*np.searchsorted(line.video_N, (span.video, span.video + 1)))
        overlaps = (line.start_N[video] < span.end) & (line.end_N[video] > span.start)
        left[video][overlaps] = -np.inf
    return found


def _grown(score_N: NDArray[np.float32], line: Timeline, at: int, step: int, level: float) -> int:
    """The last window from `at` on, in one direction, up to which all of the same video score at least `level`."""
    while 0 <= at + step < len(score_N) and line.video_N[at + step] == line.video_N[at] and score_N[at + step] >= level:
        at += step
    return at
