"""The embedded default: a small video benchmark that the project writes itself (`vop/toy/`), in MSR-VTT's formats.

280 training and 240 test videos. Test queries are of two groups: `ordinary`, and `time_pairs`, which differ only in the
direction of time. Validation: 56 of the training videos, held out by seed 0.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

from vop.benchmarks import BenchmarkError, Record, hold_out
from vop.benchmarks._msrvtt import read_records
from vop.config import BenchmarkConfig
from vop.places import absolute, is_remote

VALIDATION = 56


def is_written(config: BenchmarkConfig) -> bool:
    """Whether `records` only reads: the first use takes a minute."""
    from vop.toy.videos import toy_folder

    return toy_folder(_root(config)).is_dir()


def records(config: BenchmarkConfig) -> list[Record]:
    """The records below `videos` (default: ~/.cache/vop), written there on first use."""
    from vop.toy.videos import write_toy

    folder = write_toy(_root(config))
    with (folder / "toy_time_pairs.csv").open(encoding="utf-8", newline="") as file:
        pairs = [(row["video_id"], row["reverse_id"]) for row in csv.DictReader(file)]
    opposite = {**dict(pairs), **{reverse: video for video, reverse in pairs}}
    found = read_records(folder / "videos", [folder / "toy_data.json"], folder / "toy_train.csv", folder / "toy_test.csv")
    marked = [
        replace(r, group="time_pairs" if r.video_id in opposite else "ordinary", opposite=opposite.get(r.video_id, ""))
        for r in found
    ]
    return hold_out(marked, VALIDATION, seed=0)


def _root(config: BenchmarkConfig) -> Path:
    if is_remote(config.videos):
        raise BenchmarkError(f"benchmark.videos={config.videos}: toy is written into a folder of this machine")
    return Path(absolute(config.videos or "~/.cache/vop"))
