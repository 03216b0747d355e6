"""Your own videos: a directory, and a table with the columns `video`, `caption` and, if you like, `split`.

The directory may be a URI that pyarrow knows (s3://bucket/videos); the table is a file on this machine: captions.csv, .tsv,
.jsonl or .parquet (`vop/annotations/tables.py`).

For what learns from captions of frames (`head.name=discovla`) a column `frame_captions` has one for each frame that is sampled,
in their order, with | between them; it may be empty for rows that do not train.

A video may have several rows, one a caption. Without a split column, a split is made by video with `split_seed`:
`val_fraction` and `test_fraction` of the videos, the rest for training.
"""

from __future__ import annotations

import os
import posixpath
import random
from contextlib import suppress
from pathlib import Path

from pydantic import Field

from vop.annotations.tables import read_table
from vop.benchmarks import BenchmarkError, Record, Split, place_videos, split_of
from vop.config import BenchmarkConfig
from vop.places import absolute, is_remote

FRAME_CAPTIONS = "frame_captions"
EXTENSIONS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


class Config(BenchmarkConfig):
    """Your own videos and captions."""

    annotations: str = Field("", description="the table of captions, or the directory that holds it; empty: `videos`")
    split_seed: int = Field(0, description="of the split, where the table has no column `split`")
    val_fraction: float = Field(0.1, ge=0, lt=1, description="share of the videos that validate, where the table does not say")
    test_fraction: float = Field(0.2, ge=0, lt=1, description="share of the videos that test, where the table does not say")


def records(config: Config) -> list[Record]:
    """One record a video. Raises BenchmarkError naming file, line and what is valid."""
    if not config.videos:
        raise BenchmarkError("benchmark.videos: give the directory of your videos, benchmark.videos=/path/to/videos")
    if is_remote(config.videos) and not config.annotations:
        raise BenchmarkError("benchmark.annotations: give the table, on this machine, of the videos at benchmark.videos")
    place = absolute(config.videos)
    if not is_remote(place) and not Path(place).is_dir():
        raise BenchmarkError(f"benchmark.videos: {place} does not exist: expected a directory of videos")
    table = _table(Path(absolute(config.annotations)) if config.annotations else Path(place))
    captions: dict[str, list[str]] = {}
    of_frames: dict[str, list[tuple[str, ...]]] = {}
    splits: dict[str, Split] = {}
    optional = ("split", FRAME_CAPTIONS)
    for line, row in read_table(table, ("video", "caption"), optional, config.encoding, blank=(FRAME_CAPTIONS,)):
        video = _inside(row["video"], f"{table}, line {line}")
        captions.setdefault(video, []).append(row["caption"])
        of_frames.setdefault(video, []).append(_parted(row.get(FRAME_CAPTIONS, ""), f"{table}, line {line}"))
        if "split" in row:
            _set_split(splits, video, row["split"], f"{table}, line {line}")
    if not captions:
        raise BenchmarkError(f"{table} has no rows: expected a table with the columns video, caption and, if you like, split")
    splits = splits or _random_splits(sorted(captions), config)
    paths = place_videos(place, captions)
    _refuse_one_file_in_two_splits(paths, splits)
    return [
        Record(
            video, paths[video], tuple(texts), splits[video], frame_captions=tuple(own) if any(own := of_frames[video]) else ()
        )
        for video, texts in captions.items()
    ]


def _table(place: Path) -> Path:
    """The table that a path is, or that lies in the directory."""
    if not place.is_dir():
        return place
    found = [place / f"captions{extension}" for extension in EXTENSIONS if (place / f"captions{extension}").is_file()]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise BenchmarkError(f"{place} holds {names}: say which is meant, benchmark.annotations={found[0]}")
    return found[0] if found else place / "captions.csv"


def _inside(video: str, where: str) -> str:
    """A video's name, spelt in the one way that it has: `./a.mp4` is `a.mp4`."""
    name = posixpath.normpath(video)
    if name.startswith(("../", "/")) or name in ("..", "."):
        raise BenchmarkError(f"{where}: {video}: expected the name of a file below the directory of videos")
    return name


def _parted(text: str, where: str) -> tuple[str, ...]:
    """The captions of frames that a row has."""
    found = tuple(caption.strip() for caption in text.split("|")) if text else ()
    if not all(found):
        raise BenchmarkError(
            f"{where}: {FRAME_CAPTIONS} has an empty caption: expected one for each frame, with | between them"
        )
    return found


def _set_split(splits: dict[str, Split], video: str, split: str, place: str) -> None:
    if splits.setdefault(video, split_of(split, place)) != split:
        raise BenchmarkError(f"{place}: {video} is in two splits, {splits[video]} and {split}")


def _refuse_one_file_in_two_splits(paths: dict[str, str], splits: dict[str, Split]) -> None:
    """Two names may be links to one file."""
    first: dict[tuple[int, int], str] = {}
    for video, path in paths.items():
        with suppress(OSError):
            status = os.stat(path)
            other = first.setdefault((status.st_dev, status.st_ino), video)
            if splits[other] != splits[video]:
                raise BenchmarkError(f"{other} ({splits[other]}) and {video} ({splits[video]}) are the same file: a leak")


def _random_splits(videos: list[str], config: Config) -> dict[str, Split]:
    order = random.Random(config.split_seed).sample(videos, len(videos))
    val, test = (max(1, round(len(order) * share)) for share in (config.val_fraction, config.test_fraction))
    if val + test >= len(order):
        raise BenchmarkError(f"{len(order)} videos are too few to split into train, val and test: give a split column")
    return {video: "val" if place < val else "test" if place < val + test else "train" for place, video in enumerate(order)}
