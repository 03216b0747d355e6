"""Benchmark -> manifest -> what is not stored is decoded (`decode.py`) -> frame store (`store.py`).

A video that cannot be read is a row with its reason. A second call, also after a kill at any moment, decodes only what is new,
has changed, or was in a shard that was not finished or is damaged. A store that lacks nothing is only read, without Ray.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

from pipelines.data import shards
from pipelines.data.lists import failed_of, is_to_do, tell_unsound, write_lists
from pipelines.data.options import store_folder
from pipelines.data.room import check_room
from pipelines.data.store import FAILED, manifest
from pipelines.data.tasks import Tasks, find_tasks, with_status
from vop.claim import claimed
from vop.config import Experiment
from vop.errors import VopError
from vop.messages import one_line
from vop.places import PlaceError, join, listed, located, told
from vop.whole import set_aside

logger = logging.getLogger(__name__)


class FailedVideosError(VopError, RuntimeError):
    """More videos than allowed could not be read; the message lists them with their reasons."""


@dataclass(frozen=True)
class Prepared:
    """A store's folder (path or URI), how many videos the benchmark has, how many were decoded just now and in how many
    seconds, the videos that could not be read, and the file that lists them ("" where there is none)."""

    folder: str
    videos: int
    decoded: int
    failed: list[dict[str, str]]
    seconds: float = 0.0
    report: str = ""


def prepare(experiment: Experiment, image_size: int, tasks: Tasks | None = None) -> Prepared:
    """Bring the frames of an experiment's benchmark into its store; decodes only what the store does not hold yet.

    tasks: what `find_tasks` found just now, if somebody has asked it.
    With `data.store` false the training videos are decoded once, to know those that cannot be read, and not stored.
    Raises BenchmarkError as `find_tasks` does, PlaceError for a place that cannot be used or has no room, and FailedVideosError
    if a greater share than `data.max_failed_fraction` of the videos cannot be read.
    """
    tasks = tasks or find_tasks(experiment, image_size)
    started, decoded = time.monotonic(), 0
    if is_to_do(tasks):
        check_room(tasks)
        with _no_empty_folder(tasks.folder), claimed(tasks.folder):
            tasks = _now(tasks)  # who had the store before may have done all of it
            decoded = len(tasks.table)
            _fill(tasks)
            tasks = _now(tasks)
            write_lists(tasks)
    elif tasks.faults or not tasks.remembered or _partial(tasks.folder):  # nobody needs this: who can only read leaves it
        with suppress(PlaceError), claimed(tasks.folder, wait=False) as mine:
            if mine:
                _fill(_now(tasks))
                write_lists(_now(tasks))
    seconds, failed = time.monotonic() - started, failed_of(tasks)
    tell_unsound(tasks)
    report = join(tasks.folder, FAILED) if failed else ""
    _refuse_too_many(failed, len(tasks.records), experiment.data.max_failed_fraction, report)
    return Prepared(tasks.folder, len(tasks.records), decoded, failed, seconds, report)


def mend(experiment: Experiment, image_size: int) -> None:
    """Store the videos again of shards that were set aside since `prepare`; of what stands in the way there is a warning."""
    folder = store_folder(experiment, image_size)
    try:
        wanted = set(manifest(folder)["shard"].to_pylist()) - {None}
        if lost := len(wanted - set(shards.versions(folder))):
            logger.info("storing the videos of %d damaged shards again", lost)
            prepare(experiment, image_size)
    except (VopError, OSError) as error:
        logger.warning("%s is not mended yet, the next vop prepare does it: %s", folder, one_line(error))


def _now(tasks: Tasks) -> Tasks:
    return with_status(tasks.folder, tasks.options, tasks.records, tasks.keys)


def _fill(tasks: Tasks) -> None:
    """Bring into a store what it lacks, without what was left of jobs that were killed and what is damaged."""
    filesystem, inside = located(tasks.folder)
    with told(tasks.folder):
        filesystem.create_dir(f"{inside}/frames", recursive=True)
        _remove_partial(tasks.folder)
    for name, fault in tasks.faults.items():
        place = join(shards.folder_of(tasks.folder), name)
        with told(place):
            aside = set_aside(shards.folder_of(tasks.folder), name)
        logger.warning("%s is damaged (%s): now called %s, and its videos are decoded again", place, fault, aside)
    if len(tasks.table):
        from pipelines.data.decode import decode  # Ray, which a store that lacks nothing does not need

        try:
            decode(tasks.table, tasks.folder, tasks.options)
        finally:
            with suppress(OSError):
                _remove_partial(tasks.folder)


@contextmanager
def _no_empty_folder(folder: str) -> Iterator[None]:
    """What was begun and holds nothing goes when it fails."""
    try:
        yield
    except BaseException:
        filesystem, inside = located(folder)
        if isinstance(filesystem, fs.LocalFileSystem):
            for place in (Path(inside, "frames"), Path(inside), *Path(inside).parents[:2]):  # up to data.cache
                with suppress(OSError):
                    place.rmdir()
        raise


def _partial(folder: str) -> list[str]:
    """Files that nobody has finished."""
    infos = (*listed(folder), *listed(shards.folder_of(folder)))
    return [info.path for info in infos if info.base_name.endswith(".partial")]


def _remove_partial(folder: str) -> None:
    filesystem, _ = located(folder)
    for path in _partial(folder):
        with suppress(FileNotFoundError):  # a writer that failed was quicker
            filesystem.delete_file(path)


def _refuse_too_many(failed: list[dict[str, str]], videos: int, allowed: float, report: str) -> None:
    if not failed:
        return
    reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(row["error_kind"] for row in failed).most_common())
    lines = [f"{len(failed)} of {videos} videos cannot be read ({reasons}), all listed in {report}:", *_first_lines(failed)]
    if len(failed) > allowed * videos:
        lines.append(f"that is more than data.max_failed_fraction={allowed} allows; nothing was trained")
        raise FailedVideosError(*lines)
    for line in lines:
        logger.warning("%s", line)


def _first_lines(failed: list[dict[str, str]], most: int = 20) -> Iterator[str]:
    for row in failed[:most]:
        yield f"  {row['video_id']}: {row['error_kind']}: {row['error']}"
    if len(failed) > most:
        yield f"  ... and {len(failed) - most} more"
