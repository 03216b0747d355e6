"""What a store says of itself: the manifest, which record is where, and the list of the videos that cannot be read.

Both follow from the records and the shards. They are written where they do not say what those do, and else left as they are.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict

import pyarrow as pa
from pyarrow import fs

from pipelines.data.options import StoreOptions
from pipelines.data.status import write_status
from pipelines.data.store import FAILED, MANIFEST, StoreError, manifest, manifest_schema
from pipelines.data.tasks import Tasks, is_kept, with_status
from vop.annotations.cells import written
from vop.benchmarks import Record
from vop.places import join, located, told
from vop.secrets import masked
from vop.whole import whole_file, write_whole

logger = logging.getLogger(__name__)


def index_records(folder: str, records: Sequence[Record], keys: Sequence[str], options: StoreOptions) -> list[dict[str, str]]:
    """Write which records are where; returns the videos that cannot be read."""
    tasks = with_status(folder, options, records, keys)
    write_lists(tasks)
    return failed_of(tasks)


def _found(tasks: Tasks) -> pa.Table:
    """The row of the store's status that belongs to each record."""
    at: dict[str, int] = {}
    for place, key in enumerate(tasks.status["key"].to_pylist()):
        at.setdefault(key, place)
    lost = [record.video_id for record, key in zip(tasks.records, tasks.keys, strict=True) if key not in at]
    if lost:
        why = "".join(f"; {name}: {fault}" for name, fault in tasks.faults.items())
        raise StoreError(f"{tasks.folder} does not hold what was written to it, such as {lost[0]}{why}: is its disk whole?")
    return tasks.status.take(pa.array([at[key] for key in tasks.keys], pa.int64()))


def _manifest(tasks: Tasks) -> pa.Table:
    """The records' fields, `key`, `ok`, and `shard` and `row` of the frames (null without)."""
    found = _found(tasks)
    ok, shard = found["ok"].to_pylist(), found["shard"].to_pylist()
    held = [good and is_kept(record, tasks.options.store) for good, record in zip(ok, tasks.records, strict=True)]
    schema = manifest_schema(any(record.frame_captions for record in tasks.records))
    names = Record.__dataclass_fields__.keys() & set(schema.names)
    columns = {name: [getattr(record, name) for record in tasks.records] for name in names}
    if tasks.options.store:  # else workers read the videos again, and need their addresses whole
        columns["path"] = [masked(record.path) for record in tasks.records]
    columns["shard"] = [name if here else None for name, here in zip(shard, held, strict=True)]
    rows = pa.table({**columns, **{name: found[name] for name in ("key", "ok", "row")}}, schema=schema)
    return rows.replace_schema_metadata({"store": json.dumps(asdict(tasks.options))})


def failed_of(tasks: Tasks) -> list[dict[str, str]]:
    """The videos that cannot be read, and why."""
    found, reasons = _found(tasks), ("path", "decoder", "error_kind", "error")
    bad = [place for place, good in enumerate(found["ok"].to_pylist()) if not good]
    return [
        {"video_id": tasks.records[place].video_id, **{name: str(row[name]) for name in reasons}}
        for place, row in zip(bad, found.take(pa.array(bad, pa.int64())).to_pylist(), strict=True)
    ]


def tell_unsound(tasks: Tasks) -> None:
    """Say how many videos were taken that are not whole."""
    found = _found(tasks)
    damaged, short = (sum(bool(number) for number in found[name].to_pylist()) for name in ("damaged", "missing"))
    if damaged or short:
        logger.warning("%d videos with damaged frames, %d that lack frames they promise: taken all the same", damaged, short)


def is_listed(tasks: Tasks) -> bool:
    """Whether both lists say what the store holds."""
    return _manifest_is(tasks.folder, _manifest(tasks)) and _failed_there(tasks.folder) == _failed_csv(tasks)


def is_to_do(tasks: Tasks) -> bool:
    """Whether a store lacks something; else it is only read."""
    return bool(len(tasks.table)) or not is_listed(tasks)


def write_lists(tasks: Tasks) -> None:
    """Write those of the lists, and of what is remembered, that do not say what the store holds."""
    rows, text = _manifest(tasks), _failed_csv(tasks)
    if not tasks.remembered:
        write_status(tasks.folder, tasks.options, tasks.status)
    if not _manifest_is(tasks.folder, rows):
        write_whole(tasks.folder, MANIFEST, [rows], rows.schema, codec="zstd")
    if text == _failed_there(tasks.folder):
        return
    if text:
        with whole_file(tasks.folder, FAILED) as (file, _):
            file.write(text)
    else:
        filesystem, inside = located(join(tasks.folder, FAILED))
        with told(tasks.folder):
            filesystem.delete_file(inside)


def _manifest_is(folder: str, rows: pa.Table) -> bool:
    try:
        return bool(manifest(folder).equals(rows, check_metadata=True))
    except StoreError:
        return False


def _failed_csv(tasks: Tasks) -> bytes:
    failed = failed_of(tasks)
    if not failed:
        return b""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(failed[0]))
    writer.writeheader()
    writer.writerows({name: written(value) for name, value in row.items()} for row in failed)
    return text.getvalue().encode()


def _failed_there(folder: str) -> bytes:
    filesystem, inside = located(join(folder, FAILED))
    if filesystem.get_file_info(inside).type != fs.FileType.File:
        return b""
    with told(folder), filesystem.open_input_file(inside) as file:
        return bytes(file.read())
