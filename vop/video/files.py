"""Opening a video with PyAV: what is no video, what is too large, which stream is read, and its packets and frames.

Files may come from strangers. Nothing but the file itself is opened, and no picture larger than MAX_PIXELS is decoded.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any

import av
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition
from av.video.stream import VideoStream

from vop.errors import VopError
from vop.secrets import masked

BOXES_AT_THE_START = (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"pnot")
BOXES_OF_BOXES = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf")
SAMPLE_COUNTS = {b"stsz": 8, b"stz2": 8, b"trun": 4}  # where in a box of these the number of samples stands
MAX_PIXELS = 8192 * 4352  # the largest picture of H.264 and HEVC, level 6.2 (H.264 table A-1, H.265 table A.8)

# Metadata that is not UTF-8 must not make a video unreadable: PyAV 19 sees to that itself, those before have to be told.
LENIENT: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}


def _unnamed(kind: type[Enum], value: object) -> Enum:
    """A member for side data that this PyAV has no name for (EXIF, views of stereo video): else none of it can be read."""
    member = object.__new__(kind)
    member._name_, member._value_ = f"UNNAMED_{value}", value
    return member


SideDataType._missing_ = classmethod(_unnamed)  # type: ignore[assignment]


class FrameError(VopError):
    """A video that cannot give the frames asked for: its path, a stable word for the kind, what is wrong."""

    def __init__(self, path: str, kind: str, problem: str) -> None:
        super().__init__(path, kind, problem)
        self.path, self.kind, self.problem = path, kind, problem

    def __str__(self) -> str:
        name = self.path.encode(errors="backslashreplace").decode()  # bytes of a name that are not UTF-8
        return masked(f"{name}: {self.problem}")


def open_video(path: str, probing: bool = True) -> InputContainer:
    """A container, open for reading.

    Without `probing` FFmpeg decodes nothing to learn about the streams: their pixel format and how far frames are reordered may
    be unknown then.
    """
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
        if head[4:8] in BOXES_AT_THE_START:
            _check_index(path)
        # absolute, so that no name reads as a URL; `file` only, so that no play list makes a worker fetch one
        limit = {"max_pixels": str(MAX_PIXELS)} if probing else {"codec_whitelist": "none"}
        container: InputContainer = av.open(os.path.abspath(path), options={"protocol_whitelist": "file"} | limit, **LENIENT)
        return container
    except PermissionError as error:
        raise FrameError(path, "unreadable", "no permission to read the file") from error
    except (av.FFmpegError, OSError) as error:
        if head[4:8] == b"ftyp":
            problem = "an MP4 file whose index (moov) is missing or broken"
            raise FrameError(path, "truncated", problem) from error
        raise FrameError(path, "not-a-video", f"not a video that ffmpeg knows ({error.strerror})") from error


def _check_index(path: str) -> None:
    """FrameError for an MP4 file whose index claims more samples than the file has bytes: FFmpeg would build all of it."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at, samples = 0, 0
        while at + 16 <= len(data):
            size, kind = struct.unpack_from(">I4s", data, at)
            head = 16 if size == 1 else 8
            if size == 1:
                (size,) = struct.unpack_from(">Q", data, at + 8)
            place = at + head + SAMPLE_COUNTS.get(kind, 0)
            if kind in SAMPLE_COUNTS and place + 4 <= len(data):
                samples += struct.unpack_from(">I", data, place)[0]
            if samples > len(data):
                raise FrameError(path, "truncated", f"its index tells of {samples} samples or more, in {len(data)} bytes")
            at += head if kind in BOXES_OF_BOXES else max(size, head) if size else len(data)


def video_stream(path: str, container: InputContainer) -> VideoStream:
    """The stream that is read. FrameError where there is none, no decoder for it, or its pictures are too large."""
    streams = container.streams
    for stream in (streams.best("video"), *streams.video):
        if isinstance(stream, VideoStream) and not stream.disposition & Disposition.attached_pic:
            context = stream.codec_context
            if context is None:
                raise FrameError(path, "no-decoder", "no decoder for the codec of its video stream")
            check_size(path, context.width, context.height)
            context.thread_count = 1
            context.options = {"max_pixels": str(MAX_PIXELS)}  # a size may change midway
            return stream
    raise FrameError(path, "no-video-stream", f"it has no video stream ({container.format.long_name})")


def check_size(path: str, width: int, height: int) -> None:
    """FrameError for a picture of more than MAX_PIXELS."""
    if width * height > MAX_PIXELS:
        raise FrameError(path, "too-large", f"pictures of {width} x {height}; at most {MAX_PIXELS} pixels are decoded")


def packets(container: InputContainer, *streams: VideoStream) -> Iterator[av.Packet[Any]]:
    """Packets up to the end or the first that cannot be read; the last, empty ones flush the decoders."""
    try:
        yield from container.demux(*streams)
    except av.FFmpegError:
        return


def decoded(packets: Iterable[av.Packet[Any]], errors: list[av.FFmpegError]) -> Iterator[av.VideoFrame]:
    """The frames of packets in display order; a packet that cannot be decoded adds to `errors`."""
    for packet in packets:
        if not packet.size and packet.dts is not None:  # one without a byte would tell the decoder that this is the end
            continue
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            errors.append(error)
            continue
        yield from frames
