"""What of a search can be known to be wrong before torch, Ray and MLflow are imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipelines.locations import adapter_folder
from vop.benchmarks.gallery import folder_of
from vop.config import ConfigError
from vop.model.card import read_card


def check_search(where: str | Path, videos: str, texts: Sequence[str]) -> None:
    """Raise AdapterError for no adapter, ConfigError for no text, BenchmarkError for a folder of videos that is not there."""
    if not texts or not all(text.strip() for text in texts):
        raise ConfigError("give one or more texts to search for, such as 'a dog jumps over a fence'")
    folder_of(videos)
    folder = adapter_folder(where)
    if folder is not None:
        read_card(folder)
