"""Benchmarks, one file each, found by name (`benchmark.name`): annotation files -> records.

A benchmark's file has `records(config) -> list[Record]`, a class `Config(BenchmarkConfig)` if it has fields of its own, and,
if its numbers are published, `protocol(config) -> Protocol`: what `vop verify` holds a dataset to. No torch here.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pyarrow import fs

from vop.config import BenchmarkConfig

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


@dataclass(frozen=True)
class Protocol:
    """What a benchmark publishes, and how it is used here.

    videos, captions: how many of each split, after `config`'s options and without those that are published nowhere; text: what
    a query is; window: as in Record; frames, tokens: the limits that peers (CLIP4Clip, DGL) use, both ends of a text included;
    extension: of all its video files, "" if they differ; source: where the files and the numbers come from.
    """

    videos: Mapping[Split, int]
    captions: Mapping[Split, int]
    text: Literal["each caption", "all captions of a video, joined"]
    frames: int
    tokens: int
    source: str
    window: tuple[float, float] | None = None
    extension: str = ""


# In the order in which they are looked for. A bare dot is how 193 names of DiDeMo end.
EXTENSIONS = (
    *(".mp4", ".avi", ".mov", ".webm", ".mkv", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".3g2", ".3gpp"),
    *(".mts", ".m2ts", ".ts", ".qt", ".asf", ".divx", ".ogv", ".null", "."),
)


def folders(config: BenchmarkConfig) -> tuple[str, Path]:
    """The folders of videos (a path, or a URI that pyarrow knows) and of annotation files.

    Raises BenchmarkError if one is not given or not there.
    """
    for key, what in (("videos", "the folder of the videos"), ("annotations", "the folder of the annotation files")):
        value = getattr(config, key)
        if not value:
            raise BenchmarkError(f"benchmark.{key}: give {what} of {config.name}, benchmark.{key}=/path/to/{key}")
        if not (is_remote(value) and key == "videos") and not Path(value).expanduser().is_dir():
            raise BenchmarkError(f"benchmark.{key}: {value} is not a directory: expected {what} of {config.name}")
    videos = config.videos if is_remote(config.videos) else str(Path(config.videos).expanduser().resolve())
    return videos.rstrip("/"), Path(config.annotations).expanduser().resolve()


def is_remote(place: str) -> bool:
    """Whether a place is a URI (s3://, gs://, ...) and not a path of this machine."""
    return "://" in place


def find_videos(folder: str | Path, names: Iterable[str], extension: str = ".mp4", prefix: str = "") -> dict[str, str]:
    """The path of each name's file at any depth below `folder`, which is walked once.

    A name is a file's name with or without extension. Its file is called exactly so, or so with a known extension added, or
    has the name's stem and another known extension (EXTENSIONS, in that order). A file's name may begin with `prefix`. A
    name without a file gets the path where it was expected: `extension` is added unless it has one.
    """
    exact: dict[str, str] = {}
    by_stem: dict[str, list[str]] = {}
    for path in _files(str(folder)):
        for name in {os.path.basename(path), os.path.basename(path).removeprefix(prefix)}:
            exact.setdefault(name, path)
            if (stem := stem_of(name)) != name:
                by_stem.setdefault(stem, []).append(path)

    def find(name: str) -> str:
        if name in exact:
            return exact[name]
        paths = by_stem.get(name) or by_stem.get(stem_of(name))
        if paths:
            return min(paths, key=lambda path: EXTENSIONS.index(path[len(path.rpartition(".")[0]) :].lower()))
        return f"{folder}/{name if stem_of(name) != name else name + extension}"

    return {name: find(name) for name in names}


def video_files(folder: str) -> list[str]:
    """The paths of all files at any depth below `folder` that have a known extension, in order."""
    return [path for path in _files(folder) if stem_of(os.path.basename(path)) != os.path.basename(path)]


def stem_of(name: str) -> str:
    """A file's name without its extension, if that is a known one: the ids of LSMDC hold dots."""
    stem, dot, extension = name.rpartition(".")
    return stem if (dot + extension).lower() in EXTENSIONS else name


def _files(folder: str) -> Iterator[str]:
    """All files below a folder in sorted order; links to folders are followed, each folder is entered once."""
    if is_remote(folder):
        yield from _remote_files(folder)
        return
    entered: set[tuple[int, int]] = set()
    for root, below, files in os.walk(folder, followlinks=True):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in entered:
            below.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        below.sort()
        yield from (os.path.join(root, name) for name in sorted(files))


def _remote_files(uri: str) -> Iterator[str]:
    try:
        filesystem, inside = fs.FileSystem.from_uri(uri)
        found = filesystem.get_file_info(fs.FileSelector(inside, recursive=True))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BenchmarkError(f"benchmark.videos: {uri} cannot be listed: {error}") from error
    for path in sorted(info.path for info in found if info.is_file):
        yield uri + path.removeprefix(inside.rstrip("/"))


def read_text(path: Path, what: str) -> str:
    """A UTF-8 file, with or without a byte order mark; its lines end in a bare newline. Raises BenchmarkError."""
    if not path.is_file():
        raise BenchmarkError(f"{path} is missing: it holds {what}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BenchmarkError(f"{path}: not UTF-8 text: {error}") from error


def read_json(path: Path, what: str) -> Any:
    """A JSON file. Raises BenchmarkError."""
    try:
        return json.loads(read_text(path, what))
    except ValueError as error:
        if isinstance(error, BenchmarkError):
            raise
        raise BenchmarkError(f"{path}: not JSON: {error}") from error


def refuse_twice(ids: Sequence[str], where: object) -> None:
    """Raises BenchmarkError if an id is listed twice."""
    if len(set(ids)) < len(ids):
        twice = sorted(video_id for video_id, count in Counter(ids).items() if count > 1)
        raise BenchmarkError(f"{where}: {len(twice)} ids are listed twice: {', '.join(twice[:5])}")


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
