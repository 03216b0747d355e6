"""What this program holds on disk beside results: caches that are made again, what dead runs left; and the removal of it."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pyarrow import fs

from pipelines.locations import TrackingError, check_runs, partial_files, sqlite_file, tracking_uri
from pipelines.output import Output
from vop.config import ConfigError, Experiment
from vop.messages import clock
from vop.places import absolute, is_remote, join, located

KINDS = ("frames", "activations", "checkpoints", "sweeps", "unsent", "partial")
LOCK = "in-use"  # in a folder: its users hold a lock on it
HOUR = 3600.0


@dataclass(frozen=True)
class Holding:
    """A folder or file: `KIND/NAME`, where it is, bytes, what there is to say of it, and why it cannot be removed now."""

    name: str
    place: str
    size: int
    note: str = ""
    used: str = ""


def holdings(experiment: Experiment) -> list[Holding]:
    """All that there is of an experiment's `data.cache` and `tracking.output`; what earlier processes left is settled first."""
    cache, output = absolute(experiment.data.cache), Output.of(experiment.tracking)
    own = str(Path("~/.cache/vop").expanduser()) if is_remote(cache) else cache  # activations are kept on this machine
    try:
        check_runs(experiment.tracking)
        from pipelines.tracking import logged_runs  # MLflow, whose import takes seconds

        status = {run.id: run.status for run in logged_runs(experiment.tracking)}
        working = "a run is RUNNING" if "RUNNING" in status.values() else ""
    except ConfigError:  # there is no database yet
        status, working = {}, ""
    except TrackingError as error:
        status, working = {}, f"MLflow cannot say what is RUNNING: {error}"
    found = [replace(one, used=working) for one in (*_folders(cache, "frames"), *_folders(own, "activations"))]
    for one in (*_folders(output.place, "checkpoints"), *_folders(output.place, "sweeps")):
        state = status.get(one.name.partition("/")[2], "of no run here")
        found.append(replace(one, note=state, used=working if state in ("RUNNING", "of no run here") else ""))
    file = sqlite_file(tracking_uri(experiment.tracking))
    left = partial_files(file) if file and file.parent.is_dir() else []
    found += [Holding(f"partial/{path.name}", str(path), path.stat().st_size, used=working) for path in left]
    return [_looked_up(one) for one in (*found, *_files(output.folder, "unsent", "unsent-*"))]


def remove(there: Sequence[Holding], wanted: Sequence[str]) -> list[Holding]:
    """Remove what is wanted, by kind or by name; returns it. Raises ConfigError for what there is not or is in use."""
    names = {one.name for one in there}
    for word in wanted:
        if word not in names and word not in KINDS:
            raise ConfigError(f"--remove {word}: there is no such thing; valid: {', '.join((*KINDS, *sorted(names)))}")
    chosen = [one for one in there if one.name in wanted or one.name.partition("/")[0] in wanted]
    for one in chosen:
        if one.used:
            raise ConfigError(f"--remove: {one.name} may be in use: {one.used}")
    for one in chosen:
        filesystem, inside = located(one.place)
        if filesystem.get_file_info(inside).type == fs.FileType.Directory:
            filesystem.delete_dir(inside)
        else:
            filesystem.delete_file(inside)
    return chosen


def _folders(place: str, kind: str) -> Iterator[Holding]:
    """The folders in a folder of any filesystem, largest first, with the size of all that is in them."""
    filesystem, inside = located(join(place, kind))
    everything = filesystem.get_file_info(fs.FileSelector(inside, recursive=True, allow_not_found=True))
    sizes = {info.path: 0 for info in everything if info.type == fs.FileType.Directory and "/" not in _below(info.path, inside)}
    newest = dict.fromkeys(sizes, 0.0)
    for info in everything:
        folder = f"{inside.rstrip('/')}/{_below(info.path, inside).partition('/')[0]}"
        if info.type == fs.FileType.File and folder in sizes:
            sizes[folder] += info.size
            newest[folder] = max(newest[folder], (info.mtime_ns or 0) / 1e9)
    for folder, size in sorted(sizes.items(), key=lambda item: -item[1]):
        name = _below(folder, inside)
        note = f"written {_ago(newest[folder])} ago" if newest[folder] else "empty"
        yield Holding(f"{kind}/{name}", join(place, kind, name), size, note)


def _below(path: str, folder: str) -> str:
    return path.removeprefix(folder.rstrip("/")).lstrip("/")


def _files(folder: Path, kind: str, pattern: str) -> Iterator[Holding]:
    for path in sorted(folder.glob(pattern)):
        lines = path.read_text(encoding="utf-8", errors="replace").count("\n")
        yield Holding(f"{kind}/{path.name}", str(path), path.stat().st_size, f"{lines} entries that MLflow has not")


def _looked_up(one: Holding) -> Holding:
    """The same, in use if somebody holds a lock on it."""
    if is_remote(one.place):
        return one
    path = Path(one.place)
    lock = path / LOCK if path.is_dir() else path
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return one
    except OSError:
        return replace(one, used="a process has it open")
    return one


def _ago(since: float) -> str:
    seconds = max(0.0, time.time() - since)
    return clock(seconds) if seconds < 48 * HOUR else f"{seconds / 24 / HOUR:.0f} days"
