"""MSR-VTT's file formats, read unchanged: a json of sentences, a csv of training ids, a csv of test pairs.

Shared by the benchmarks that come in these files. Protocol: every caption of a training video is a pair of its own; a test
video has one caption; the csv's ids decide the splits, never the json's `split`.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from pathlib import Path

from pydantic import Field

from vop.benchmarks import (
    BenchmarkError,
    Protocol,
    Record,
    Split,
    find_videos,
    folders,
    hold_out,
    read_json,
    read_text,
    refuse_twice,
)
from vop.config import BenchmarkConfig

CAPTIONS_A_VIDEO = 20  # of training; a test video has one


class Config(BenchmarkConfig):
    """`validation`: training videos held out, by seed 0; 0 trains on all, with training.select=test, as peers do."""

    validation: int = Field(500, ge=0)


def published_records(config: Config, train_ids: str) -> list[Record]:
    """The records of a benchmark that comes in MSR-VTT's own files, some training videos held out for validation."""
    videos, annotations = folders(config)
    names = ("MSRVTT_data.json", train_ids, "MSRVTT_JSFUSION_test.csv")
    return hold_out(read_records(videos, *(annotations / name for name in names)), config.validation, seed=0)


def published(config: Config, train: int, source: str) -> Protocol:
    """What is published of `train` training videos and the 1,000 test pairs "1k-A"."""
    videos: dict[Split, int] = {"train": train - config.validation, "val": config.validation, "test": 1000}
    captions: dict[Split, int] = {
        split: count * (1 if split == "test" else CAPTIONS_A_VIDEO) for split, count in videos.items()
    }
    return Protocol(videos, captions, "each caption", frames=12, tokens=32, source=source, extension=".mp4")


def read_records(videos: str | Path, sentences: Path, train_ids: Path, test_pairs: Path) -> list[Record]:
    """Training and test records from the three files; `videos` is the folder of `<video_id>.mp4`, at any depth.

    Raises BenchmarkError for a missing file, a missing column, a training id without captions, an id given twice.
    """
    captions = _captions(sentences)
    train = [row["video_id"] for row in _rows(train_ids, ["video_id"])]
    test = [(row["video_id"], row["sentence"]) for row in _rows(test_pairs, ["video_id", "sentence"])]
    refuse_twice(train, train_ids)
    refuse_twice([video_id for video_id, _ in test], test_pairs)
    both = sorted({*train} & {video_id for video_id, _ in test})
    if both:
        raise BenchmarkError(f"{len(both)} ids are in both {train_ids} and {test_pairs}: {', '.join(both[:5])}")
    silent = [video_id for video_id in train if video_id not in captions]
    if silent:
        raise BenchmarkError(f"{sentences}: no caption for {len(silent)} videos of {train_ids}: {', '.join(silent[:5])}")
    paths = find_videos(videos, [*train, *(video_id for video_id, _ in test)])
    return [
        *(Record(v, paths[v], tuple(captions[v]), "train") for v in train),
        *(Record(v, paths[v], (sentence,), "test") for v, sentence in test),
    ]


def _captions(path: Path) -> dict[str, list[str]]:
    data = read_json(path, "the captions")
    captions: dict[str, list[str]] = defaultdict(list)
    try:
        for sentence in data["sentences"]:
            captions[sentence["video_id"]].append(sentence["caption"])
    except (KeyError, TypeError) as error:
        raise BenchmarkError(f'{path}: expected {{"sentences": [{{"video_id": ..., "caption": ...}}]}}: {error!r}') from error
    return captions


def _rows(path: Path, columns: list[str]) -> list[dict[str, str]]:
    reader = csv.DictReader(io.StringIO(read_text(path, f"a CSV with the columns {', '.join(columns)}"), newline=""))
    missing = [column for column in columns if column not in (reader.fieldnames or [])]
    if missing:
        raise BenchmarkError(f"{path}: no column {', '.join(missing)}; its columns: {', '.join(reader.fieldnames or [])}")
    rows = list(reader)
    for line, row in enumerate(rows, start=2):
        empty = [column for column in columns if not (row[column] or "").strip()]
        if empty:
            raise BenchmarkError(f"{path}, line {line}: {', '.join(empty)} must not be empty")
    return rows
