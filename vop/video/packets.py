"""The packets of a video, read without decoding: their timestamps, the random access points, and how many are missing."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import av
from av.container import InputContainer
from av.stream import Discard
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from vop.video.files import decoded, packets

IDR_TYPES = {"h264": (5,), "hevc": (19, 20)}  # NAL unit types: H.264 table 7-1, H.265 table 7-1
SPS_TYPES = {"h264": 7, "hevc": 33}
MOST_FRAMES = 10**12  # that a header may claim


@dataclass
class Track:
    """The packets of a video stream, and the only frame that is decoded: it knows the size and the display matrix."""

    fps: float
    tick: float  # seconds a unit of pts
    first: av.VideoFrame | None = None
    pts: list[int | None] = field(default_factory=list)  # as stored, with the frames that an edit list discards
    shown_pts: list[int | None] = field(default_factory=list)  # without them
    keys: int = 0  # key frames
    access_points: list[int] = field(default_factory=list)  # places in `pts` of key frames at which decoding may start
    errors: list[av.FFmpegError] = field(default_factory=list)  # of decoding the first frame
    missing: int = 0  # frames that the header promises and the file does not hold
    resized: bool = False  # a key frame brings parameter sets of its own


def read_track(container: InputContainer, stream: VideoStream) -> Track:
    """Read all packets of a container that was just opened."""
    context, ends, stored, cut = stream.codec_context, dict[int, int](), 0, False
    fps = float(stream.average_rate or stream.guessed_rate or 25)
    track = Track(fps, float(stream.time_base or 1 / fps))
    if container.format.name.startswith("mov"):  # elsewhere the ends of all streams tell how much is missing
        discard_others(container, stream)
    for packet in packets(container):
        stamp = packet.dts if packet.pts is None else packet.pts
        if stamp is not None:
            end = stamp + (packet.duration or 0)
            ends[packet.stream_index] = max(end, ends.get(packet.stream_index, end))
        if packet.stream_index != stream.index:
            continue
        stored += stamp is not None
        if track.first is None:
            track.first = _first_frame(packet, context, track.errors, alone=not track.pts and not packet.is_discard)
        if packet.size:
            _note_key(track, packet, context)
            track.pts.append(packet.pts)
            cut = packet.is_corrupt
            if not packet.is_discard:
                track.shown_pts.append(packet.pts)
    if cut and track.shown_pts:
        track.shown_pts.pop()
        stored -= 1
    end_s = max((float(end * (container.streams[i].time_base or 0)) for i, end in ends.items()), default=0)
    track.missing = min(max(_missing(container, stream, stored, end_s, fps), int(cut)), MOST_FRAMES)
    return track


def discard_others(container: InputContainer, stream: VideoStream) -> None:
    """Do not read the packets of other streams."""
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all


def _first_frame(
    packet: av.Packet[Any], context: VideoCodecContext, errors: list[av.FFmpegError], alone: bool
) -> av.VideoFrame | None:
    """The frame that a stream shows first, once packets enough have come; `alone`: the first packet should do."""
    frame = next(decoded([packet], errors), None)
    if frame is not None or not alone:
        return frame
    try:
        frames = context.decode(None)  # what the decoder holds back to put frames in order
    except av.FFmpegError:
        frames = []
    context.flush_buffers()
    first: av.VideoFrame | None = next(chain(frames, decoded([packet], [])), None)
    return first


def _note_key(track: Track, packet: av.Packet[Any], context: VideoCodecContext) -> None:
    """Note a key frame at which decoding may start: one of H.264 or HEVC must hold an IDR slice."""
    if not packet.is_keyframe:
        return
    track.keys += 1
    codec, extradata = context.codec.canonical_name, context.extradata or b""
    kinds = _nal_units(packet, codec, extradata)
    if codec not in IDR_TYPES or not kinds.keys().isdisjoint(IDR_TYPES[codec]):
        track.access_points.append(len(track.pts))
    parameters = kinds.get(SPS_TYPES.get(codec, -1), b"")
    track.resized = track.resized or packet.has_sidedata("new_extradata") or parameters not in extradata


def _nal_units(packet: av.Packet[Any], codec: str, extradata: bytes) -> dict[int, bytes]:
    """The NAL units of a packet up to its first slice, by their type; none where they stand behind start codes."""
    units = dict[int, bytes]()
    if codec not in IDR_TYPES or extradata[:1] != b"\1":
        return units
    data, hevc = memoryview(packet), codec == "hevc"
    prefix, at = (extradata[21 if hevc else 4] & 3) + 1, 0
    while at + prefix < len(data):
        head = data[at + prefix]
        kind = head >> 1 & 63 if hevc else head & 31
        end = at + prefix + int.from_bytes(data[at : at + prefix], "big")
        units[kind] = bytes(data[at + prefix : end]) if kind == SPS_TYPES[codec] else b""
        if kind in IDR_TYPES[codec]:
            break
        at = end
    return units


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
