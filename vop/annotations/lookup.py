"""Names of videos -> files, at any depth below a folder or URI."""

from __future__ import annotations

import logging
import os
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from vop.annotations.records import BenchmarkError
from vop.config import BenchmarkConfig
from vop.places import PlaceError, absolute, as_text, is_remote, join, located

log = logging.getLogger(__name__)

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
        if not (is_remote(value) and key == "videos") and not Path(os.path.expanduser(value)).is_dir():
            raise BenchmarkError(f"benchmark.{key}: {value} is not a directory: expected {what} of {config.name}")
    return absolute(config.videos), Path(absolute(config.annotations))


def find_videos(folder: str | Path, names: Iterable[str], extension: str = ".mp4", prefix: str = "") -> dict[str, str]:
    """The place of each name's file at any depth below `folder`, which is walked once.

    A name is a file's name with or without extension. Its file is called exactly so, or so with a known extension added, or
    has the name's stem and another known extension (EXTENSIONS, in that order). A file's name may begin with `prefix`, and may
    be spelt in another Unicode form (as in archives made on a Mac). A name without a file gets the place where it was
    expected: `extension` is added unless it has one.
    """
    exact: dict[str, str] = {}
    by_stem: dict[str, list[str]] = {}
    for path in _files(str(folder)):
        for name in {_composed(os.path.basename(path)), _composed(os.path.basename(path)).removeprefix(prefix)}:
            exact.setdefault(name, path)
            if (stem := stem_of(name)) != name:
                by_stem.setdefault(stem, []).append(path)

    def find(name: str) -> str:
        if name in exact:
            return as_text(exact[name])
        paths = by_stem.get(name) or by_stem.get(stem_of(name))
        if paths:
            return as_text(min(paths, key=lambda path: EXTENSIONS.index(path[len(path.rpartition(".")[0]) :].lower())))
        return join(str(folder), name if stem_of(name) != name else name + extension)

    found = {name: find(_composed(name)) for name in names}
    _tell_forms({name: place for name, place in found.items() if name not in place and _composed(name) in _composed(place)})
    return found


def place_videos(folder: str, names: Iterable[str]) -> dict[str, str]:
    """The place of each file by its path below a folder or URI; one that is there in another Unicode form is taken."""
    found = {name: join(folder, name) for name in names}
    absent = [] if is_remote(folder) else [name for name, place in found.items() if not os.path.lexists(place)]
    if absent:
        there = {_composed(os.path.relpath(path, folder)): path for path in _files(folder)}
        others = {name: as_text(there[_composed(name)]) for name in absent if _composed(name) in there}
        _tell_forms(others)
        found |= others
    return found


def _composed(name: str) -> str:
    """A name in the one Unicode form in which names are compared."""
    return unicodedata.normalize("NFC", name)


def _tell_forms(others: dict[str, str]) -> None:
    if others:
        name = next(iter(others))
        log.warning("%d files are named in another Unicode form than in the annotations, such as %s: taken", len(others), name)


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
        filesystem, inside = located(uri)
        found = filesystem.get_file_info(fs.FileSelector(inside, recursive=True))
    except (PlaceError, pa.ArrowException, OSError, ValueError) as error:
        raise BenchmarkError(f"benchmark.videos: {uri} cannot be listed: {error}") from error
    for path in sorted(info.path for info in found if info.is_file):
        yield join(uri, path.removeprefix(inside.rstrip("/")).lstrip("/"))
