"""ActivityNet Captions, paragraph retrieval: all sentences of a video, joined by one space in file order, are its one query.

Files: `train.json` and `val_1.json` (official), and, if they are there, `train_ids.json` and `val_ids.json`, which give the
order and hold some ids without captions (15 and 9), which are skipped. Training: 10,009 videos (37,421 sentences). Test:
val_1, 4,917 videos (17,505 sentences); val_2 is not used. Validation: 500 training videos held out by seed 0
(`benchmark.validation`). No time window: the whole video. Files: the id, with or without `v_`, any extension, at any depth.
Evaluation needs `val_1.json` alone.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from typing_extensions import TypedDict

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

VIDEOS = {"train": 10_009, "test": 4_917}
SOURCE = "ActivityNet Captions (Krishna et al., ICCV 2017), captions.zip"
FILES: tuple[tuple[Split, str, str], ...] = (("train", "train.json", "train_ids.json"), ("test", "val_1.json", "val_ids.json"))

CAPTIONS = 'the captions, {"v_...": {"sentences": [...]}}'


class _Captions(TypedDict):
    sentences: list[str]


EXAMPLE = Example(
    {
        "train.json": """{
 "v_-aaaaaaaaa1": {
  "duration": 82.7, "timestamps": [[9, 19.9], [0, 60]], "sentences": ["A man runs.", " He falls. "]
 },
 "v_aaaaaaaaaa2": {"duration": 2.0, "timestamps": [[0, 1]], "sentences": ["Rain."]}
}
""",
        "val_1.json": """{
 "v__aaaaaaaaa3": {"duration": 3.0, "timestamps": [[0, 1]], "sentences": ["Snow.", "It melts."]}
}
""",
        "train_ids.json": '["v_aaaaaaaaaa2", "v_without_cap", "v_-aaaaaaaaa1"]',
        "val_ids.json": '["v__aaaaaaaaa3", "v_without_ca2"]',
    },
    {"validation": 1},
    optional=("train.json", "train_ids.json", "val_ids.json"),
)


class Config(BenchmarkConfig):
    """What validates."""

    validation: int = Field(
        500, ge=0, description="training videos held out, by seed 0; 0 trains on all, with training.select=test, as peers do"
    )


def records(config: Config) -> list[Record]:
    """One record a video that has captions, its id with `v_`. Raises BenchmarkError naming the file and its fault."""
    videos, annotations = folders(config)
    found: list[tuple[Split, str, str]] = []
    for split, captions, ids in FILES:
        if split != "test" and not has_split(annotations / captions, split):
            continue
        paragraphs = _paragraphs(annotations / captions, annotations / ids, config.encoding)
        found += [(split, video_id, text) for video_id, text in paragraphs.items()]
    refuse_twice([video_id for _, video_id, _ in found], f"{annotations}/train.json and val_1.json")
    paths = find_videos(videos, [video_id.removeprefix("v_") for _, video_id, _ in found], prefix="v_")
    return hold_out([Record(v, paths[v.removeprefix("v_")], (text,), split) for split, v, text in found], config.validation, 0)


def protocol(config: Config) -> Protocol:
    """Counted in the files, less the videos held out; CLIP4Clip's limits."""
    videos: dict[Split, int] = {
        "train": VIDEOS["train"] - config.validation,
        "val": config.validation,
        "test": VIDEOS["test"],
    }
    return Protocol(videos, videos, "all captions of a video, joined", frames=64, tokens=64, source=SOURCE)


def _paragraphs(path: Path, ids_file: Path, encoding: str) -> dict[str, str]:
    """The joined sentences of each id, not stripped."""
    entries = read_json(path, CAPTIONS, dict[str, _Captions], encoding)
    ids = read_json(ids_file, "a list of ids", list[str], encoding) if ids_file.exists() else list(entries)
    texts = {video_id: " ".join(entries[video_id]["sentences"]) for video_id in ids if video_id in entries}
    silent = [video_id for video_id, text in texts.items() if not text.strip()]
    if silent:
        raise BenchmarkError(f"{path}: no sentence for {len(silent)} videos: {', '.join(silent[:5])}")
    return texts
