"""What of a benchmark's videos can be known before they are decoded: splits, the room they take, that the decoder works."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterable
from pathlib import Path

from pipelines.data.lists import is_to_do
from pipelines.data.prepare import FailedVideosError
from pipelines.data.room import Room, check_room, room_of
from pipelines.data.tasks import Tasks, find_tasks
from pipelines.output import Output
from vop.annotations.records import SPLITS
from vop.config import ConfigError, Experiment, TrackingConfig, kind
from vop.messages import one_line
from vop.places import PlaceError, absolute, told
from vop.video.frames import FrameError

TRIED = 3


def is_written(experiment: Experiment) -> bool:
    """Whether a benchmark's videos are there; `toy` writes its own on first use, which takes a minute."""
    asked = getattr(kind("benchmark", experiment.benchmark.name), "is_written", None)
    return asked is None or bool(asked(experiment.benchmark))


def check_videos(experiment: Experiment, image_size: int, splits: Iterable[str] = ()) -> tuple[Tasks, Room]:
    """What `prepare` would do, and the room that it takes; `splits` are needed.

    Raises as `find_tasks` does; ConfigError for a split that has no videos; PlaceError for a store that cannot be written or
    has no room, where something is to be written; FailedVideosError if none of a few videos can be read.
    """
    tasks = find_tasks(experiment, image_size)
    there = {record.split for record in tasks.records}
    for split in splits:
        if split not in there:
            have = ", ".join(name for name in SPLITS if name in there) or "none"
            raise ConfigError(
                f"benchmark {experiment.benchmark.name} has no {split} videos, which are needed; splits with videos: {have}"
            )
    if is_to_do(tasks):
        check_room(tasks)
    if experiment.data.max_failed_fraction < 0.5:  # else few videos tell nothing
        _try(tasks)
    return tasks, room_of(tasks)


def check_writable(key: str, folder: str | Path) -> int:
    """The bytes that are free where a folder is or will be. Raises PlaceError where nothing can be written."""
    parent = _parent(key, folder)
    try:
        with tempfile.TemporaryFile(dir=parent):
            return shutil.disk_usage(parent).free
    except OSError as error:
        raise PlaceError(f"{key}={folder}: nothing can be written in {parent} ({error.strerror or error})") from error


def check_output(tracking: TrackingConfig) -> int | None:
    """As `check_writable`, of `tracking.output`; of an address None. Raises ConfigError too, as `Output.of` does."""
    output = Output.of(tracking)
    if not output.is_copy:
        return check_writable("tracking.output", output.folder)
    mark = output.folder / f".vop-{uuid.uuid4().hex[:8]}"
    with told(str(mark.parent)):
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    try:
        output.push(mark)
    finally:
        mark.unlink()
        output.push(mark)
    return None


def _parent(key: str, folder: str | Path) -> Path:
    """The folder itself, or the one above it that is there. Raises PlaceError where a file is in the way."""
    place = Path(absolute(str(folder)))
    with told(f"{key}={folder}"):
        parent = next(above for above in (place, *place.parents) if above.exists())
    if not parent.is_dir():
        raise PlaceError(f"{key}={folder}: {parent} is not a folder, so nothing can be written there")
    return parent


def _try(tasks: Tasks) -> None:
    """Decode a few of the videos, until one can be read."""
    todo, errors = tasks.table.select(["video_id", "path", "window"]).to_pylist(), []
    for task in todo[:: max(1, len(todo) // TRIED)][:TRIED]:
        try:
            tasks.options.read_all(task["path"], task["window"])
            return
        except FrameError as error:
            errors.append(f"  {task['video_id']}: {error.kind}: {one_line(error)}")
    if len(errors) >= TRIED:
        raise FailedVideosError(f"none of {len(errors)} videos that were tried can be read:", *errors)
