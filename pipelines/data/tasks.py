"""What a benchmark's frame store lacks: known from the records and the store alone, without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipelines.data.options import StoreOptions, content_key, store_folder, store_options
from pipelines.data.status import read_status
from vop.annotations.copies import refuse_shared
from vop.benchmarks import Record
from vop.config import Experiment, kind
from vop.places import file_infos, told


@dataclass(frozen=True)
class Tasks:
    """The records of a benchmark, the content key of each, and what is to be decoded of them into the store at `folder`.

    status, faults, remembered: what the store holds, and its damaged shards, as `read_status` gives them.
    """

    folder: str
    options: StoreOptions
    records: Sequence[Record]
    keys: Sequence[str]
    table: pa.Table
    status: pa.Table
    faults: dict[str, str]
    remembered: bool


def find_tasks(experiment: Experiment, image_size: int, anew: bool = False) -> Tasks:
    """What `prepare` would do. anew: every shard is opened, whatever is remembered of it.

    Raises BenchmarkError for bad annotation files and for videos that two splits share, PlaceError for a place that cannot be
    used.
    """
    records = kind("benchmark", experiment.benchmark.name).records(experiment.benchmark)
    folder, options = store_folder(experiment, image_size), store_options(experiment, image_size)
    infos = file_infos([record.path for record in records])
    if experiment.benchmark.shared_videos == "refuse":
        refuse_shared(records, {record.path: info.size or 0 for record, info in zip(records, infos, strict=True)})
    keys = [content_key(record, info) for record, info in zip(records, infos, strict=True)]
    return with_status(folder, options, records, keys, anew)


def with_status(
    folder: str, options: StoreOptions, records: Sequence[Record], keys: Sequence[str], anew: bool = False
) -> Tasks:
    """The tasks of records whose keys are known, by what the store holds now."""
    with told(folder):
        status = read_status(folder, options, anew)
    table = tasks_of(records, keys, set(status.table["key"].to_pylist()), options.store)
    return Tasks(folder, options, records, keys, table, status.table, status.faults, status.remembered)


def tasks_of(records: Sequence[Record], keys: Sequence[str], stored: set[str], keep_all: bool) -> pa.Table:
    """What is to be decoded, a row a key that is not stored yet; `keep`: whether its frames go into the store."""
    todo = {key: record for key, record in zip(keys, records, strict=True) if key not in stored}
    return pa.table(
        {
            "key": pa.array(todo, pa.string()),
            "video_id": pa.array([record.video_id for record in todo.values()], pa.string()),
            "path": pa.array([record.path for record in todo.values()], pa.string()),
            "window": pa.array([record.window for record in todo.values()], pa.list_(pa.float64())),
            "keep": pa.array([is_kept(record, keep_all) for record in todo.values()], pa.bool_()),
        }
    )


def is_kept(record: Record, keep_all: bool) -> bool:
    """Whether a record's frames go into the store."""
    return keep_all or record.split != "train"
