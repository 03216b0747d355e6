"""Is a frame store whole? Every byte of it is read, and every video of the benchmark accounted for: `vop doctor --store`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data import shards
from pipelines.data.lists import is_listed
from pipelines.data.status import SHARDS
from pipelines.data.store import StoreError
from pipelines.data.tasks import Tasks, find_tasks
from vop.claim import claimed
from vop.config import Experiment
from vop.messages import Progress
from vop.places import PlaceError, amount, join, listed, located
from vop.whole import set_aside

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Examined:
    """A store's folder, how many videos and shards it holds, what is wrong (a line each), and what is told and no fault."""

    folder: str
    videos: int
    shards: int
    faults: list[str]
    notes: list[str]


def examine(experiment: Experiment, image_size: int) -> Examined:
    """Look at all of an experiment's store. A damaged shard is set aside if it can be, so that the next `prepare` mends it.

    Raises BenchmarkError for bad annotation files, PlaceError for a place that cannot be read.
    """
    tasks = find_tasks(experiment, image_size, anew=True)
    names = [name for name in shards.versions(tasks.folder) if name not in tasks.faults]
    with ThreadPoolExecutor(os.cpu_count()) as pool, Progress(logger, "reading", len(names), "shards") as progress:
        damaged = dict(tasks.faults)
        for name, fault in zip(names, pool.map(partial(shards.body_fault, tasks.folder), names), strict=True):
            damaged |= {name: fault} if fault else {}
            progress.add()
    faults = [_shard_fault(tasks, name, fault) for name, fault in sorted(damaged.items())]
    faults += [*_missing(tasks), *_lists(tasks), *_remembered(tasks), *_indexes(tasks.folder), *_partial(tasks.folder)]
    return Examined(tasks.folder, len(tasks.status), len(names), faults, list(_notes(tasks.folder, names)))


def _shard_fault(tasks: Tasks, name: str, fault: str) -> str:
    """What is wrong with a shard, and what mends it."""
    held = tasks.status["shard"].to_pylist().count(name)
    what = f"{held} videos" if held else "its videos"
    try:
        aside = set_aside(shards.folder_of(tasks.folder), name)
    except OSError:
        return f"{name}: {fault}; delete it, and vop prepare decodes {what} again (it cannot be renamed here)"
    return f"{name}: {fault}; now called {aside}, and the next vop prepare decodes {what} again"


def _missing(tasks: Tasks) -> Iterator[str]:
    if len(tasks.table):
        first = ", ".join(tasks.table["video_id"].to_pylist()[:3])
        yield f"{len(tasks.table)} of {len(tasks.records)} videos are not in the store ({first}): vop prepare decodes them"


def _lists(tasks: Tasks) -> Iterator[str]:
    with suppress(StoreError):  # some videos are missing, which is told
        if not is_listed(tasks):
            yield "manifest.parquet or failed.csv do not say what the shards hold: vop prepare writes them anew"


def _remembered(tasks: Tasks) -> Iterator[str]:
    """Every command believes what is remembered of a shard that has not changed since."""
    if not tasks.remembered and any(info.base_name == SHARDS for info in listed(tasks.folder)):
        with suppress(OSError):
            set_aside(tasks.folder, SHARDS)
        yield f"{SHARDS} does not say what the shards hold: the next vop prepare opens them all, and writes it anew"


def _indexes(folder: str) -> Iterator[str]:
    for info in listed(folder):
        if info.base_name.startswith("index-") and info.base_name.endswith(".parquet"):
            filesystem, inside = located(join(folder, info.base_name))
            try:
                with filesystem.open_input_file(inside) as file:
                    pq.ParquetFile(file, page_checksum_verification=True).read()
            except (pa.ArrowException, OSError, ValueError) as error:
                yield f"{info.base_name}: it cannot be read ({shards.short(error)}); the next vop search makes it anew"


def _partial(folder: str) -> Iterator[str]:
    there = [info.base_name for place in (folder, shards.folder_of(folder)) for info in listed(place)]
    left = [name for name in there if name.endswith(".partial")]
    if left:
        with suppress(PlaceError), claimed(folder, wait=False) as mine:
            if mine:
                yield f"{len(left)} partial files are left of a command that was killed: vop prepare removes them"


def _notes(folder: str, names: list[str]) -> Iterator[str]:
    plain = sum("-" not in name for name in names)
    if plain:
        yield f"{plain} shards were written by version 0.2, without checksums: that they can be read is all that can be told"
    aside = [info for info in listed(shards.folder_of(folder)) if info.base_name.endswith(".damaged")]
    if aside:
        yield f"{len(aside)} damaged shards are set aside, {amount(sum(info.size for info in aside))}: nothing needs them"
