"""Makes an index of a folder's videos grow: decodes and embeds what it lacks, and keeps no frames.

A part is written when it is large or old enough: who is killed goes on with the files whose windows were in no part yet.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.score.adapters import find_adapter
from pipelines.search.changes import find_changes
from pipelines.search.check import STRIDE, WINDOW, check_index
from pipelines.search.fill import fill
from vop.claim import claimed
from vop.config import load_experiment
from vop.fingerprint import fingerprint
from vop.index.near import NEAR, extend
from vop.index.rows import is_tiny
from vop.index.table import ADAPTER, PARTS, Manifest, Table, VideoIndexError, append, is_index, read_table, write_manifest
from vop.model.adapter import Adapter, adapter_of, load_adapter, save_adapter, settings_of
from vop.model.architecture import FILE
from vop.model.retrieval import build_model
from vop.places import absolute, join
from vop.retriever import ZERO_SHOT, Retriever, zero_shot
from vop.whole import set_aside

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Indexed:
    """What an index holds now, in files and windows, and what was done: files embedded, kept by their content, gone.

    failed: {path: why it cannot be read}, of the files that were tried now; unreadable: how many of all.
    """

    folder: str
    videos: int
    windows: int
    unreadable: int
    embedded: int
    kept: int
    gone: int
    failed: dict[str, str]


def index(
    videos: str,
    to: str,
    model: str = "",
    window: float | None = None,
    stride: float | None = None,
    overrides: Sequence[str] = (),
) -> Indexed:
    """Make the index `to` hold the videos below `videos` as they are now, beside those of other folders.

    model: an adapter as in `find_adapter`, or a CLIP as in `Retriever.load`; window, stride: seconds. A new index takes
    defaults for what is not given, one that is there has its own. Raises VideoIndexError for another model or other windows
    than the index has, BenchmarkError for a folder without videos, and as `find_adapter` does.
    """
    check_index(videos, to, model, window, stride)
    to, videos = absolute(to), absolute(videos)
    adapter = find_model(model or ZERO_SHOT, overrides) if model or not is_index(to) else None
    with claimed(to):
        for left in (file for part in ("", PARTS, NEAR) for file in Path(to, part).glob("*.partial")):  # of a killed command
            left.unlink()
        if adapter is not None:
            _begin(to, adapter, window or WINDOW, stride or min(STRIDE, window or WINDOW))
        table = _whole(to)
        changes = find_changes(table, videos)
        if rows := [*changes.gone, *changes.again]:
            append(table, rows)
        failed = fill(table, loaded(table, overrides), changes.todo) if changes.todo else {}
        extend(table)
    unreadable = sum(bool(file.error) for file in table.files.values())
    windows = sum(len(table.held[content].end_N) for content in table.found)
    embedded, kept, gone = len(changes.todo) - len(failed), len(changes.again), len(changes.gone)
    return Indexed(to, len(table.files) - unreadable, windows, unreadable, embedded, kept, gone, failed)


def find_model(where: str, overrides: Sequence[str]) -> Adapter:
    """An adapter, or a CLIP as it is as one without tensors. Raises as `find_adapter` and `build_model` do."""
    plain = None if Path(os.path.expanduser(where)).is_dir() else zero_shot(where)
    if plain is None:
        return find_adapter(where, overrides)
    experiment = load_experiment(plain.tree(), overrides)
    return adapter_of(build_model(experiment), experiment)


def loaded(table: Table, overrides: Sequence[str]) -> Retriever:
    """The model of an index. Raises VideoIndexError for overrides that would make it another one."""
    adapter = load_adapter(join(table.folder, ADAPTER))
    experiment = load_experiment(adapter.experiment.tree(), [*table.manifest.overrides, *overrides])
    if _identity(replace(adapter, experiment=experiment)) != table.manifest.fingerprint:
        raise VideoIndexError(f"{table.folder} was made with another model: leave out {' '.join(overrides)}")
    found = Retriever.load(replace(adapter, experiment=experiment))
    if tiny := is_tiny(found.experiment):
        logger.warning("%s", tiny)
    return found


def _begin(to: str, adapter: Adapter, window: float, stride: float) -> None:
    """Make a new index of a model. Raises VideoIndexError where there is one of another model."""
    identity = _identity(adapter)
    if is_index(to):
        if read_table(to).manifest.fingerprint != identity:
            raise VideoIndexError(f"--model: {to} was made with another model: leave it out, or make another index")
        return
    model = Retriever.load(adapter)
    is_file = settings_of(adapter.experiment)["backbone"]["pretrained"] == FILE
    place = [f"backbone.pretrained={json.dumps(absolute(adapter.experiment.backbone.pretrained))}"] if is_file else []
    save_adapter(adapter, join(to, ADAPTER))
    own = 0 if model.model.head.dot else model.width
    write_manifest(to, Manifest(identity, window, stride, model.dim, own, place))


def _identity(adapter: Adapter) -> str:
    """Another one where a window could have another embedding."""
    frames = adapter.experiment.frames
    return fingerprint([adapter.fingerprint, frames.sampling, frames.candidates, frames.fps])


def _whole(to: str) -> Table:
    """The table of an index, whose damaged parts are named and put out of the way: their files are indexed again."""
    damaged = read_table(to, whole=True).damaged
    for name, fault in damaged.items():
        logger.warning("%s is damaged (%s): its videos are indexed again", join(to, PARTS, name), fault)
        set_aside(join(to, PARTS), name)
    return read_table(to)
