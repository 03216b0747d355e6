"""Which frames of a video (sampling rules) and how they are read (decoders): path -> uint8 [F, H, W, 3].

Frame k is the k-th frame that an in-order decode of the whole file shows. The packets are read first,
without decoding; decord gets the files on which it is known to return that frame, PyAV every other file.
"""

from __future__ import annotations

import importlib
import os
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream
from numpy.typing import NDArray

SAMPLING = ("uniform", "random", "fps")
DECODERS = ("auto", "decord", "pyav")

# What came out as in an in-order decode by ffmpeg when compared; all else takes the slower, general way.
SEEKABLE_CODECS = ("h264", "hevc", "mpeg4", "vp8", "vp9", "av1")
DECORD_CODECS = ("h264", "hevc", "mpeg4", "vp8", "vp9")
DECORD_FORMATS = ("yuv420p", "yuvj420p")
IDR_TYPES = {"h264": (5,), "hevc": (19, 20)}  # NAL unit types: H.264 table 7-1, H.265 table 7-1
UPRIGHT = (1, 0, 0, 1)

Images = NDArray[np.uint8]
Indices = NDArray[np.int64]


class FrameError(Exception):
    """A video that cannot give the frames asked for: its path, a stable word for the kind, what is wrong."""

    def __init__(self, path: str, kind: str, problem: str) -> None:
        super().__init__(path, kind, problem)
        self.path, self.kind, self.problem = path, kind, problem

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


@dataclass(frozen=True)
class Frames:
    """F frames of one video; a clip with fewer repeats its last one, and the mask is False there."""

    pixels_FHWC: Images  # RGB, H = W = size
    mask_F: NDArray[np.bool_]
    indices_F: Indices  # place among the frames shown, from 0
    times_F: NDArray[np.float32]  # seconds since the first frame shown
    decoder: str  # what read them: "decord" or "pyav"


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
class _Scan:
    path: str
    probe: Probe
    stamps_V: Sequence[int]  # pts in display order; empty where they do not tell the frames apart
    times_V: NDArray[np.float64]  # seconds since the first frame
    readable: int  # frames that the file still holds: fewer than V when it is cut off
    keys: Sequence[int]  # places of the key frames
    tick: float  # seconds a unit of pts
    turn: tuple[int, ...]
    unseekable: str  # why decoding must not start at a key frame, else ""


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
    scan, images = _scan(os.fspath(path)), None
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


def probe(path: str | os.PathLike[str]) -> Probe:
    """Length, rate and size of a video, and which decoder `auto` takes and why. FrameError if it is none."""
    return _scan(os.fspath(path)).probe


def decoder_versions() -> dict[str, str]:
    """Version of each decoder, or the reason why it does not load."""
    versions = {"pyav": f"{av.__version__} (ffmpeg {av.ffmpeg_version_info})"}
    try:
        versions["decord"] = str(importlib.import_module("decord").__version__)
    except (ImportError, OSError) as error:
        versions["decord"] = f"does not load: {error}"
    return versions


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

    def candidates(self, scan: _Scan) -> Indices:
        start, end = self.window or (0.0, np.inf)
        places = np.flatnonzero((scan.times_V >= start) & (scan.times_V <= end))
        if not len(places):
            problem = f"no frame between {start} and {end} s; its last is at {scan.times_V[-1]:.2f} s"
            raise FrameError(scan.path, "no-frames", problem)
        return places

    def choose(self, scan: _Scan) -> Indices:
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


# -- what the packets tell ---------------------------------------------------------------------------------


def _open(path: str) -> InputContainer:
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


def _video_stream(path: str, container: InputContainer) -> VideoStream:
    streams = container.streams
    for stream in (streams.best("video"), *streams.video):
        if isinstance(stream, VideoStream) and not stream.disposition & Disposition.attached_pic:
            if stream.codec_context is None:
                raise FrameError(path, "no-decoder", "no decoder for the codec of its video stream")
            stream.codec_context.thread_count = 1
            return stream
    raise FrameError(path, "no-video-stream", f"it has no video stream ({container.format.long_name})")


def _packets(container: InputContainer, *streams: VideoStream) -> Iterator[av.Packet[Any]]:
    """Packets up to the end or the first that cannot be read; the last, empty ones flush the decoders."""
    try:
        yield from container.demux(*streams)
    except av.FFmpegError:
        return


def _decoded(packets: Iterable[av.Packet[Any]], errors: list[av.FFmpegError]) -> Iterator[av.VideoFrame]:
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


