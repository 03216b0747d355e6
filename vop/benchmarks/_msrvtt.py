"""MSR-VTT's file formats, read unchanged: a json of sentences, a csv of training ids, a csv of test pairs.

Shared by the benchmarks that come in these files. The sentences are in peers' one file, `MSRVTT_data.json`, or in the two
official ones. Protocol: every caption of a training video is a pair of its own; a test video has one caption; the csv's ids
decide the splits, never the json's `split`. Evaluation needs the csv of test pairs alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field
from typing_extensions import TypedDict

from vop.annotations.tables import Caption, read_table
from vop.benchmarks import (
    BenchmarkError,
    Example,
    Protocol,
    Record,
    Split,
    find_videos,
    folders,
    has_split,
    hold_out,
    read_json,
    refuse_twice,
)
from vop.config import BenchmarkConfig

CAPTIONS_A_VIDEO = 20  # of training; a test video has one
SENTENCES = """{"sentences": [
 {"video_id": "video7", "caption": "a dog runs"},
 {"video_id": "video2", "caption": "a cat, asleep"},
 {"video_id": "video7", "caption": "ein Hund läuft"},
 {"video_id": "video9", "caption": "unused"}
]}
"""
TEST = """\
key,vid_key,video_id,sentence
ret0,msr9,video9,"a man says ""hi"", then leaves"
ret1,msr4,video4,rain falls
"""

PEERS = "MSRVTT_data.json"
OFFICIAL = ("train_val_videodatainfo.json", "test_videodatainfo.json")
CAPTIONS = 'the captions, {"sentences": [{"video_id": ..., "caption": ...}]}' + f" (or {' and '.join(OFFICIAL)})"


class Config(BenchmarkConfig):
    """What validates."""

    validation: int = Field(
        500, ge=0, description="training videos held out, by seed 0; 0 trains on all, with training.select=test, as peers do"
    )


def example(train_ids: str) -> Example:
    """The three files of a benchmark, tiny."""
    files = {PEERS: SENTENCES, train_ids: "video_id\nvideo7\nvideo2\n", "MSRVTT_JSFUSION_test.csv": TEST}
    return Example(files, {"validation": 1}, optional=(PEERS, train_ids))


def published_records(config: Config, train_ids: str) -> list[Record]:
    """The records of a benchmark that comes in MSR-VTT's own files, some training videos held out for validation."""
    videos, annotations = folders(config)
    peers, official = annotations / PEERS, [annotations / name for name in OFFICIAL]
    sentences = [peers] if peers.exists() else [path for path in official if path.exists()] or [peers]
    test_pairs = annotations / "MSRVTT_JSFUSION_test.csv"
    records = read_records(videos, sentences, annotations / train_ids, test_pairs, config.encoding)
    return hold_out(records, config.validation, seed=0)


def published(config: Config, train: int, source: str) -> Protocol:
    """What is published of `train` training videos and the 1,000 test pairs "1k-A"."""
    videos: dict[Split, int] = {"train": train - config.validation, "val": config.validation, "test": 1000}
    captions: dict[Split, int] = {
        split: count * (1 if split == "test" else CAPTIONS_A_VIDEO) for split, count in videos.items()
    }
    return Protocol(videos, captions, "each caption", frames=12, tokens=32, source=source, extension=".mp4")


class _Sentence(TypedDict):
    video_id: str
    caption: Caption


class _Sentences(TypedDict):
    sentences: list[_Sentence]


def read_records(
    videos: str | Path, sentences: Sequence[Path], train_ids: Path, test_pairs: Path, encoding: str = "utf-8"
) -> list[Record]:
    """Training and test records; `videos` is the folder of `<video_id>.mp4`, at any depth.

    Raises BenchmarkError for a missing file, a missing column, a training id without captions, an id given twice.
    """
    captions: dict[str, list[str]] = defaultdict(list)
    train: list[str] = []
    if all(has_split(path, "train") for path in (train_ids, *sentences)):
        train = [row["video_id"] for _, row in read_table(train_ids, ["video_id"], encoding=encoding)]
        for path in sentences:
            for sentence in read_json(path, CAPTIONS, _Sentences, encoding)["sentences"]:
                captions[sentence["video_id"]].append(sentence["caption"])
    test = [
        (row["video_id"], row["sentence"]) for _, row in read_table(test_pairs, ["video_id", "sentence"], encoding=encoding)
    ]
    refuse_twice(train, train_ids)
    refuse_twice([video_id for video_id, _ in test], test_pairs)
    both = sorted({*train} & {video_id for video_id, _ in test})
    if both:
        raise BenchmarkError(f"{len(both)} ids are in both {train_ids} and {test_pairs}: {', '.join(both[:5])}")
    silent = [video_id for video_id in train if video_id not in captions]
    if silent:
        files = " and ".join(map(str, sentences))
        raise BenchmarkError(f"{files}: no caption for {len(silent)} videos of {train_ids}: {', '.join(silent[:5])}")
    paths = find_videos(videos, [*train, *(video_id for video_id, _ in test)])
    return [
        *(Record(v, paths[v], tuple(captions[v]), "train") for v in train),
        *(Record(v, paths[v], (sentence,), "test") for v, sentence in test),
    ]
