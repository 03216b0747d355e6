"""What the packets of a video tell, read without decoding: the frames shown, their times, where decoding may start.

They also tell the files apart on which decord is known to return the frames that an in-order decode shows.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream
from numpy.typing import NDArray

# What came out as in an in-order decode by ffmpeg when compared; all else takes the slower, general way.
SEEKABLE_CODECS = ("h264", "hevc", "mpeg4", "vp8", "vp9", "av1")
DECORD_CODECS = ("h264", "hevc", "mpeg4", "vp8", "vp9")
DECORD_FORMATS = ("yuv420p", "yuvj420p")
IDR_TYPES = {"h264": (5,), "hevc": (19, 20)}  # NAL unit types: H.264 table 7-1, H.265 table 7-1
UPRIGHT = (1, 0, 0, 1)


class FrameError(Exception):
    """A video that cannot give the frames asked for: its path, a stable word for the kind, what is wrong."""

    def __init__(self, path: str, kind: str, problem: str) -> None:
        super().__init__(path, kind, problem)
        self.path, self.kind, self.problem = path, kind, problem

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


@dataclass(frozen=True)
class Probe:
    """What the packets of a video tell; frames, width and height as shown (after edit list and rotation)."""

    frames: int
    duration_s: float
    width: int
    height: int
    fps: float
    codec: str
    decoder: str  # what `auto` takes
    why: str  # why that is not decord, else ""


@dataclass(frozen=True)
class Scan:
    path: str
    probe: Probe
    stamps_V: Sequence[int]  # pts in display order; empty where they do not tell the frames apart
    times_V: NDArray[np.float64]  # seconds since the first frame
    readable: int  # frames that the file still holds: fewer than V when it is cut off
    keys: Sequence[int]  # places of the key frames
    tick: float  # seconds a unit of pts
    turn: tuple[int, ...]
    unseekable: str  # why decoding must not start at a key frame, else ""


def probe(path: str | os.PathLike[str]) -> Probe:
    """Length, rate and size of a video, and which decoder `auto` takes and why. FrameError if it is none."""
    return scan_packets(os.fspath(path)).probe


def decoder_versions() -> dict[str, str]:
    """Version of each decoder, or the reason why it does not load."""
    versions = {"pyav": f"{av.__version__} (ffmpeg {av.ffmpeg_version_info})"}
    try:
        versions["decord"] = str(importlib.import_module("decord").__version__)
    except (ImportError, OSError) as error:
        versions["decord"] = f"does not load: {error}"
    return versions


def open_video(path: str) -> InputContainer:
    if not os.path.exists(path):
        raise FrameError(path, "missing", "no such file")
    if not os.path.isfile(path):
        raise FrameError(path, "not-a-file", "a directory or a device, not a file")
    head = b""
    try:
        with open(path, "rb") as file:
            head = file.read(12)
        if not head:
            raise FrameError(path, "empty", "the file has no bytes")
        # absolute, so that no name reads as a URL; `file` only, so that no play list makes a worker fetch one
        options = {"protocol_whitelist": "file"}
        return av.open(os.path.abspath(path), options=options, metadata_errors="replace")
    except PermissionError as error:
        raise FrameError(path, "unreadable", "no permission to read the file") from error
    except (av.FFmpegError, OSError) as error:
        if head[4:8] == b"ftyp":
            problem = "an MP4 file whose index (moov) is missing or broken"
            raise FrameError(path, "truncated", problem) from error
        raise FrameError(path, "not-a-video", f"not a video that ffmpeg knows ({error.strerror})") from error


def video_stream(path: str, container: InputContainer) -> VideoStream:
    streams = container.streams
    for stream in (streams.best("video"), *streams.video):
        if isinstance(stream, VideoStream) and not stream.disposition & Disposition.attached_pic:
            if stream.codec_context is None:
                raise FrameError(path, "no-decoder", "no decoder for the codec of its video stream")
            stream.codec_context.thread_count = 1
            return stream
    raise FrameError(path, "no-video-stream", f"it has no video stream ({container.format.long_name})")


def packets(container: InputContainer, *streams: VideoStream) -> Iterator[av.Packet[Any]]:
    """Packets up to the end or the first that cannot be read; the last, empty ones flush the decoders."""
    try:
        yield from container.demux(*streams)
    except av.FFmpegError:
        return


def decoded(packets: Iterable[av.Packet[Any]], errors: list[av.FFmpegError]) -> Iterator[av.VideoFrame]:
    for packet in packets:
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            errors.append(error)
            continue
        yield from frames


def _is_fresh(packet: av.Packet[Any], codec: str, extradata: bytes | None) -> bool:
    """Whether decoding may start at this key packet: one of H.264 or HEVC must hold an IDR slice."""
    if codec not in IDR_TYPES:
        return True
    if not extradata or extradata[0] != 1:
        return False  # start codes, where mp4 and mkv have lengths
    data, hevc = memoryview(packet), codec == "hevc"
    prefix, at = (extradata[21 if hevc else 4] & 3) + 1, 0
    while at + prefix < len(data):
        head = data[at + prefix]
        if (head >> 1 & 63 if hevc else head & 31) in IDR_TYPES[codec]:
            return True
        at += prefix + int.from_bytes(data[at : at + prefix], "big")
    return False


def _missing(container: InputContainer, stream: VideoStream, held: int, end_s: float, fps: float) -> int:
    """How many packets more than `held` the header promises; 0 where the format keeps no such record."""
    name = container.format.name
    if name.startswith("mov"):
        return max(0, len(stream.index_entries) - held)
    if name == "avi":
        gap_s = stream.frames / fps - end_s  # its header counts empty places too
    elif name in ("flv", "matroska,webm") and container.duration:
        gap_s = container.duration / av.time_base - end_s
    else:
        return 0
    return round(gap_s * fps) if gap_s > 0.5 else 0  # such headers are often a frame or two off


def _turn(frame: av.VideoFrame) -> tuple[int, ...]:
    """(a, b, c, d) of the display matrix, -1, 0 or 1: a point (x, y) is shown at (a x + c y, b x + d y)."""
    side: Any = frame.side_data.get("DISPLAYMATRIX")
    if side is None:
        return UPRIGHT
    matrix = np.frombuffer(side, np.int32)[[0, 1, 3, 4]].astype(float)
    a, b, c, d = np.rint(matrix / max(1.0, abs(matrix).max())).astype(int).tolist()
    right_angle = abs(a) == abs(d) != abs(b) == abs(c)
    return (a, b, c, d) if right_angle else UPRIGHT


def clock(pts: Sequence[int | None], missing: int, tick: float, fps: float) -> tuple[list[int], NDArray[np.float64]]:
    """Stamps in display order, [] where they do not tell frames apart; seconds, also of missing frames."""
    stamps = sorted(stamp for stamp in pts if stamp is not None)
    if len(stamps) < len(pts):
        return [], np.arange(len(pts) + missing) / fps
    times = (np.array(stamps, dtype=np.float64) - stamps[0]) * tick
    times = np.append(times, times[-1] + np.arange(1, missing + 1) / fps)
    return stamps if len(set(stamps)) == len(stamps) else [], times


@dataclass
class _Track:
    """The video packets of a file: what `scan_packets` judges."""

    name: str  # of the container
    codec: str
    fps: float
    tick: float
    first: av.VideoFrame | None = None  # the only frame decoded: it knows rotation and pixel format
    pts: list[int | None] = field(default_factory=list)  # of the frames shown, in the order stored
    keys: list[int] = field(default_factory=list)  # places of key frames in that order
    fresh: bool = True  # whether decoding may start at all of them
    hidden: int = 0  # frames that an edit list hides
    missing: int = 0
    videos: int = 1


def _track(path: str) -> _Track:
    with open_video(path) as container:
        stream, ends, stored, cut = video_stream(path, container), dict[int, int](), 0, False
        codec, extradata = stream.codec_context.codec.canonical_name, stream.codec_context.extradata
        fps = float(stream.average_rate or stream.guessed_rate or 25)
        track = _Track(container.format.name, codec, fps, float(stream.time_base or 1 / fps))
        for packet in packets(container):
            stamp = packet.dts if packet.pts is None else packet.pts
            if stamp is not None:
                end = stamp + (packet.duration or 0)
                ends[packet.stream_index] = max(end, ends.get(packet.stream_index, end))
            if packet.stream_index != stream.index:
                continue
            stored += stamp is not None
            if track.first is None:
                track.first = next(decoded([packet], []), None)
            if packet.size and packet.is_keyframe:
                track.keys.append(len(track.pts))
                track.fresh = track.fresh and _is_fresh(packet, codec, extradata)
            if packet.is_discard:
                track.hidden += 1
            elif packet.size:
                track.pts.append(packet.pts)
                cut = packet.is_corrupt
        if cut:
            track.pts.pop()
            stored -= 1
        end_s = max((float(end * (container.streams[i].time_base or 0)) for i, end in ends.items()), default=0)
        track.missing = max(_missing(container, stream, stored, end_s, fps), int(cut))
        track.videos = len(container.streams.video)
    return track


def _seek_risk(track: _Track, first: av.VideoFrame, stamps: list[int]) -> str:
    """Why decoding must not start at a key frame, else ''."""
    gaps = np.diff(stamps)
    steady = not len(gaps) or bool(np.all(abs(gaps - np.median(gaps)) <= np.median(gaps) / 2))
    # a key frame shown later than it is stored is followed by frames that refer to what came before it
    closed = 0 in track.keys and all(stamps[k : k + 1] == track.pts[k : k + 1] for k in track.keys)
    risks = {
        "the file is cut off": track.missing > 0,
        "an edit list hides frames": track.hidden > 0,
        "its time stamps do not tell its frames apart": not stamps,
        f"seeking in {track.name} is not exact": not track.name.startswith(("mov", "matroska")),
        f"seeking in {track.codec} is not known to be exact": track.codec not in SEEKABLE_CODECS,
        "irregular time stamps: variable frame rate or dropped packets": not steady,
        "open GOP: decoding cannot start at every key frame": not (closed and track.fresh),
        "the first frame stored is not the first shown": stamps[:1] != [first.pts],
    }
    return next((risk for risk, holds in risks.items() if holds), "")


def _decord_risk(track: _Track, first: av.VideoFrame, turn: tuple[int, ...]) -> str:
    """Why decord is not trusted with a file in which seeking is safe, else ''."""
    risks = {
        f"decord does not read {track.codec}": track.codec not in DECORD_CODECS,
        f"pixel format {first.format.name}": first.format.name not in DECORD_FORMATS,
        f"odd size {first.width} x {first.height}": first.width % 2 + first.height % 2 > 0,
        "rotated or mirrored by its display matrix": turn != UPRIGHT,
        "more than one video stream": track.videos > 1,
        "decord does not load": load_decord() is None,
    }
    return next((risk for risk, holds in risks.items() if holds), "")


def scan_packets(path: str) -> Scan:
    track = _track(path)
    first, total = track.first, len(track.pts) + track.missing
    if first is None or not track.pts:
        kind = "truncated" if track.missing else "no-frames"
        raise FrameError(path, kind, f"none of its {total} frames can be decoded")
    stamps, times = clock(track.pts, track.missing, track.tick, track.fps)
    turn = _turn(first)
    unseekable = _seek_risk(track, first, stamps)
    why = unseekable or _decord_risk(track, first, turn)
    seen = Probe(
        frames=total,
        duration_s=float(times[-1]) + 1 / track.fps,
        width=first.width if turn[0] else first.height,
        height=first.height if turn[0] else first.width,
        fps=track.fps,
        codec=track.codec,
        decoder="pyav" if why else "decord",
        why=why,
    )
    return Scan(path, seen, stamps, times, len(track.pts), track.keys, track.tick, turn, unseekable)


def load_decord() -> Any:
    """The module decord, or None where it does not load."""
    try:
        decord = importlib.import_module("decord")
    except (ImportError, OSError):
        return None
    decord.logging.set_level(decord.logging.QUIET)
    return decord
