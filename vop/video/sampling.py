"""Which frames of a video are taken: the sampling rules. They cost what a file holds, whatever its header claims."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vop.video.files import FrameError
from vop.video.scan import Scan

SAMPLING = ("uniform", "random", "fps")
INCOMPLETE = ("refuse", "take")

Indices = NDArray[np.int64]


def sample_indices(total: int, count: int, sampling: str, *, rng: np.random.Generator | None = None) -> Indices:
    """`min(total, count)` rising indices below `total`, one for each of as many equal segments.

    `uniform` takes the middle of each segment, floor((first + last) / 2) (X-Pool); `random` draws from all of
    it with `rng` (seeded with 0 if None). ValueError on another rule (`fps` needs times) or an empty range.
    """
    if sampling not in ("uniform", "random"):
        raise ValueError(f"no rule {sampling!r} that needs only a total; valid: uniform, random")
    if total < 1 or count < 1:
        raise ValueError(f"cannot sample {count} of {total} frames")
    edges = np.linspace(0, total, min(total, count) + 1).astype(np.int64)
    first, last = edges[:-1], edges[1:] - 1
    if sampling == "uniform":
        return (first + last) // 2
    return (rng or np.random.default_rng(0)).integers(first, last, endpoint=True)


def sample_seconds(times_V: NDArray[np.float64], count: int, fps: float = 1.0, start: float = 0.0) -> Indices:
    """Indices of the frames on screen at `start`, `start` + 1/fps, ... seconds (CLIP4Clip).

    Of more than `count` such frames both ends and an even choice between them are kept.
    """
    # How many ticks come before each frame is on screen; a frame is picked if one comes before the next frame is.
    ticks = math.floor((times_V[-1] - start) * fps + 1e-6) + 1
    earlier_V = np.clip(np.ceil((times_V - 1e-6 - start) * fps), 0, ticks)
    earlier_V[0] = 0  # before the first frame the first one is taken
    picked = np.flatnonzero(np.diff(earlier_V, append=ticks) > 0)
    if len(picked) > count:
        picked = picked[np.linspace(0, len(picked) - 1, count).astype(np.int64)]
    return picked


@dataclass(frozen=True)
class Rule:
    """What `read_frames` was asked for."""

    count: int
    sampling: str
    fps: float
    window: tuple[float, float] | None
    seed: int
    incomplete: str

    def __post_init__(self) -> None:
        if self.sampling not in SAMPLING:
            raise ValueError(f"unknown sampling {self.sampling!r}; valid: {', '.join(SAMPLING)}")
        if self.incomplete not in INCOMPLETE:
            raise ValueError(f"unknown incomplete {self.incomplete!r}; valid: {', '.join(INCOMPLETE)}")
        if self.count < 1 or self.fps <= 0:
            raise ValueError(f"count and fps must be positive, not {self.count} and {self.fps}")
        if self.window is not None and not self.window[0] < self.window[1]:
            raise ValueError(f"window must be (start, end) in seconds with start < end, not {self.window}")

    def candidates(self, scan: Scan) -> Indices:
        """Places of the frames in the window that the file holds."""
        start, end = self.window or (0.0, np.inf)
        return np.flatnonzero((scan.times_V >= start) & (scan.times_V <= end))

    def choose(self, scan: Scan) -> Indices:
        """Places of the frames to take, rising. FrameError where there are none, or the file does not hold one of them."""
        places, missing = self.candidates(scan), self._missing(scan)
        if not len(places) and not missing:
            start, end = self.window or (0.0, np.inf)
            problem = f"no frame between {start} and {end} s; its last is at {scan.times_V[-1]:.2f} s"
            raise FrameError(scan.path, "no-frames", problem)
        if self.sampling == "fps":
            picked = self._each_second(scan, places, missing)
        else:
            rng = np.random.default_rng(self.seed)
            picked = sample_indices(len(places) + missing, self.count, self.sampling, rng=rng)
        if picked[-1] >= len(places):
            held, first = len(scan.times_V), int(places[0]) if len(places) else len(scan.times_V)
            problem = f"it is cut off: {held} of {scan.probe.frames} frames can be read, frame {first + picked[-1]} is wanted"
            raise FrameError(scan.path, "truncated", problem)
        return places[picked]

    def _missing(self, scan: Scan) -> int:
        """How many of the frames that the file lacks, one each 1/fps s after its last, are in the window."""
        if self.incomplete == "take" or not scan.probe.missing:
            return 0
        start, end = self.window or (0.0, np.inf)
        last, fps = float(scan.times_V[-1]), scan.probe.fps
        first_in = max(1, math.ceil((start - last) * fps))
        last_in = scan.probe.missing if end == np.inf else min(scan.probe.missing, math.floor((end - last) * fps))
        return max(0, last_in - first_in + 1)

    def _each_second(self, scan: Scan, places: Indices, missing: int) -> Indices:
        start = max(self.window[0], 0.0) if self.window else 0.0
        times = scan.times_V[places]
        if missing:  # is one of those that are missing on screen when the last tick comes?
            step = 1 / scan.probe.fps
            first_missing = max(float(scan.times_V[-1]) + step, start)
            last_tick = start + math.floor((first_missing + (missing - 1) * step - start) * self.fps + 1e-6) / self.fps
            if not len(times) or last_tick + 1e-6 >= first_missing:
                return np.array([len(places)])
        return sample_seconds(times, self.count, self.fps, start)
