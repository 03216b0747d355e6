"""Which frames of a video (sampling rules) and how they are read (decoders): path -> uint8 [F, H, W, 3].

Frame k is the k-th frame that an in-order decode of the whole file shows. The packets are read first,
without decoding (`vop/packets.py`); decord gets the files on which it is known to return that frame, PyAV every other file.
"""

from __future__ import annotations

import os
import sys
from bisect import bisect_right
from dataclasses import dataclass, replace

import av
import numpy as np
from numpy.typing import NDArray

from vop.packets import (
    FrameError,
    Probe,
    Scan,
    clock,
    decoded,
    decoder_versions,
    load_decord,
    open_video,
    packets,
    probe,
    scan_packets,
    video_stream,
)

__all__ = ["FrameError", "Frames", "Probe", "decoder_versions", "probe", "read_frames", "sample_indices", "sample_seconds"]

SAMPLING = ("uniform", "random", "fps")
DECODERS = ("auto", "decord", "pyav")

Images = NDArray[np.uint8]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Frames:
    """F frames of one video; a clip with fewer repeats its last one, and the mask is False there."""

    pixels_FHWC: Images  # RGB, H = W = size
    mask_F: NDArray[np.bool_]
    indices_F: Indices  # place among the frames shown, from 0
    times_F: NDArray[np.float32]  # seconds since the first frame shown
    decoder: str  # what read them: "decord" or "pyav"


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
    ticks = start + np.arange(int((times_V[-1] - start) * fps + 1e-6) + 1) / fps
    on_screen = np.searchsorted(times_V, ticks + 1e-6, side="right") - 1
    picked = np.unique(np.maximum(on_screen, 0))
    if len(picked) > count:
        picked = picked[np.linspace(0, len(picked) - 1, count).astype(np.int64)]
    return picked


def read_frames(
    path: str | os.PathLike[str],
    count: int,
    size: int,
    sampling: str = "uniform",
    *,
    fps: float = 1.0,
    window: tuple[float, float] | None = None,
    decoder: str = "auto",
    seed: int = 0,
) -> Frames:
    """`count` frames of a video, uint8 RGB [F, size, size, 3]: short side to `size`, then the central square.

    `sampling` is one of SAMPLING; `fps` frames a second, at most `count`, belong to the rule of that name, `seed`
    to `random`. `window` (seconds) keeps the frames whose time lies in it, ends included. `decoder` is one of DECODERS; a
    decord forced by name may return wrong frames of a file that `probe(path).why` warns of.
    decord resizes bilinearly and PyAV bicubically, both with antialiasing.
    ValueError on a bad argument; FrameError on a video that cannot give exactly the frames asked for. Damage
    within a packet that the decoder conceals goes unnoticed.
    """
    if decoder not in DECODERS:
        raise ValueError(f"unknown decoder {decoder!r}; valid: {', '.join(DECODERS)}")
    if size < 1:
        raise ValueError(f"size must be positive, not {size}")
    rule = _Rule(count, sampling, fps, window, seed)
    scan, images = scan_packets(os.fspath(path)), None
    reader = scan.probe.decoder if decoder == "auto" else decoder
    if reader == "decord":
        images = _with_decord(scan, rule.choose(scan), size, forced=decoder == "decord")
        reader = "pyav" if images is None else "decord"
    if images is None and not scan.unseekable:
        images = _by_seeking(scan, rule.choose(scan), size)
    if images is None:
        scan, images = _in_order(scan, rule, size)
    indices = rule.choose(scan)
    repeat_F = np.minimum(np.arange(count), len(indices) - 1)
    return Frames(
        pixels_FHWC=images[repeat_F],
        mask_F=np.arange(count) < len(indices),
        indices_F=indices[repeat_F],
        times_F=scan.times_V[indices][repeat_F].astype(np.float32),
        decoder=reader,
    )


@dataclass(frozen=True)
class _Rule:
    count: int
    sampling: str
    fps: float
    window: tuple[float, float] | None
    seed: int

    def __post_init__(self) -> None:
        if self.sampling not in SAMPLING:
            raise ValueError(f"unknown sampling {self.sampling!r}; valid: {', '.join(SAMPLING)}")
        if self.count < 1 or self.fps <= 0:
            raise ValueError(f"count and fps must be positive, not {self.count} and {self.fps}")
        if self.window is not None and not self.window[0] < self.window[1]:
            raise ValueError(f"window must be (start, end) in seconds with start < end, not {self.window}")

    def candidates(self, scan: Scan) -> Indices:
        start, end = self.window or (0.0, np.inf)
        places = np.flatnonzero((scan.times_V >= start) & (scan.times_V <= end))
        if not len(places):
            problem = f"no frame between {start} and {end} s; its last is at {scan.times_V[-1]:.2f} s"
            raise FrameError(scan.path, "no-frames", problem)
        return places

    def choose(self, scan: Scan) -> Indices:
        places = self.candidates(scan)
        if self.sampling == "fps":
            start = max(self.window[0], 0.0) if self.window else 0.0
            picked = sample_seconds(scan.times_V[places], self.count, self.fps, start)
        else:
            rng = np.random.default_rng(self.seed)
            picked = sample_indices(len(places), self.count, self.sampling, rng=rng)
        indices = places[picked]
        if indices[-1] >= scan.readable:
            held = f"{scan.readable} of {len(scan.times_V)} frames can be read"
            raise FrameError(scan.path, "truncated", f"it is cut off: {held}, frame {indices[-1]} is wanted")
        return indices


