"""Windows of a video that may be hours long: their frames, in one pass of decoding, a few windows in memory at a time.

W windows read together, K distinct frames of them, F frames a window. Where windows overlap, so do their frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vop.video.decode import Images, Shown, Square, in_turn
from vop.video.files import FrameError, open_video, video_stream
from vop.video.frames import MOST_DAMAGED, local_video
from vop.video.sampling import Indices, sample_indices, sample_seconds
from vop.video.scan import scan_packets

AT_ONCE = 16


@dataclass(frozen=True)
class WindowRule:
    """Windows of `length` seconds, one each `stride` seconds, of `count` frames of `size` pixels.

    sampling (`uniform` or `fps`), resize, interpolation: as in `read_frames`. drawn: out of so many frames of a window `count`
    are chosen, for a model whose training draws frames at random; 0 for others.
    """

    length: float
    stride: float
    count: int
    size: int
    sampling: str = "uniform"
    fps: float = 1.0
    drawn: int = 0
    resize: str = "shortest"
    interpolation: str = "bicubic"

    def spans(self, duration: float) -> list[tuple[float, float]]:
        """(start, end) in seconds of each window; together they cover the video. One no longer than a window is one."""
        last = max(0, math.ceil((duration - self.length) / self.stride - 1e-6))
        return [(n * self.stride, min(n * self.stride + self.length, duration)) for n in range(last + 1)]

    def choose(self, times_V: NDArray[np.float64], start: float, end: float) -> Indices:
        """Places of the frames that a window takes, rising; where no frame begins in it, of the one on screen."""
        first, stop = (int(n) for n in np.searchsorted(times_V, (start - 1e-6, end - 1e-6)))
        if first >= stop:
            return np.array([max(0, stop - 1)])
        if self.sampling == "fps":
            return first + sample_seconds(times_V[first:stop], self.count, self.fps, start)
        drawn = sample_indices(stop - first, self.drawn or self.count, "uniform")
        return first + (drawn[sample_indices(len(drawn), self.count, "uniform")] if self.drawn else drawn)


@dataclass(frozen=True)
class Windows:
    """Times in seconds, and frames: window w takes pixels_KHWC[place_WF[w]], of which mask_WF[w] are no repetition."""

    start_W: NDArray[np.float32]
    end_W: NDArray[np.float32]
    pixels_KHWC: Images
    place_WF: Indices
    mask_WF: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.start_W)

    def frames(self) -> Images:
        """The frames of each window [W, F, H, W, 3]."""
        return self.pixels_KHWC[self.place_WF]


def read_windows(path: str, rule: WindowRule, at_once: int = AT_ONCE) -> Iterator[Windows]:
    """The windows of a video in order, `at_once` together. path: as in `read_frames`.

    A cut or broken file gives the windows that it holds, and a window the frames of it that can be decoded; one of which more
    than MOST_DAMAGED are damaged or lost is left out. FrameError for a file that gives none.
    """
    with local_video(path) as local, open_video(local, probing=False) as container:
        stream = video_stream(local, container)
        scan = scan_packets(local, container, stream)
        spans = rule.spans(float(scan.times_V[-1]) + 1 / scan.probe.fps)
        chosen = [rule.choose(scan.times_V, start, end) for start, end in spans]
        square = Square(rule.size, rule.resize, rule.interpolation)
        frames = in_turn(scan, container, stream, np.unique(np.concatenate(chosen)), square)
        held, seen, found = dict[int, Shown](), -1, 0
        for first in range(0, len(spans), at_once):
            part = slice(first, first + at_once)
            held = {place: frame for place, frame in held.items() if place >= chosen[first][0]}
            last = max(int(places[-1]) for places in chosen[part])
            while seen < last and (frame := next(frames, None)):
                seen, held[frame.place] = frame.place, frame
            windows = _gathered(spans[part], chosen[part], held, rule.count)
            if windows is not None:
                found += len(windows)
                yield windows
        if not found:
            raise FrameError(local, "decode", f"none of its {len(spans)} windows can be decoded")


def _gathered(
    spans: Sequence[tuple[float, float]], chosen: Sequence[Indices], held: dict[int, Shown], count: int
) -> Windows | None:
    """The windows of which enough frames are held, if there are any."""
    places = sorted(held)
    kept, place, mask = [], [], []
    for span, wanted in zip(spans, chosen, strict=True):
        there = [k for k in wanted.tolist() if k in held]
        if sum(not held[k].damaged for k in there) >= (1 - MOST_DAMAGED) * len(wanted):
            kept.append(span)
            place.append(np.searchsorted(places, there)[np.minimum(np.arange(count), len(there) - 1)])
            mask.append(np.arange(count) < len(there))
    if not kept:
        return None
    start_W, end_W = np.array(kept, np.float32).T
    return Windows(start_W, end_W, np.stack([held[k].image_HWC for k in places]), np.stack(place), np.stack(mask))
