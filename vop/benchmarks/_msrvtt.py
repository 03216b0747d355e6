"""MSR-VTT's file formats, read unchanged: a json of sentences, a csv of training ids, a csv of test pairs.

Shared by the benchmarks that come in these files. Protocol: every caption of a training video is a pair of its own; a test
video has one caption; the csv's ids decide the splits, never the json's `split`.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path

from vop.benchmarks import BenchmarkError, Record

EXTENSIONS = (".mp4", ".webm", ".mkv", ".avi")


def read_records(videos: Path, sentences: Path, train_ids: Path, test_pairs: Path) -> list[Record]:
    """Training and test records from the three files; `videos` is the flat folder of `<video_id>.mp4`.

    Raises BenchmarkError for a missing file, a missing column, a training id without captions, an id given twice.
    """
    captions = _captions(sentences)
    train = [row["video_id"] for row in _rows(train_ids, ["video_id"])]
    test = [(row["video_id"], row["sentence"]) for row in _rows(test_pairs, ["video_id", "sentence"])]
    _refuse_twice(train, train_ids)
    _refuse_twice([video_id for video_id, _ in test], test_pairs)
    both = sorted({*train} & {video_id for video_id, _ in test})
    if both:
        raise BenchmarkError(f"{len(both)} ids are in both {train_ids} and {test_pairs}: {', '.join(both[:5])}")
    silent = [video_id for video_id in train if video_id not in captions]
    if silent:
        raise BenchmarkError(f"{sentences}: no caption for {len(silent)} videos of {train_ids}: {', '.join(silent[:5])}")
    return [
        *(Record(v, str(find_video(videos, v)), tuple(captions[v]), "train") for v in train),
        *(Record(v, str(find_video(videos, v)), (sentence,), "test") for v, sentence in test),
    ]


def find_video(folder: Path, video_id: str) -> Path:
    """The video's file, by the first extension that exists; else where it was expected."""
    candidates = [folder / f"{video_id}{extension}" for extension in EXTENSIONS]
    return next((path for path in candidates if path.exists()), candidates[0])


def _captions(path: Path) -> dict[str, list[str]]:
    if not path.is_file():
        raise BenchmarkError(f"{path} is missing: it holds the captions")
    captions: dict[str, list[str]] = defaultdict(list)
    try:
        for sentence in json.loads(path.read_text(encoding="utf-8"))["sentences"]:
            captions[sentence["video_id"]].append(sentence["caption"])
    except (ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(f'{path}: expected {{"sentences": [{{"video_id": ..., "caption": ...}}]}}: {error!r}') from error
    return captions


def _rows(path: Path, columns: list[str]) -> list[dict[str, str]]:
    if not path.is_file():
        raise BenchmarkError(f"{path} is missing: expected a CSV with the columns {', '.join(columns)}")
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = [column for column in columns if column not in (reader.fieldnames or [])]
        if missing:
            raise BenchmarkError(f"{path}: no column {', '.join(missing)}; its columns: {', '.join(reader.fieldnames or [])}")
        rows = list(reader)
    for line, row in enumerate(rows, start=2):
        empty = [column for column in columns if not (row[column] or "").strip()]
        if empty:
            raise BenchmarkError(f"{path}, line {line}: {', '.join(empty)} must not be empty")
    return rows


def _refuse_twice(ids: list[str], path: Path) -> None:
    if len(set(ids)) < len(ids):
        twice = sorted({video_id for video_id in ids if ids.count(video_id) > 1})
        raise BenchmarkError(f"{path}: {len(twice)} ids are listed twice: {', '.join(twice[:5])}")
