"""What a benchmark's file gives: records of videos, and the protocol that is published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vop.errors import VopError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class BenchmarkError(VopError, ValueError):
    """Annotation files that are missing or not as the benchmark publishes them; the message names the file and the fault."""


@dataclass(frozen=True, slots=True)
class Record:
    """One video of a benchmark.

    path: its file (which may turn out to be missing); captions: each is a query of its own; group: a name under which its
    queries are also reported apart; opposite: the video_id of the same clip with time reversed, where there is one; window:
    the part of the file that is meant, (start, end) in seconds; None: all of it; frame_captions: for each of the captions,
    those of the frames that are sampled, where there are some.
    """

    video_id: str
    path: str
    captions: tuple[str, ...]
    split: Split
    group: str = ""
    opposite: str = ""
    window: tuple[float, float] | None = None
    frame_captions: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Protocol:
    """What a benchmark publishes, and how it is used here.

    videos, captions: how many of each split, after `config`'s options and without those that are published nowhere; text: what
    a query is; window: as in Record; frames, tokens: the limits that peers (CLIP4Clip, DGL) use, both ends of a text included;
    extension: of all its video files, "" if they differ; source: where the files and the numbers come from.
    """

    videos: Mapping[Split, int]
    captions: Mapping[Split, int]
    text: Literal["each caption", "all captions of a video, joined"]
    frames: int
    tokens: int
    source: str
    window: tuple[float, float] | None = None
    extension: str = ""


@dataclass(frozen=True)
class Example:
    """A benchmark's annotation files, tiny: what they look like, and what the contract tests read (`vop.testing`).

    files: name -> text, with videos of all three splits; fields: what `benchmark.` fields such small files need; optional:
    files that may be missing.
    """

    files: Mapping[str, str]
    fields: Mapping[str, Any] = field(default_factory=dict)
    optional: tuple[str, ...] = ()
