"""Your own videos: a directory and a CSV with the columns `video`, `caption` and, if you like, `split`.

The directory may be a URI that pyarrow knows (s3://bucket/videos); the CSV is a file on this machine.

A video may have several rows, one a caption. Without a split column, a split is made by video with `split_seed`:
`val_fraction` and `test_fraction` of the videos, the rest for training.
"""

from __future__ import annotations

import csv
import random
from pathlib import Path

from pydantic import Field

from vop.benchmarks import SPLITS, BenchmarkError, Record, Split
from vop.config import BenchmarkConfig


class Config(BenchmarkConfig):
    """`videos`: the directory; `annotations`: the CSV, or the directory of captions.csv (default: `videos`)."""

    split_seed: int = 0
    val_fraction: float = Field(0.1, ge=0, lt=1)
    test_fraction: float = Field(0.2, ge=0, lt=1)


def records(config: Config) -> list[Record]:
    """One record a video. Raises BenchmarkError naming file, line and what is valid."""
    if not config.videos:
        raise BenchmarkError("benchmark.videos: give the directory of your videos, benchmark.videos=/path/to/videos")
    remote = "://" in config.videos
    if remote and not config.annotations:
        raise BenchmarkError("benchmark.annotations: give the CSV file, on this machine, of the videos at benchmark.videos")
    folder = Path() if remote else Path(config.videos).expanduser().resolve()
    table = Path(config.annotations).expanduser() if config.annotations else folder / "captions.csv"
    if table.is_dir():
        table /= "captions.csv"
    for path, what in ((folder, "a directory of videos"), (table, "a CSV with the columns video, caption[, split]")):
        if not path.exists():
            raise BenchmarkError(f"{path} does not exist: expected {what}")
    captions: dict[str, list[str]] = {}
    splits: dict[str, Split] = {}
    for line, row in enumerate(_rows(table), start=2):
        video, caption = (row["video"] or "").strip(), (row["caption"] or "").strip()
        if not video or not caption:
            raise BenchmarkError(f"{table}, line {line}: video and caption must not be empty")
        captions.setdefault(video, []).append(caption)
        if "split" in row:
            _set_split(splits, video, (row["split"] or "").strip(), f"{table}, line {line}")
    splits = splits or _random_splits(sorted(captions), config)
    place = config.videos.rstrip("/") if remote else str(folder)
    return [Record(video, f"{place}/{video}", tuple(texts), splits[video]) for video, texts in captions.items()]


def _rows(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        unknown = [column for column in columns if column not in ("video", "caption", "split")]
        if unknown or not {"video", "caption"} <= set(columns):
            raise BenchmarkError(f"{table}: its columns are {', '.join(columns)}; expected video, caption[, split]")
        return list(reader)


def _set_split(splits: dict[str, Split], video: str, split: str, place: str) -> None:
    known = {name: name for name in SPLITS}
    if split not in known:
        raise BenchmarkError(f"{place}: split {split!r}; valid: {', '.join(SPLITS)}")
    if splits.setdefault(video, known[split]) != split:
        raise BenchmarkError(f"{place}: {video} is in two splits, {splits[video]} and {split}")


def _random_splits(videos: list[str], config: Config) -> dict[str, Split]:
    order = random.Random(config.split_seed).sample(videos, len(videos))
    val, test = (max(1, round(len(order) * share)) for share in (config.val_fraction, config.test_fraction))
    if val + test >= len(order):
        raise BenchmarkError(f"{len(order)} videos are too few to split into train, val and test: give a split column")
    return {video: "val" if place < val else "test" if place < val + test else "train" for place, video in enumerate(order)}
