"""ActivityNet Captions, paragraph retrieval: all sentences of a video, joined by one space in file order, are its one query.

Files: `train.json` and `val_1.json` (official), and, if they are there, `train_ids.json` and `val_ids.json`, which give the
order and hold some ids without captions (15 and 9), which are skipped. Training: 10,009 videos (37,421 sentences). Test:
val_1, 4,917 videos (17,505 sentences); val_2 is not used. Validation: 500 training videos held out by seed 0
(`benchmark.validation`). No time window: the whole video. Files: the id, with or without `v_`, any extension, at any depth.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from vop.benchmarks import BenchmarkError, Protocol, Record, Split, find_videos, folders, hold_out, read_json, refuse_twice
from vop.config import BenchmarkConfig

VIDEOS = {"train": 10_009, "test": 4_917}
SOURCE = "ActivityNet Captions (Krishna et al., ICCV 2017), captions.zip"
FILES: tuple[tuple[Split, str, str], ...] = (("train", "train.json", "train_ids.json"), ("test", "val_1.json", "val_ids.json"))


class Config(BenchmarkConfig):
    """`validation`: training videos held out, by seed 0; 0 trains on all, with training.select=test, as peers do."""

    validation: int = Field(500, ge=0)


def records(config: Config) -> list[Record]:
    """One record a video that has captions, its id with `v_`. Raises BenchmarkError naming the file and its fault."""
    videos, annotations = folders(config)
    found: list[tuple[Split, str, str]] = []
    for split, captions, ids in FILES:
        paragraphs = _paragraphs(annotations / captions, annotations / ids)
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


def _paragraphs(path: Path, ids_file: Path) -> dict[str, str]:
    """The joined sentences of each id, not stripped."""
    data = read_json(path, "the captions")
    try:
        texts = {video_id: " ".join(entry["sentences"]) for video_id, entry in data.items()}
        ids = read_json(ids_file, "a list of ids") if ids_file.exists() else list(texts)
        return {video_id: texts[video_id] for video_id in ids if video_id in texts}
    except (KeyError, TypeError, AttributeError) as error:
        expected = f'{{"v_...": {{"sentences": [...]}}}}, and a list of such ids in {ids_file.name}'
        raise BenchmarkError(f"{path}: expected {expected}: {error!r}") from error
