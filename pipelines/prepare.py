"""Benchmark -> manifest -> Ray Data decodes on CPU workers -> frame store (Parquet).

A store holds the frames of one benchmark for one choice of frames. Its shards appear whole or not at all; a video that
cannot be read is a row with its reason; a second call decodes only what is new or has changed.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipelines.cluster import connected
from pipelines.data import MANIFEST, STATUS_COLUMNS, read_status
from vop.benchmarks import Record
from vop.config import Experiment, kind
from vop.frames import FrameError, read_frames

STORE_VERSION = 1
SHARD_VIDEOS = 32


class FailedVideosError(RuntimeError):
    """More videos than allowed could not be read; the message lists them with their reasons."""


@dataclass(frozen=True)
class Prepared:
    """A store's folder, how many videos it holds, how many were decoded just now, and the videos that could not be read."""

    folder: Path
    videos: int
    decoded: int
    failed: list[dict[str, str]]


def prepare(experiment: Experiment, image_size: int) -> Prepared:
    """Bring the frames of an experiment's benchmark into its store; decodes only what the store does not hold yet.

    Raises BenchmarkError for bad annotation files, and FailedVideosError if a greater share than `data.max_failed_fraction` of
    the videos cannot be read.
    """
    records = kind("benchmark", experiment.benchmark.name).records(experiment.benchmark)
    folder = store_folder(experiment, image_size)
    (folder / "frames").mkdir(parents=True, exist_ok=True)
    keys = {record.video_id: content_key(record.path) for record in records}
    stored = {row["key"] for row in read_status(folder)}
    tasks = [
        {"key": keys[record.video_id], "video_id": record.video_id, "path": record.path}
        for record in records
        if keys[record.video_id] not in stored
    ]
    if tasks:
        _decode(tasks, experiment, image_size, folder)
    status = {row["key"]: row for row in read_status(folder)}
    failed = [
        {name: str(status[key][name]) for name in ("path", "error_kind", "error")} | {"video_id": video_id}
        for video_id, key in keys.items()
        if not status[key]["ok"]
    ]
    _write_manifest(folder, records, keys, {row["video_id"] for row in failed})
    _refuse_too_many(failed, len(records), experiment.data.max_failed_fraction)
    return Prepared(folder, len(records), len(tasks), failed)


def store_folder(experiment: Experiment, image_size: int) -> Path:
    """The store's folder: the benchmark's name, and a hash of where it is and of all that decides its pixels."""
    frames = experiment.frames
    what = [STORE_VERSION, image_size, sorted(frames.model_dump().items()), sorted(experiment.benchmark.model_dump().items())]
    digest = hashlib.sha256(repr(what).encode()).hexdigest()[:10]
    return Path(experiment.data.cache).expanduser().resolve() / "frames" / f"{experiment.benchmark.name}-{digest}"


def content_key(path: str) -> str:
    """Changes when the file at `path` does: its path, size and time of modification (or that there is none)."""
    try:
        stat = os.stat(path)
        what = f"{path}|{stat.st_size}|{stat.st_mtime_ns}"
    except OSError:
        what = f"{path}|missing"
    return hashlib.sha256(what.encode()).hexdigest()


def _decode(tasks: list[dict[str, str]], experiment: Experiment, image_size: int, folder: Path) -> None:
    with connected():
        dataset = ray.data.from_items(tasks, override_num_blocks=-(-len(tasks) // SHARD_VIDEOS))
        rows = dataset.map_batches(
            write_shard,
            batch_size=None,  # a block is a shard
            batch_format="pyarrow",
            fn_kwargs={"folder": str(folder), "size": image_size, "frames": experiment.frames.model_dump()},
            num_cpus=1,
        )
        failed = 0
        with progress() as bar:
            line = bar.add_task("decoding", total=len(tasks), note="")
            for row in rows.iter_rows():
                failed += not row["ok"]
                bar.update(line, advance=1, note=f"{failed} unreadable" if failed else "")


def write_shard(table: pa.Table, folder: str, size: int, frames: dict[str, Any]) -> pa.Table:
    """Decode a block of videos, write them as one shard, return their status rows (no pixels)."""
    rows = pa.Table.from_pylist([_decoded(task, size, frames) for task in table.to_pylist()], schema=_schema())
    name = hashlib.sha256("".join(table["key"].to_pylist()).encode()).hexdigest()[:24]
    target = Path(folder) / "frames" / f"{name}.parquet"
    partial = target.with_suffix(f".{os.getpid()}.partial")
    # A row group a video, not compressed: training reads videos one by one, in random order.
    pq.write_table(rows, partial, row_group_size=1, compression="none", use_dictionary=False, write_statistics=False)
    os.replace(partial, target)
    return rows.select(STATUS_COLUMNS)


def _decoded(task: dict[str, str], size: int, options: dict[str, Any]) -> dict[str, Any]:
    try:
        frames = read_frames(task["path"], size=size, **options)
    except FrameError as error:
        return {**task, "ok": False, "error_kind": error.kind, "error": str(error)}
    except Exception as error:  # one odd file must not end the job; it is reported like any other
        return {**task, "ok": False, "error_kind": "unexpected", "error": f"{task['path']}: {error!r}"}
    return {
        **task,
        "ok": True,
        "decoder": frames.decoder,
        "pixels": frames.pixels_FHWC.tobytes(),
        "shape": frames.pixels_FHWC.shape,
        "mask": frames.mask_F,
        "indices": frames.indices_F,
        "times": frames.times_F,
    }


def _schema() -> pa.Schema:
    text, flag = pa.string(), pa.bool_()
    return pa.schema(
        {
            **{"key": text, "video_id": text, "path": text, "ok": flag},
            **{"decoder": text, "error_kind": text, "error": text},
            **{"pixels": pa.binary(), "shape": pa.list_(pa.int32()), "mask": pa.list_(flag)},
            **{"indices": pa.list_(pa.int64()), "times": pa.list_(pa.float32())},
        }
    )


def _write_manifest(folder: Path, records: list[Record], keys: dict[str, str], failed: set[str]) -> None:
    rows = [{**asdict(r), "key": keys[r.video_id], "ok": r.video_id not in failed} for r in records]
    partial = folder / f"{MANIFEST}.{os.getpid()}.partial"
    pq.write_table(pa.Table.from_pylist(rows), partial)
    os.replace(partial, folder / MANIFEST)


def _refuse_too_many(failed: list[dict[str, str]], videos: int, allowed: float) -> None:
    if not failed:
        return
    reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(row["error_kind"] for row in failed).most_common())
    lines = [f"{len(failed)} of {videos} videos cannot be read ({reasons}):", *_first_lines(failed)]
    if len(failed) > allowed * videos:
        lines.append(f"that is more than data.max_failed_fraction={allowed} allows; nothing was trained")
        raise FailedVideosError("\n".join(lines))
    print("\n".join(lines), flush=True)


def _first_lines(failed: list[dict[str, str]], most: int = 20) -> Iterator[str]:
    for row in failed[:most]:
        yield f"  {row['video_id']}: {row['error_kind']}: {row['error']}"
    if len(failed) > most:
        yield f"  ... and {len(failed) - most} more, listed in the store"


def progress() -> Progress:
    """A progress bar with clips done, time spent and time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
