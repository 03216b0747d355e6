"""Long videos of toy scenes whose times are known, and an index made without Ray."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path

from pipelines.search.windows import End, decoded
from vop.toy.videos import Clip, frames_of, plan, write_video
from vop.video.windows import WindowRule, Windows

RATE = 4
SECONDS = 10  # of a scene
CLIPS = plan()[1][134:140]


def write_long(path: Path, clips: Sequence[Clip], seconds: int = SECONDS) -> Path:
    """A video in which each clip plays for so many seconds, over and over."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = []
    for clip in clips:
        shown = [picture[:84, :84] for picture in frames_of(clip)[::6]]
        pictures += [shown[k % len(shown)] for k in range(RATE * seconds)]
    write_video(path, pictures, rate=RATE)
    return path


def stream_here(paths: Sequence[str], rule: WindowRule) -> Generator[tuple[str, Windows | End]]:
    """What Ray's tasks give, in this process."""
    for path in paths:
        for item in decoded(path, rule):
            yield path, item