def _shrunk(width: int, height: int, size: int) -> tuple[int, int]:
    short = min(width, height)
    return width * size // short, height * size // short


def _square(images_NHWC: Images, size: int) -> Images:
    """The central square, rounded as torchvision's centre crop does."""
    top, left = (round((side - size) / 2) for side in images_NHWC.shape[1:3])
    return images_NHWC[:, top : top + size, left : left + size]


def _small(frame: av.VideoFrame, size: int, turn: tuple[int, ...]) -> Images:
    width, height = _shrunk(frame.width, frame.height, size)
    scaled = frame.reformat(width, height, "rgb24", interpolation="BICUBIC", threads=1)
    pixels: Images = scaled.to_ndarray().astype(np.uint8, copy=False)
    a, b, c, d = turn
    if not a:
        pixels = pixels.swapaxes(0, 1)
    square: Images = _square(pixels[None, :: b + d, :: a + c], size)[0]
    return square.copy()


def _with_decord(scan: Scan, indices: Indices, size: int, forced: bool) -> Images | None:
    """One batch, resized in the decoder, in one thread; None where decord refuses, unless it is forced."""
    decord, path = load_decord(), os.path.abspath(scan.path)
    if decord is None:
        raise FrameError(scan.path, "no-decoder", "decord does not load")
    width, height = _shrunk(scan.probe.width, scan.probe.height, size)
    try:
        # fault_tol=0: an error rather than a neighbour in place of a frame that fails
        reader = decord.VideoReader(path, width=width, height=height, num_threads=1, fault_tol=0)
        if len(reader) != scan.probe.frames:
            raise RuntimeError(f"it counts {len(reader)} frames, {scan.probe.frames} are shown")
        images: Images = reader.get_batch(indices).asnumpy()
        return _square(images, size)
    except Exception as error:  # decord raises whatever its C++ core or its assertions throw
        if forced:
            raise FrameError(scan.path, "decode", f"decord cannot read it: {error}") from error
        return None


def _by_seeking(scan: Scan, indices: Indices, size: int) -> Images | None:
    """Decode from the key frame before each wanted frame; None if any step is not as the scan foretold."""
    place: dict[int | None, int] = {stamp: k for k, stamp in enumerate(scan.stamps_V)}
    images, errors, at = [], list[av.FFmpegError](), 0  # at: place of the next frame that the decoder gives
    with open_video(scan.path) as container:
        stream = video_stream(scan.path, container)
        frames = decoded(packets(container, stream), errors)
        for wanted in indices.tolist():
            key = scan.keys[bisect_right(scan.keys, wanted) - 1]
            if key > at:
                container.seek(scan.stamps_V[key], stream=stream)
                frames = decoded(packets(container, stream), errors)
            for frame in frames:
                at = place.get(frame.pts, -1) + 1
                if not 0 < at <= wanted:
                    break
            if at != wanted + 1 or errors:
                return None
            images.append(_small(frame, size, scan.turn))
    return np.stack(images)


def _pass(
    scan: Scan, wanted: set[int], last: int, size: int
) -> tuple[dict[int, Images], list[int | None], list[av.FFmpegError]]:
    """Decode from the start to frame `last`: the wanted images, the stamps of all frames, and the errors."""
    place: dict[int | None, int] = {stamp: k for k, stamp in enumerate(scan.stamps_V)}
    images, stamps, errors = dict[int, Images](), list[int | None](), list[av.FFmpegError]()
    with open_video(scan.path) as container:
        stream = video_stream(scan.path, container)
        for frame in decoded(packets(container, stream), errors):
            k = place.get(frame.pts, -1) if place else len(stamps)
            stamps.append(frame.pts)
            if k in wanted:
                images[k] = _small(frame, size, scan.turn)
            if k >= last:
                break
    return images, stamps, errors


def _in_order(scan: Scan, rule: _Rule, size: int) -> tuple[Scan, Images]:
    """Decode every candidate, and check that the frames shown are those that the packets foretold.

    Where some packets show no frame though none of them is broken, the frames that do show are what there is
    to sample from: they are counted, and the choice is made again.
    """
    last = min(int(rule.candidates(scan)[-1]), scan.readable - 1)
    wanted = set(rule.choose(scan).tolist())
    images, stamps, errors = _pass(scan, wanted, last, size)
    foretold = stamps == scan.stamps_V[: last + 1] if scan.stamps_V else len(stamps) == last + 1
    if not foretold and not (errors and scan.stamps_V):
        scan = _recounted(scan, _pass(scan, set(), sys.maxsize, size)[1])
        wanted = set(rule.choose(scan).tolist())
        images, stamps, _ = _pass(scan, wanted, max(wanted), size)
    lost = wanted - images.keys()
    if lost:
        held = f"{len(stamps)} of {last + 1} frames can be read"
        raise FrameError(scan.path, "decode", f"frame {min(lost)} cannot be decoded; {held}")
    return scan, np.stack([images[k] for k in sorted(wanted)])


def _recounted(scan: Scan, pts: list[int | None]) -> Scan:
    if not pts:
        raise FrameError(scan.path, "no-frames", "none of its frames can be decoded")
    missing = len(scan.times_V) - scan.readable
    _, times = clock(pts, missing, scan.tick, scan.probe.fps)
    return replace(scan, stamps_V=[], times_V=times, readable=len(pts))
