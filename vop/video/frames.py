"""Frames of a video, as the rest of the software reads them: path -> uint8 [F, H, W, 3].

A file's packets are read first, without decoding (`scan.py`); the sampling rules choose frames (`sampling.py`), and PyAV
decodes those (`decode.py`), or decord where it is named (`decord.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import av
import numpy as np
from numpy.typing import NDArray

from vop.places import PlaceError, local_copy
from vop.video.decode import Images, Read, Square, by_seeking, in_order
from vop.video.decord import version_of_decord, with_decord
from vop.video.files import FrameError, open_video, video_stream
from vop.video.sampling import Indices, Rule, sample_indices, sample_seconds
from vop.video.scan import Probe, probe, scan_packets

__all__ = ["FrameError", "Frames", "Probe", "decoder_versions", "probe", "read_frames", "sample_indices", "sample_seconds"]

DECODERS = ("auto", "decord", "pyav")
RESIZES, INTERPOLATIONS = ("shortest", "squash"), ("bicubic", "bilinear")
MOST_DAMAGED = 0.25  # of the frames taken; with more of them a video is refused


@dataclass(frozen=True)
class Frames:
    """F frames of one video; a clip with fewer repeats its last one, and the mask is False there."""

    pixels_FHWC: Images  # RGB, H = W = size
    mask_F: NDArray[np.bool_]
    indices_F: Indices  # place among the frames shown, from 0
    times_F: NDArray[np.float32]  # seconds since the first frame shown
    decoder: str  # what read them: "decord" or "pyav"
    damaged: int = 0  # of the frames taken: those that the decoder calls corrupt, or that follow a packet it could not decode
    missing: int = 0  # frames that the file promises and does not hold


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
    incomplete: str = "refuse",
    resize: str = "shortest",
    interpolation: str = "bicubic",
) -> Frames:
    """`count` frames of a video, uint8 RGB [F, size, size, 3]: short side to `size`, then the central square.

    With `resize` "squash" both sides become `size`, whatever the aspect: some CLIPs are trained so.

    path: a path, its name of any bytes, or a URI that pyarrow knows, of which a scratch copy is read.

    `sampling` is one of SAMPLING; `fps` frames a second, at most `count`, belong to the rule of that name, `seed`
    to `random`. `window` (seconds) keeps the frames whose time lies in it, ends included. `decoder` is one of DECODERS:
    `auto` is PyAV, which resizes by `interpolation`; decord resizes bilinearly, both with antialiasing. Where decord may
    return wrong frames, a warning is logged.
    `incomplete`: whether a file that lacks frames it promises (cut off, or broken within) is to `refuse` where one of them is
    wanted, or to `take`: then the frames that are there are sampled.
    ValueError on a bad argument; FrameError on a video that cannot give the frames asked for, or of which more than
    MOST_DAMAGED are damaged.
    """
    if decoder not in DECODERS:
        raise ValueError(f"unknown decoder {decoder!r}; valid: {', '.join(DECODERS)}")
    if resize not in RESIZES or interpolation not in INTERPOLATIONS:
        raise ValueError(f"resize={resize!r}, interpolation={interpolation!r}: valid: {RESIZES}, {INTERPOLATIONS}")
    if size < 1:
        raise ValueError(f"size must be positive, not {size}")
    rule = Rule(count, sampling, fps, window, seed, incomplete)
    square = Square(size, resize, interpolation)
    with local_video(os.fspath(path)) as local:
        return _read(local, rule, square, decoder)


@contextmanager
def local_video(place: str) -> Iterator[str]:
    """A path on this machine for a video; what goes wrong with it is a FrameError that names its place."""
    try:
        with local_copy(place) as local:
            yield local
    except FileNotFoundError as error:
        raise FrameError(place, "missing", "no such file") from error
    except (OSError, PlaceError, UnicodeError) as error:
        raise FrameError(place, "unreadable", f"cannot be copied here: {error}") from error
    except FrameError as error:  # of the copy
        raise FrameError(place, error.kind, error.problem) from error


def decoder_versions() -> dict[str, str]:
    """Version of each decoder, or the reason why it does not load."""
    versions = {"pyav": f"{av.__version__} (ffmpeg {av.ffmpeg_version_info})"}
    try:
        versions["decord"] = version_of_decord()
    except (ImportError, OSError) as error:
        versions["decord"] = f"does not load: {error}"
    return versions


def _read(path: str, rule: Rule, square: Square, decoder: str) -> Frames:
    read = _decoded(path, rule, square, decoder)
    indices = rule.choose(read.scan)
    if read.damaged > MOST_DAMAGED * len(indices):
        raise FrameError(path, "damaged", f"{read.damaged} of the {len(indices)} frames taken are damaged")
    repeat_F = np.minimum(np.arange(rule.count), len(indices) - 1)
    return Frames(
        pixels_FHWC=read.images_FHWC[repeat_F],
        mask_F=np.arange(rule.count) < len(indices),
        indices_F=indices[repeat_F],
        times_F=read.scan.times_V[indices][repeat_F].astype(np.float32),
        decoder="decord" if decoder == "decord" else "pyav",
        damaged=read.damaged,
        missing=read.scan.probe.missing,
    )


def _decoded(path: str, rule: Rule, square: Square, decoder: str) -> Read:
    with open_video(path, probing=False) as container:
        stream = video_stream(path, container)
        scan = scan_packets(path, container, stream)
        if decoder != "decord":
            read = by_seeking(scan, container, stream, rule.choose(scan), square)
            if read is not None:
                return read
    if decoder == "decord":
        return with_decord(scan, rule.choose(scan), square)
    return in_order(scan, rule, square)
