"""The videos that a frame store lacks, decoded on the CPUs of the cluster by Ray Data: a block of them is a shard."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pyarrow as pa
import ray.data

from pipelines.cluster.connect import cluster_has, connected, labelled
from pipelines.cluster.probe import check_shared
from pipelines.data import shards
from pipelines.data.options import StoreOptions
from pipelines.data.shards import SCHEMA, STATUS
from pipelines.data.store import StoreError, coded
from vop.messages import Progress
from vop.places import OF_THE_MACHINE, PlaceError, sentence
from vop.secrets import masked
from vop.video.frames import FrameError

logger = logging.getLogger(__name__)
SHARD_BYTES = 64 * 2**20  # of frames, uncompressed
SHARDS_A_CPU = 8  # at least, so that all CPUs end at about the same time
MACHINE = "machine"  # in place of a video's fault: what is wrong where it was decoded; the job ends


def decode(tasks: pa.Table, folder: str, options: StoreOptions) -> None:
    """Decode the videos of `tasks`, a row each, into shards of the store at `folder`.

    Raises StoreError for what is wrong with a machine, ResourceError as `connected` does.
    """
    with connected():
        seen = next((path for path in tasks["path"].to_pylist() if os.path.isfile(path)), "")
        check_shared({f"the frame store {folder}": folder, **({f"the video {seen}": seen} if seen else {})})
        most = max(1, SHARD_BYTES // (options.stored * options.size**2 * 3))
        even = -(-len(tasks) // int(SHARDS_A_CPU * max(1.0, cluster_has("CPU", "decode"))))
        videos = min(most, even)
        blocks = [tasks.slice(start, videos) for start in range(0, len(tasks), videos)]
        dataset = ray.data.from_arrow(blocks).map_batches(
            _write_shard_or_say,
            batch_size=None,  # a block is a shard
            batch_format="pyarrow",
            fn_kwargs={"folder": folder, "options": options},
            num_cpus=1,
            **labelled("decode"),
        )
        failed = 0
        # Closed before Ray ends: if Ray Data still worked then, it would end this process, whatever is on its way here.
        rows = closing(iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)))
        with Progress(logger, "decoding", len(tasks), "videos") as progress, rows as batches:
            for batch in batches:
                if MACHINE in batch["error_kind"].to_pylist():
                    raise StoreError(batch["error"].to_pylist()[0])
                failed += batch["ok"].to_pylist().count(False)
                progress.add(len(batch), f"{failed} unreadable" if failed else "")


def _write_shard_or_say(tasks: pa.Table, folder: str, options: StoreOptions) -> pa.Table:
    """What is wrong with the machine as a row: what a Ray task raises arrives as a traceback of its own."""
    try:
        return write_shard(tasks, folder, options)
    except PlaceError as error:
        return _status_table([{"ok": False, "error_kind": MACHINE, "error": masked(str(error))}])


def write_shard(tasks: pa.Table, folder: str, options: StoreOptions) -> pa.Table:
    """Decode a block of videos, write them as one shard, return their status rows (no pixels). Memory: one video.

    Raises PlaceError for what is wrong with the machine.
    """
    status = []

    def rows() -> Iterator[pa.Table]:
        for task in tasks.to_pylist():
            row = _row(task, options)
            status.append(row)
            yield pa.Table.from_pylist([row], schema=SCHEMA)
            row.pop("frames", None)

    shards.write(folder, tasks["key"].to_pylist(), rows(), options)
    return _status_table(status)


def _status_table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=pa.schema([SCHEMA.field(name) for name in STATUS]))


def _row(task: dict[str, Any], options: StoreOptions) -> dict[str, Any]:
    """A row of a shard: a video's frames, or why there are none."""
    row = {
        "key": task["key"],
        "video_id": task["video_id"],
        "path": masked(task["path"]),
        "decoder": options.decoder,
        "ok": False,
    }
    try:
        frames = options.read_all(task["path"], task["window"])
        distinct = int(frames.mask_F.sum())
        kept = coded(frames.pixels_FHWC[:distinct], options.codec, options.quality) if task["keep"] else None
    except Exception as error:
        if fault := of_the_machine(error):
            raise PlaceError(sentence(task["path"], fault)) from error
        if isinstance(error, FrameError):
            return {**row, "error_kind": error.kind, "error": masked(str(error))}
        # one odd file must not end the job; it is reported like any other
        return {**row, "error_kind": "unexpected", "error": masked(f"{task['path']}: {error!r}")}
    chosen = {"indices": frames.indices_F[:distinct], "times": frames.times_F[:distinct]}
    return {
        **row,
        **chosen,
        "ok": True,
        "decoder": frames.decoder,
        **{"damaged": frames.damaged, "missing": frames.missing},
        "frames": kept,
    }


def of_the_machine(error: BaseException | None) -> OSError | None:
    """What the system said that is no fault of the video, if that is why it could not be read."""
    while error is not None and getattr(error, "errno", None) not in OF_THE_MACHINE:
        error = error.__cause__ or error.__context__
    return error if error is None or isinstance(error, OSError) else OSError(*error.args)
