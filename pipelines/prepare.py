"""Benchmark -> manifest -> Ray Data decodes on CPU workers -> frame store (`pipelines/store.py`).

A video that cannot be read is a row with its reason. A second call, also after a kill at any moment, decodes only what is new,
has changed, or was in a shard that was not finished.
"""

from __future__ import annotations

import csv
import hashlib
import io
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray.data
from pyarrow import fs
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipelines.cluster import cluster_has, connected, labelled
from pipelines.files import listed, located, read_video, write_whole
from pipelines.store import FAILED, SCHEMA, STATUS, coded, read_status, write_manifest
from vop.benchmarks import Record
from vop.config import Experiment, kind
from vop.frames import FrameError

STORE_VERSION = 2
SHARD_BYTES = 64 * 2**20  # of frames, uncompressed
SHARDS_A_CPU = 8  # at least, so that all CPUs end at about the same time
STALE = timedelta(minutes=10)  # a partial file that nobody has written to for so long is of a job that was killed
LOOKS = 32  # files looked at at once: on a remote filesystem each look is a round trip


class FailedVideosError(RuntimeError):
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


def prepare(experiment: Experiment, image_size: int) -> Prepared:
    """Bring the frames of an experiment's benchmark into its store; decodes only what the store does not hold yet.

    With `data.store` false the training videos are decoded once, to know those that cannot be read, and not stored.
    Raises BenchmarkError for bad annotation files, StoreError for a place that cannot be used, and FailedVideosError if a
    greater share than `data.max_failed_fraction` of the videos cannot be read.
    """
    records = kind("benchmark", experiment.benchmark.name).records(experiment.benchmark)
    folder, options = store_folder(experiment, image_size), store_options(experiment, image_size)
    filesystem, inside = located(folder)
    filesystem.create_dir(f"{inside}/frames", recursive=True)
    _remove_stale(folder)
    with ThreadPoolExecutor(LOOKS) as pool:
        keys = list(pool.map(content_key, records))
    tasks = tasks_of(records, keys, set(read_status(folder)["key"].to_pylist()), options["store"])
    started = time.monotonic()
    if len(tasks):
        _decode(tasks, folder, options)
    seconds = time.monotonic() - started
    failed = index_records(folder, records, keys, options)
    report = _write_failed(folder, failed)
    _refuse_too_many(failed, len(records), experiment.data.max_failed_fraction, report)
    return Prepared(folder, len(records), len(tasks), failed, seconds, report)


def store_options(experiment: Experiment, image_size: int) -> dict[str, Any]:
    """All that decides what a store holds of a video; `count` is what a reader gets, `stored` what there is to choose from."""
    frames, data = experiment.frames, experiment.data
    candidates = frames.candidates if frames.sampling == "random" else 1
    return {
        **{"size": image_size, "count": frames.count, "stored": frames.count * candidates, "store": data.store},
        **{"sampling": frames.sampling, "fps": frames.fps, "decoder": frames.decoder},
        **{"codec": data.codec, "quality": data.jpeg_quality if data.codec == "jpeg" else 0},
    }


def store_folder(experiment: Experiment, image_size: int) -> str:
    """The store's folder: the benchmark's name, and a hash of where it is and of all that decides what is stored."""
    options = store_options(experiment, image_size)
    what = [STORE_VERSION, sorted(options.items()), sorted(experiment.benchmark.model_dump().items())]
    digest = hashlib.sha256(repr(what).encode()).hexdigest()[:10]
    cache = experiment.data.cache
    place = cache.rstrip("/") if "://" in cache else str(Path(cache).expanduser().resolve())
    return f"{place}/frames/{experiment.benchmark.name}-{digest}"


def content_key(record: Record) -> str:
    """Changes when what a record shows does: its file's path, size and time of modification (or that it is missing), window."""
    filesystem, inside = located(record.path)
    info = filesystem.get_file_info(inside)
    state = "missing" if info.type == fs.FileType.NotFound else f"{info.size}|{info.mtime_ns}"
    return hashlib.sha256(f"{record.path}|{state}|{record.window}".encode()).hexdigest()


def _remove_stale(folder: str) -> None:
    filesystem, _ = located(folder)
    for info in (*listed(folder), *listed(f"{folder}/frames")):
        if info.base_name.endswith(".partial") and info.mtime and datetime.now(timezone.utc) - info.mtime > STALE:
            filesystem.delete_file(info.path)


def tasks_of(records: Sequence[Record], keys: Sequence[str], stored: set[str], keep_all: bool) -> pa.Table:
    """What is to be decoded, a row a key that is not stored yet; `keep`: whether its frames go into the store."""
    todo = {key: record for key, record in zip(keys, records, strict=True) if key not in stored}
    return pa.table(
        {
            "key": pa.array(todo, pa.string()),
            "video_id": pa.array([record.video_id for record in todo.values()], pa.string()),
            "path": pa.array([record.path for record in todo.values()], pa.string()),
            "window": pa.array([record.window for record in todo.values()], pa.list_(pa.float64())),
            "keep": pa.array([_kept(record, keep_all) for record in todo.values()], pa.bool_()),
        }
    )


def _kept(record: Record, keep_all: bool) -> bool:
    return keep_all or record.split != "train"


