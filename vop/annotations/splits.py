"""Which videos are for training, validation and test."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from vop.annotations.records import SPLITS, BenchmarkError, Record, Split


def split_of(text: str, where: object) -> Split:
    """The split that a word of an annotation file names. Raises BenchmarkError for any other word."""
    found = next((split for split in SPLITS if split == text.strip()), None)
    if found is None:
        raise BenchmarkError(f"{where}: split {text.strip()!r}; valid: {', '.join(SPLITS)}")
    return found


def refuse_twice(ids: Sequence[str], where: object) -> None:
    """Raises BenchmarkError if an id is listed twice."""
    if len(set(ids)) < len(ids):
        twice = sorted(video_id for video_id, count in Counter(ids).items() if count > 1)
        raise BenchmarkError(f"{where}: {len(twice)} ids are listed twice: {', '.join(twice[:5])}")


def hold_out(records: Sequence[Record], size: int, seed: int) -> list[Record]:
    """Move about `size` training videos to `val`, chosen by seed; a clip and its opposite stay together.

    Without training videos, as for evaluation alone, there is nothing to hold out. Raises BenchmarkError if there are too few.
    """
    train = sorted(record.video_id for record in records if record.split == "train")
    if not train:
        return list(records)
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
