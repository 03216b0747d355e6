"""What a file tells before it is decoded: its length, rate and size, and from where a frame can be decoded."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vop.video.files import MAX_PIXELS, FrameError, open_video, video_stream
from vop.video.packets import Track, read_track

# What came out as in an in-order decode by ffmpeg when compared; all else takes the slower, general way.
SEEKABLE_CODECS = ("h264", "hevc", "mpeg4", "vp8", "vp9", "av1")
SEEKABLE_FORMATS = ("mov", "matroska")
MOST_REORDERED = 15  # frames: FFmpeg's own H.264 decoder takes no more, and aborts the process if it is told to
UPRIGHT = (1, 0, 0, 1)
FEW_GAPS = 1 / 50  # of the steps between frames, and two anyway: lost packets; more of them are a variable frame rate


@dataclass(frozen=True)
class Probe:
    """What the packets of a video tell; frames, width and height as shown (after edit list and rotation)."""

    frames: int  # those that a cut file promises and does not hold included
    duration_s: float
    width: int
    height: int
    fps: float
    codec: str
    missing: int  # frames that the file promises and does not hold
    why: str  # why decoding must start at its start, else ""


@dataclass(frozen=True)
class AccessPoint:
    """A key frame at which decoding may start: what is stored after it is shown after it."""

    place: int  # of the first frame shown from here on
    pts: int
    check: bool  # a key frame may be lost after it: do all other packets show a frame?


@dataclass(frozen=True)
class Scan:
    """What reading a file takes; it holds V frames."""

    path: str
    probe: Probe
    stamps_V: Sequence[int]  # pts in display order; empty where they do not tell the frames apart
    times_V: NDArray[np.float64]  # seconds since the first frame
    access_points: Sequence[AccessPoint]  # the first one at place 0; empty where decoding must start at the start
    reorder_depth: int  # frames that a decoder must hold back to put them in order
    tick: float  # seconds a unit of pts
    display_matrix: tuple[int, ...]
    decord_risk: str  # why decord may return wrong frames, else ""


def probe(path: str | os.PathLike[str]) -> Probe:
    """Length, rate and size of a video, and whether it must be decoded from its start. FrameError if it is none."""
    place = os.fspath(path)
    with open_video(place, probing=False) as container:
        return scan_packets(place, container, video_stream(place, container)).probe


def scan_packets(path: str, container: InputContainer, stream: VideoStream) -> Scan:
    """Read all packets of a container that was just opened, and judge them."""
    track = read_track(container, stream)
    first, total = track.first, len(track.shown_pts) + track.missing
    if first is None and any(isinstance(error, av.ArgumentError) for error in track.errors):
        raise FrameError(path, "too-large", f"the size of its pictures is not valid, or more than {MAX_PIXELS} pixels")
    if first is None or not track.shown_pts:
        raise FrameError(path, "truncated" if track.missing else "no-frames", f"none of its {total} frames can be decoded")
    stamps, times = timestamps(track.shown_pts, track.tick, track.fps)
    points, depth = _access_points(track, stamps)
    why = _seek_risk(track, container, stream, points, stamps[:1] == [first.pts])
    matrix = _display_matrix(first)
    seen = Probe(
        frames=total,
        duration_s=float(times[-1]) + (track.missing + 1) / track.fps,
        width=first.width if matrix[0] else first.height,
        height=first.height if matrix[0] else first.width,
        fps=track.fps,
        codec=stream.codec_context.codec.canonical_name,
        missing=track.missing,
        why=why,
    )
    decord_risk = why or _decord_risk(track, container, points, stamps, matrix)
    return Scan(path, seen, stamps, times, [] if why else points, depth, track.tick, matrix, decord_risk)


def timestamps(pts: Sequence[int | None], tick: float, fps: float) -> tuple[list[int], NDArray[np.float64]]:
    """Timestamps in display order, [] where they do not tell frames apart; seconds since the first frame."""
    stamps = sorted(stamp for stamp in pts if stamp is not None)
    if len(stamps) < len(pts):
        return [], np.arange(len(pts)) / fps
    times = (np.array(stamps, dtype=np.float64) - stamps[0]) * tick
    return stamps if len(set(stamps)) == len(stamps) else [], times


def _access_points(track: Track, stamps: Sequence[int]) -> tuple[list[AccessPoint], int]:
    """The key frames that no packet crosses in display order, and by how many places frames are reordered."""
    if not stamps or not timestamps(track.pts, track.tick, track.fps)[0]:
        return [], 0
    pts = np.array(track.pts, np.int64)
    before = np.maximum.accumulate(np.append(np.iinfo(np.int64).min, pts[:-1]))
    after = np.minimum.accumulate(pts[::-1])[::-1]
    uncrossed = before < after  # at a place as stored: nothing is shown before it that is stored after it
    targets = [int(pts[k]) for k in track.access_points if uncrossed[k] and pts[k] == after[k]]
    places = np.searchsorted(np.array(stamps), targets).tolist()
    # Where a key frame is lost, those that follow may show nothing, and then every later frame has another place.
    gaps = _gaps(stamps)
    gaps = gaps[:0] if len(gaps) > max(2, FEW_GAPS * len(stamps)) else gaps
    lost_at = np.searchsorted(np.sort(pts), np.array(stamps)[gaps], side="right")  # as stored, if it was a key frame
    doubtful = {bisect_right(places, int(gap)) - 1 for gap, at in zip(gaps, lost_at, strict=True) if uncrossed[at]}
    points = [AccessPoint(place, stamp, k in doubtful) for k, (place, stamp) in enumerate(zip(places, targets, strict=True))]
    rank = np.argsort(np.argsort(pts))
    return points, min(int(np.max(np.arange(len(pts)) - rank)), MOST_REORDERED)


def _gaps(stamps: Sequence[int]) -> NDArray[np.int64]:
    """Places of the frames that are followed by a longer step than usual."""
    steps = np.diff(stamps)
    return np.flatnonzero(steps > 1.5 * np.median(steps)) if len(steps) else np.arange(0)


def _seek_risk(track: Track, container: InputContainer, stream: VideoStream, points: list[AccessPoint], first: bool) -> str:
    """Why decoding must start at the start, else ''."""
    name, codec = container.format.name, stream.codec_context.codec.canonical_name
    risks = {
        "the file is cut off": track.missing > 0,
        "its timestamps do not tell its frames apart": not timestamps(track.pts, track.tick, track.fps)[0],
        f"seeking in {name} is not exact": not name.startswith(SEEKABLE_FORMATS),
        f"seeking in {codec} is not known to be exact": codec not in SEEKABLE_CODECS,
        "it does not start with a random access point": not points or points[0].place > 0,
        "the first frame stored is not the first shown": not first,
    }
    return next((risk for risk, holds in risks.items() if holds), "")


def _decord_risk(
    track: Track, container: InputContainer, points: list[AccessPoint], stamps: Sequence[int], matrix: tuple[int, ...]
) -> str:
    """Why decord may return wrong frames of a file in which seeking is safe, else ''."""
    risks = {
        "rotated or mirrored by its display matrix": matrix != UPRIGHT,
        "an edit list discards frames": len(track.pts) > len(stamps),
        "negative timestamps": stamps[0] < 0,
        "decoding cannot start at every key frame": len(points) < track.keys,
        "irregular timestamps: variable frame rate or lost packets": len(_gaps(stamps)) > 0,
        "its size may change midway": track.resized,
        "more than one video stream": len(container.streams.video) > 1,
    }
    return next((risk for risk, holds in risks.items() if holds), "")


def _display_matrix(frame: av.VideoFrame) -> tuple[int, ...]:
    """(a, b, c, d) of the display matrix, -1, 0 or 1: a point (x, y) is shown at (a x + c y, b x + d y)."""
    side: Any = frame.side_data.get("DISPLAYMATRIX")
    if side is None:
        return UPRIGHT
    matrix = np.frombuffer(side, np.int32)[[0, 1, 3, 4]].astype(float)
    a, b, c, d = np.rint(matrix / max(1.0, abs(matrix).max())).astype(int).tolist()
    right_angle = abs(a) == abs(d) != abs(b) == abs(c)
    return (a, b, c, d) if right_angle else UPRIGHT