def _clock(pts: Sequence[int | None], missing: int, tick: float, fps: float) -> tuple[list[int], NDArray[np.float64]]:
    """Stamps in display order, [] where they do not tell frames apart; seconds, also of missing frames."""
    stamps = sorted(stamp for stamp in pts if stamp is not None)
    if len(stamps) < len(pts):
        return [], np.arange(len(pts) + missing) / fps
    times = (np.array(stamps, dtype=np.float64) - stamps[0]) * tick
    times = np.append(times, times[-1] + np.arange(1, missing + 1) / fps)
    return stamps if len(set(stamps)) == len(stamps) else [], times


@dataclass
class _Track:
    """The video packets of a file: what `_scan` judges."""

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
    with _open(path) as container:
        stream, ends, stored, cut = _video_stream(path, container), dict[int, int](), 0, False
        codec, extradata = stream.codec_context.codec.canonical_name, stream.codec_context.extradata
        fps = float(stream.average_rate or stream.guessed_rate or 25)
        track = _Track(container.format.name, codec, fps, float(stream.time_base or 1 / fps))
        for packet in _packets(container):
            stamp = packet.dts if packet.pts is None else packet.pts
            if stamp is not None:
                end = stamp + (packet.duration or 0)
                ends[packet.stream_index] = max(end, ends.get(packet.stream_index, end))
            if packet.stream_index != stream.index:
                continue
            stored += stamp is not None
            if track.first is None:
                track.first = next(_decoded([packet], []), None)
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
        "decord does not load": _decord() is None,
    }
    return next((risk for risk, holds in risks.items() if holds), "")


def _scan(path: str) -> _Scan:
    track = _track(path)
    first, total = track.first, len(track.pts) + track.missing
    if first is None or not track.pts:
        kind = "truncated" if track.missing else "no-frames"
        raise FrameError(path, kind, f"none of its {total} frames can be decoded")
    stamps, times = _clock(track.pts, track.missing, track.tick, track.fps)
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
    return _Scan(path, seen, stamps, times, len(track.pts), track.keys, track.tick, turn, unseekable)


# -- pixels ------------------------------------------------------------------------------------------------


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


def _decord() -> Any:
    """The module decord, or None where it does not load."""
    try:
        decord = importlib.import_module("decord")
    except (ImportError, OSError):
        return None
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def _with_decord(scan: _Scan, indices: Indices, size: int, forced: bool) -> Images | None:
    """One batch, resized in the decoder, in one thread; None where decord refuses, unless it is forced."""
    decord, path = _decord(), os.path.abspath(scan.path)
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


def _by_seeking(scan: _Scan, indices: Indices, size: int) -> Images | None:
    """Decode from the key frame before each wanted frame; None if any step is not as the scan foretold."""
    place: dict[int | None, int] = {stamp: k for k, stamp in enumerate(scan.stamps_V)}
    images, errors, at = [], list[av.FFmpegError](), 0  # at: place of the next frame that the decoder gives
    with _open(scan.path) as container:
        stream = _video_stream(scan.path, container)
        frames = _decoded(_packets(container, stream), errors)
        for wanted in indices.tolist():
            key = scan.keys[bisect_right(scan.keys, wanted) - 1]
            if key > at:
                container.seek(scan.stamps_V[key], stream=stream)
                frames = _decoded(_packets(container, stream), errors)
            for frame in frames:
                at = place.get(frame.pts, -1) + 1
                if not 0 < at <= wanted:
                    break
            if at != wanted + 1 or errors:
                return None
            images.append(_small(frame, size, scan.turn))
    return np.stack(images)


def _pass(
    scan: _Scan, wanted: set[int], last: int, size: int
) -> tuple[dict[int, Images], list[int | None], list[av.FFmpegError]]:
    """Decode from the start to frame `last`: the wanted images, the stamps of all frames, and the errors."""
    place: dict[int | None, int] = {stamp: k for k, stamp in enumerate(scan.stamps_V)}
    images, stamps, errors = dict[int, Images](), list[int | None](), list[av.FFmpegError]()
    with _open(scan.path) as container:
        stream = _video_stream(scan.path, container)
        for frame in _decoded(_packets(container, stream), errors):
            k = place.get(frame.pts, -1) if place else len(stamps)
            stamps.append(frame.pts)
            if k in wanted:
                images[k] = _small(frame, size, scan.turn)
            if k >= last:
                break
    return images, stamps, errors


def _in_order(scan: _Scan, rule: _Rule, size: int) -> tuple[_Scan, Images]:
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


def _recounted(scan: _Scan, pts: list[int | None]) -> _Scan:
    if not pts:
        raise FrameError(scan.path, "no-frames", "none of its frames can be decoded")
    missing = len(scan.times_V) - scan.readable
    _, times = _clock(pts, missing, scan.tick, scan.probe.fps)
    return replace(scan, stamps_V=[], times_V=times, readable=len(pts))
