"""Frames decoded by PyAV: from the random access point before each, or in order, where a file asks for that.

Both ways give the same pixels. Frame k is the k-th frame that an in-order decode of the whole file shows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import dropwhile, pairwise
from typing import Literal

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vop.video.files import FrameError, check_size, decoded, open_video, packets, video_stream
from vop.video.packets import discard_others
from vop.video.sampling import Indices, Rule
from vop.video.scan import AccessPoint, Scan, timestamps

Images = NDArray[np.uint8]

SKIPPING_CODECS = ("h264", "hevc", "mpeg4", "vp8")  # whose decoders leave out frames that no other refers to


@dataclass(frozen=True)
class Read:
    """Frames of a video in rising order, and how many of them are damaged."""

    scan: Scan
    images_FHWC: Images
    damaged: int


@dataclass(frozen=True)
class Square:
    """What frames become: squares of `size` pixels.

    resize: "shortest", the short side at `size`, then the central square; or "squash", both sides, whatever the aspect.
    interpolation: "bicubic" or "bilinear", both with antialiasing.
    """

    size: int
    resize: str = "shortest"
    interpolation: str = "bicubic"


def shrunk(path: str, width: int, height: int, square: Square) -> tuple[int, int]:
    """Width and height with the short side, or both, at its size. FrameError for a picture so narrow that this is too large."""
    if square.resize == "squash":
        return square.size, square.size
    short = min(width, height)
    width, height = width * square.size // short, height * square.size // short
    check_size(path, width, height)
    return width, height


def central_square(images_NHWC: Images, size: int) -> Images:
    """The central square, rounded as torchvision's centre crop does."""
    top, left = (round((side - size) / 2) for side in images_NHWC.shape[1:3])
    return images_NHWC[:, top : top + size, left : left + size]


def resized_square(frame: av.VideoFrame, scan: Scan, square: Square) -> Images:
    """A frame as it is shown, resized, the central square of it: [size, size, 3]."""
    width, height = shrunk(scan.path, frame.width, frame.height, square)
    scaled = frame.reformat(width, height, "rgb24", interpolation=square.interpolation.upper(), threads=1)
    pixels: Images = scaled.to_ndarray().astype(np.uint8, copy=False)
    a, b, c, d = scan.display_matrix
    if not a:
        pixels = pixels.swapaxes(0, 1)
    central: Images = central_square(pixels[None, :: b + d, :: a + c], square.size)[0]
    return central.copy()


@dataclass(frozen=True)
class Shown:
    """A wanted frame: its place among the frames shown, its picture [size, size, 3], whether it is damaged."""

    place: int
    image_HWC: Images
    damaged: bool


def by_seeking(scan: Scan, container: InputContainer, stream: VideoStream, indices: Indices, square: Square) -> Read | None:
    """Decode from the random access point before each wanted frame, and no frame that nobody needs.

    None if any step is not as the scan expects: a frame that is not shown, or not in its place, or an error.
    """
    if not scan.access_points:
        return None
    images, damaged = dict[int, Images](), 0
    for group in _groups(scan, container, stream, indices, square):
        if group is None:
            return None
        images |= {shown.place: shown.image_HWC for shown in group}
        damaged += sum(shown.damaged for shown in group)
    return Read(scan, np.stack([images[k] for k in sorted(images)]), damaged)


def in_turn(scan: Scan, container: InputContainer, stream: VideoStream, indices: Indices, square: Square) -> Iterator[Shown]:
    """The wanted frames of `by_seeking` one after the other, of however long a video: one group of pictures is in memory.

    From where seeking is not as expected they are decoded from the start of the file; those that it does not show are left out.
    """
    wanted, last = set(indices.tolist()), -1
    for group in _groups(scan, container, stream, indices, square) if scan.access_points else [None]:
        if group is None:
            break
        yield from group
        last = max([last, *(shown.place for shown in group)])
    else:
        return
    for k, frame, damaged in _each(scan, []):
        if k > last and k in wanted:
            yield Shown(k, resized_square(frame, scan, square), damaged)
        if (last := max(last, k)) >= max(wanted):
            return


def _groups(
    scan: Scan, container: InputContainer, stream: VideoStream, indices: Indices, square: Square
) -> Iterator[list[Shown] | None]:
    """The wanted frames from each access point to the next; None, and the end, where a step is not as the scan expects."""
    place: dict[int | None, int] = {stamp: k for k, stamp in enumerate(scan.stamps_V)}
    discard_others(container, stream)
    every = np.unique(indices)
    ends = [point.place for point in scan.access_points[1:]] + [len(scan.stamps_V)]
    for point, end in zip(scan.access_points, ends, strict=True):
        group = range(point.place, end)
        wanted = set(every[slice(*np.searchsorted(every, (point.place, end)))].tolist())
        shown, found = [], list[Shown]()
        try:
            for frame in _shown(container, stream, point, {scan.stamps_V[k] for k in (group if point.check else wanted)}, scan):
                shown.append(place.get(frame.pts, -1))
                if shown[-1] in wanted:
                    found.append(Shown(shown[-1], resized_square(frame, scan, square), bool(frame.is_corrupt)))
        except av.FFmpegError:
            yield None
            return
        as_expected = all(a < b for a, b in pairwise([point.place - 1, *shown])) and wanted.issubset(shown)
        if not as_expected or (point.check and len(shown) < len(group)):
            yield None
            return
        yield found


