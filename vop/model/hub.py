"""Adapters on the Hugging Face hub: `hf://ORG/NAME[@REVISION]`, through huggingface_hub where that is installed.

Of a model there only an adapter's files are fetched; nothing of them is run. Access is huggingface_hub's own: `hf auth login`
or HF_TOKEN, and HF_ENDPOINT for another hub.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

from vop.errors import AdapterError
from vop.messages import one_line
from vop.model.card import CARD, PEFT_CONFIG, PEFT_TENSORS, SHOWN, TENSORS

HUB = "hf://"
PLACE = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w.-]+(?:/[\w.-]+)*))?")
FILES = (CARD, TENSORS, PEFT_CONFIG, PEFT_TENSORS)
COPIES = "vop"  # a folder beside a model's snapshots: there files are links out of the folder, which adapters may not have


def is_hub(place: str | PathLike[str]) -> bool:
    """Whether a place is on the hub."""
    return isinstance(place, str) and place.startswith(HUB)


def fetched(place: str) -> Path:
    """The folder of this machine with the adapter's files of a model on the hub, downloaded where they are not there yet.

    Without a connection it is what was fetched last. Raises AdapterError for a place that is none, for a model or a revision
    that is not there or may not be read, for one that is no adapter, and where the hub does not answer.
    """
    name, revision = named(place)
    hub = _library(place)
    try:
        snapshot = Path(hub.snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
    except Exception as error:  # of the hub, of the connection, of the disk
        raise AdapterError(_why(place, error)) from error
    if not (snapshot / CARD).is_file():
        raise AdapterError(f"{place} is not an adapter: the model on the hub has no {CARD}")
    folder = snapshot.parents[1] / COPIES / snapshot.name
    folder.mkdir(parents=True, exist_ok=True)
    for file in FILES:
        if (snapshot / file).is_file():
            _linked((snapshot / file).resolve(), folder / file)
    return folder


def pushed(folder: Path, place: str, private: bool = False) -> str:
    """Upload a folder as a model on the hub, which is made if it is not there; returns its address.

    Raises AdapterError as `fetched` does.
    """
    name, revision = named(place)
    hub = _library(place)
    try:
        api = hub.HfApi()
        api.create_repo(name, private=private, exist_ok=True)
        done = api.upload_folder(repo_id=name, folder_path=folder, revision=revision, commit_message="Adapter")
    except Exception as error:
        raise AdapterError(_why(place, error)) from error
    return str(done.commit_url)


def named(place: str) -> tuple[str, str | None]:
    """The model's name and the revision. Raises AdapterError for what is no place on the hub."""
    if not (found := PLACE.fullmatch(place)):
        raise AdapterError(f"{place} is no place on the hub; valid: {HUB}ORG/NAME or {HUB}ORG/NAME@REVISION")
    return found[1], found[2]


def _library(place: str) -> Any:
    try:
        return import_module("huggingface_hub")
    except ImportError as error:
        raise AdapterError(f"{place} needs huggingface_hub, which is not installed: pip install 'vop[export]'") from error


def _why(place: str, error: Exception) -> str:
    """What is wrong with a place, by what huggingface_hub raised. Newer classes come first: some are kinds of others."""
    kinds = [kind.__name__ for kind in type(error).__mro__]
    if "GatedRepoError" in kinds:
        return f"{place}: its owners let nobody read it who has not asked: do so on its page, then hf auth login"
    if "RepositoryNotFoundError" in kinds:
        return f"{place}: no such model on the hub, or none that you may read (hf auth login, or HF_TOKEN)"
    if "RevisionNotFoundError" in kinds:
        return f"{place}: the model has no such revision"
    if "LocalEntryNotFoundError" in kinds or "OfflineModeIsEnabled" in kinds or "ConnectError" in kinds:
        return f"{place}: the hub does not answer, and this was not fetched before (HF_ENDPOINT, HF_HUB_OFFLINE)"
    return f"{place}: {one_line(error)[:SHOWN]}"


def _linked(source: Path, target: Path) -> None:
    """The same file under another name, or a copy where the disk has no links; a snapshot of a commit never changes."""
    if target.is_file():
        return
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        os.link(source, partial)
    except OSError:
        shutil.copyfile(source, partial)
    with suppress(FileNotFoundError):  # another process has done the same
        partial.replace(target)
