"""What of a search can be known to be wrong before torch, Ray and MLflow are imported."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pipelines.locations import adapter_folder
from vop.benchmarks.gallery import folder_of
from vop.config import ConfigError
from vop.index.table import VideoIndexError, is_index, read_manifest
from vop.messages import one_line
from vop.model.card import read_card
from vop.places import is_remote

WINDOW, STRIDE = 10.0, 5.0  # seconds, of a new index


def check_search(where: str | Path, videos: str, texts: Sequence[str]) -> None:
    """Raise AdapterError for no adapter, ConfigError for no text, BenchmarkError for a folder of videos that is not there."""
    if not texts or not all(text.strip() for text in texts):
        raise ConfigError("give one or more texts to search for, such as 'a dog jumps over a fence'")
    folder_of(videos)
    folder = adapter_folder(where)
    if folder is not None:
        read_card(folder)


def check_index(videos: str, to: str, model: str, window: float | None, stride: float | None) -> None:
    """Raise BenchmarkError for a folder of videos that is not there, AdapterError for a folder that is no adapter.

    ConfigError for windows that leave gaps; VideoIndexError for a folder of something else, and for windows that are not
    those of the index that is there.
    """
    folder_of(videos)
    if model and Path(os.path.expanduser(model)).is_dir():
        read_card(Path(os.path.expanduser(model)))
    for name, given in (("window", window), ("stride", stride)):
        if given is not None and not 0.1 <= given <= 3600:
            raise ConfigError(f"--{name}: {given:g} s; valid: 0.1 to 3600")
    if stride and stride > (window or WINDOW):
        raise ConfigError(f"--stride: {stride:g} s between windows of {window or WINDOW:g} s leave gaps; at most --window")
    place = Path(os.path.expanduser(to))
    if is_remote(to) or (place.exists() and not place.is_dir()):
        raise VideoIndexError(f"--to: {to}: an index is a folder of this machine")
    if not is_index(to):
        if place.is_dir() and not is_begun(to):
            raise VideoIndexError(f"--to: {to} is a folder of something else: give an index, or a folder that is new or empty")
        return
    manifest = read_manifest(to)
    for name, given, own in (("window", window, manifest.window), ("stride", stride, manifest.stride)):
        if given is not None and given != own:
            raise VideoIndexError(f"--{name}: {to} has {own:g} s, not {given:g}: leave it out, or make another index")


def read_queries(file: Path | None) -> list[str]:
    """The lines of a file of texts, empty ones left out; none of no file. Raises ConfigError."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines() if file else []
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--queries: {file}: {one_line(error)}; give a file of UTF-8, one text a line") from error
    return [line.strip() for line in lines if line.strip()]


def is_begun(folder: str) -> bool:
    """Whether a folder holds nothing but what `vop index` writes before an index is one."""
    return set(os.listdir(os.path.expanduser(folder))) <= {".claim", "adapter", "parts"}
