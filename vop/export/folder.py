"""What all forms of an export share: the folder, which models have a form, libraries that are no dependency of this project."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from os import PathLike
from os.path import expanduser
from pathlib import Path
from typing import Any

from vop.config import Experiment
from vop.errors import VopError
from vop.model.architecture import RANDOM, tags_of
from vop.model.head import is_dot
from vop.places import told


class ExportError(VopError, ValueError):
    """A model or a folder that cannot be exported so, or a library that it needs; the message says which and what is valid."""


@contextmanager
def new_folder(place: str | PathLike[str]) -> Iterator[Path]:
    """A folder to write into that is new or empty; what was written is removed if that fails.

    Raises ExportError for one that holds files, PlaceError where none can be made.
    """
    folder = Path(expanduser(place))
    with told(str(folder)):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ExportError(f"{place} is there already: give a folder that is new or empty")
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def check_embeds(experiment: Experiment) -> None:
    """Raise ExportError for a head without an embedding of a video: only dot products have a meaning elsewhere."""
    if not is_dot(experiment.head):
        raise ExportError(
            f"head.name: {experiment.head.name}: its scores are no cosines of embeddings, so other libraries cannot use it; "
            "valid: mean, alone or after frame stages"
        )


def library(name: str, extra: str = "export") -> Any:
    """A module of a library that this project does not depend on. Raises ExportError where it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ExportError(f"{name} is needed for this and cannot be imported ({error}): pip install 'vop[{extra}]'") from error


def write_json(file: Path, content: Any) -> None:
    """Raises PlaceError where it cannot be written."""
    with told(str(file.parent)):
        file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def own_weights(experiment: Experiment) -> bool:
    """Whether the backbone's weights are a file of the user's own, which an export does not hold."""
    backbone = experiment.backbone
    return backbone.pretrained not in (RANDOM, *tags_of(backbone.name))
