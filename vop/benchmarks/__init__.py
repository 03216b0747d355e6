"""Benchmarks, one file each, found by name (`benchmark.name`): annotation files -> records.

A benchmark's file has `records(config) -> list[Record]`, and a class `Config(BenchmarkConfig)` if it has fields of its own.
No torch here.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class BenchmarkError(ValueError):
    """Annotation files that are missing or not as the benchmark publishes them; the message names the file and the fault."""


@dataclass(frozen=True)
class Record:
    """One video of a benchmark.

    path: its file (which may turn out to be missing); captions: each is a query of its own; group: a name under which its
    queries are also reported apart; opposite: the video_id of the same clip with time reversed, where there is one; window:
    the part of the file that is meant, (start, end) in seconds; None: all of it.
    """

    video_id: str
    path: str
    captions: tuple[str, ...]
    split: Split
    group: str = ""
    opposite: str = ""
    window: tuple[float, float] | None = None


def hold_out(records: Sequence[Record], size: int, seed: int) -> list[Record]:
    """Move about `size` training videos to `val`, chosen by seed; a clip and its opposite stay together."""
    train = sorted(record.video_id for record in records if record.split == "train")
    if size >= len(train):
        raise BenchmarkError(f"cannot hold {size} validation videos out of {len(train)} training videos")
    order = random.Random(seed).sample(train, len(train))
    opposite = {record.video_id: record.opposite for record in records if record.opposite}
    chosen: set[str] = set()
    for video_id in order:
        if len(chosen) >= size:
            break
        chosen |= {video_id, opposite.get(video_id, video_id)}
    return [replace(record, split="val") if record.video_id in chosen else record for record in records]