def _decode(tasks: pa.Table, folder: str, options: dict[str, Any]) -> None:
    with connected():
        most = max(1, SHARD_BYTES // (options["stored"] * options["size"] ** 2 * 3))
        even = -(-len(tasks) // int(SHARDS_A_CPU * max(1.0, cluster_has("CPU", "decode"))))
        videos = min(most, even)
        blocks = [tasks.slice(start, videos) for start in range(0, len(tasks), videos)]
        dataset = ray.data.from_arrow(blocks).map_batches(
            write_shard,
            batch_size=None,  # a block is a shard
            batch_format="pyarrow",
            fn_kwargs={"folder": folder, "options": options},
            num_cpus=1,
            **labelled("decode"),
        )
        done, failed, started = 0, 0, time.monotonic()
        with progress() as bar:
            line = bar.add_task("decoding", total=len(tasks), note="")
            for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                done, failed = done + len(batch), failed + batch["ok"].to_pylist().count(False)
                rate = f"{done / (time.monotonic() - started):.1f} clips/s"
                bar.update(line, completed=done, note=f"{rate}, {failed} unreadable" if failed else rate)


def write_shard(tasks: pa.Table, folder: str, options: dict[str, Any]) -> pa.Table:
    """Decode a block of videos, write them as one shard, return their status rows (no pixels). Memory: one video."""
    status = []

    def rows() -> Iterator[pa.Table]:
        for task in tasks.to_pylist():
            row = _row(task, options)
            status.append({name: row.get(name) for name in STATUS})
            yield pa.Table.from_pylist([row], schema=SCHEMA)

    name = hashlib.sha256("".join(tasks["key"].to_pylist()).encode()).hexdigest()[:24]
    codec = options["codec"] if options["codec"] in ("lz4", "zstd") else "none"
    write_whole(f"{folder}/frames", f"{name}.parquet", rows(), SCHEMA, codec)
    return pa.Table.from_pylist(status, schema=pa.schema([SCHEMA.field(name) for name in STATUS]))


def _row(task: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """A row of a shard: a video's frames, or why there are none."""
    row = {name: task[name] for name in ("key", "video_id", "path")} | {"decoder": options["decoder"], "ok": False}
    sampling = "uniform" if options["sampling"] == "random" else options["sampling"]
    try:
        frames = read_video(task["path"], options["stored"], sampling, options, task["window"])
        distinct = int(frames.mask_F.sum())
        kept = coded(frames.pixels_FHWC[:distinct], options["codec"], options["quality"]) if task["keep"] else None
    except FrameError as error:
        return {**row, "error_kind": error.kind, "error": str(error)}
    except Exception as error:  # one odd file must not end the job; it is reported like any other
        return {**row, "error_kind": "unexpected", "error": f"{task['path']}: {error!r}"}
    chosen = {"indices": frames.indices_F[:distinct], "times": frames.times_F[:distinct]}
    return {**row, **chosen, "ok": True, "decoder": frames.decoder, "frames": kept}


def index_records(folder: str, records: Sequence[Record], keys: Sequence[str], options: dict[str, Any]) -> list[dict[str, str]]:
    """Write which records are where; returns the videos that cannot be read."""
    status = read_status(folder)
    at: dict[str, int] = {}
    for place, key in enumerate(status["key"].to_pylist()):
        at.setdefault(key, place)
    found = status.take(pa.array([at[key] for key in keys], pa.int64()))
    ok, shard = found["ok"].to_pylist(), found["shard"].to_pylist()
    held = [good and _kept(record, options["store"]) for good, record in zip(ok, records, strict=True)]
    columns = {name: pa.array([getattr(record, name) for record in records]) for name in Record.__dataclass_fields__}
    columns["shard"] = pa.array([name if here else None for name, here in zip(shard, held, strict=True)], pa.string())
    rows = pa.table({**columns, "key": found["key"], "ok": found["ok"], "row": found["row"]})
    write_manifest(folder, rows, options)
    reasons = ("path", "decoder", "error_kind", "error")
    bad = [place for place, good in enumerate(ok) if not good]
    return [
        {"video_id": records[place].video_id, **{name: str(row[name]) for name in reasons}}
        for place, row in zip(bad, found.take(pa.array(bad, pa.int64())).to_pylist(), strict=True)
    ]


def _write_failed(folder: str, failed: list[dict[str, str]]) -> str:
    """Write the list of videos that cannot be read, or remove one that no longer holds; returns its path."""
    filesystem, inside = located(f"{folder}/{FAILED}")
    if not failed:
        if filesystem.get_file_info(inside).type != fs.FileType.NotFound:
            filesystem.delete_file(inside)
        return ""
    partial = f"{inside}.{uuid.uuid4().hex[:8]}.partial"
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(failed[0]))
    writer.writeheader()
    writer.writerows(failed)
    with filesystem.open_output_stream(partial) as sink:
        sink.write(text.getvalue().encode())
    filesystem.move(partial, inside)
    return f"{folder}/{FAILED}"


def _refuse_too_many(failed: list[dict[str, str]], videos: int, allowed: float, report: str) -> None:
    if not failed:
        return
    reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(row["error_kind"] for row in failed).most_common())
    lines = [f"{len(failed)} of {videos} videos cannot be read ({reasons}), all listed in {report}:", *_first_lines(failed)]
    if len(failed) > allowed * videos:
        lines.append(f"that is more than data.max_failed_fraction={allowed} allows; nothing was trained")
        raise FailedVideosError("\n".join(lines))
    print("\n".join(lines), flush=True)


def _first_lines(failed: list[dict[str, str]], most: int = 20) -> Iterator[str]:
    for row in failed[:most]:
        yield f"  {row['video_id']}: {row['error_kind']}: {row['error']}"
    if len(failed) > most:
        yield f"  ... and {len(failed) - most} more"


def progress() -> Progress:
    """A progress bar with clips done, time spent and time left; `note` is the rate."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        speed_estimate_period=600,  # shards come in seconds apart
    )