def _shown(
    container: InputContainer, stream: VideoStream, point: AccessPoint, wanted: set[int], scan: Scan
) -> Iterator[av.VideoFrame]:
    """The frames shown from an access point on, up to the wanted one that is stored last; others may be left out."""
    if not wanted:
        return
    context, left = stream.codec_context, len(wanted)
    unwanted: Literal["NONREF", "DEFAULT"] = "NONREF" if context.codec.canonical_name in SKIPPING_CODECS else "DEFAULT"
    container.seek(point.pts, stream=stream)
    context.reorder_depth = scan.reorder_depth
    # with an edit list FFmpeg seeks to an earlier key frame
    for packet in dropwhile(lambda packet: packet.pts != point.pts, packets(container, stream)):
        if packet.size:
            context.skip_frame = "DEFAULT" if packet.pts in wanted else unwanted
            left -= packet.pts in wanted
            yield from packet.decode()
        if not left:
            break
    context.skip_frame = "DEFAULT"
    yield from context.decode(None)  # what the decoder holds back: nothing after the last wanted packet is needed


@dataclass
class _Pass:
    """What one decoding in order gave."""

    images: dict[int, Images]
    stamps: list[int | None]  # of all frames shown
    errors: int = 0
    damaged: int = 0


def in_order(scan: Scan, rule: Rule, square: Square) -> Read:
    """Decode every candidate, and check that the frames shown are those expected of the packets.

    Where some packets show no frame though none of them is broken, the frames that do show are what there is
    to sample from: they are counted, and the choice is made again. So it is with broken ones under `incomplete: take`.
    """
    wanted = set(rule.choose(scan).tolist())
    last = int(rule.candidates(scan)[-1])
    done = _pass(scan, wanted, last, square)
    expected = done.stamps == scan.stamps_V[: last + 1] if scan.stamps_V else len(done.stamps) == last + 1
    broken = done.errors > 0 and bool(scan.stamps_V)
    if not expected and (not broken or rule.incomplete == "take"):
        scan = _recounted(scan, _pass(scan, set(), sys.maxsize, square).stamps, broken)
        wanted = set(rule.choose(scan).tolist())
        done = _pass(scan, wanted, max(wanted), square)
    lost = wanted - done.images.keys()
    if lost:
        held = f"{len(done.stamps)} of {last + 1} frames can be read"
        raise FrameError(scan.path, "decode", f"frame {min(lost)} cannot be decoded; {held}")
    return Read(scan, np.stack([done.images[k] for k in sorted(wanted)]), done.damaged)


def _pass(scan: Scan, wanted: set[int], last: int, square: Square) -> _Pass:
    """Decode from the start to frame `last`."""
    done, errors = _Pass({}, []), list[av.FFmpegError]()
    for k, frame, damaged in _each(scan, errors):
        done.stamps.append(frame.pts)
        if k in wanted:
            done.images[k] = resized_square(frame, scan, square)
            done.damaged += damaged
        if k >= last:
            break
    done.errors = len(errors)
    return done


def _each(scan: Scan, errors: list[av.FFmpegError]) -> Iterator[tuple[int, av.VideoFrame, bool]]:
    """All frames from the start: place (-1: not of the scan), frame, damaged: after an error all are, up to a key frame."""
    place: dict[int | None, int] = {stamp: k for k, stamp in enumerate(scan.stamps_V)}
    with open_video(scan.path) as container:
        healed = 0
        for count, frame in enumerate(decoded(packets(container, video_stream(scan.path, container)), errors)):
            if frame.key_frame:
                healed = len(errors)
            yield place.get(frame.pts, -1) if place else count, frame, bool(frame.is_corrupt or len(errors) > healed)


def _recounted(scan: Scan, pts: list[int | None], broken: bool) -> Scan:
    """A scan of the frames that were shown; where packets are broken, the others are missing."""
    if not pts:
        raise FrameError(scan.path, "no-frames", "none of its frames can be decoded")
    missing = scan.probe.missing + (max(0, len(scan.times_V) - len(pts)) if broken else 0)
    seen = replace(scan.probe, frames=len(pts) + missing, missing=missing)
    return replace(scan, probe=seen, stamps_V=[], times_V=timestamps(pts, scan.tick, scan.probe.fps)[1])
