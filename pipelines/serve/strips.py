"""Filmstrips: frames of a part of a video side by side, decoded when they are asked for, and kept in memory for a while."""

from __future__ import annotations

import io
from functools import lru_cache

from PIL import Image

from pipelines.serve.shelf import Video
from vop.video.frames import FrameError, read_frames

FRAMES, SIDE, GAP = 6, 112, 2  # of a strip: how many, pixels of a side, pixels between two
WIDTH = FRAMES * (SIDE + GAP) - GAP
KEPT = 2000  # strips, of about 20 KiB each


@lru_cache(maxsize=KEPT)
def strip(video: Video, start: float, end: float) -> bytes:
    """A JPEG of frames evenly spread over a part of a video, in the order of time. Raises FrameError for what has none."""
    if start >= end:
        raise FrameError("start, end", "window", f"{start:g} is not before {end:g}")
    try:
        read = read_frames(video.path, FRAMES, SIDE, window=(start, end), incomplete="take")
    except FrameError as error:
        raise FrameError("frames", error.kind, error.problem) from error  # a path is nobody's business
    image = Image.new("RGB", (WIDTH, SIDE))
    for place, pixels in enumerate(read.pixels_FHWC):
        image.paste(Image.fromarray(pixels), (place * (SIDE + GAP), 0))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
