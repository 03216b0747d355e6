"""What a store's shards hold: `shards.parquet` remembers it, so that a shard is opened once and not by every command.

A shard is opened again when its size or its time of modification are not those that it had then. The file follows from the
shards: one that is missing, damaged or of another store costs time and nothing else.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.data import shards
from pipelines.data.options import StoreOptions
from pipelines.data.shards import SCHEMA, STATUS, DamagedError
from vop.fingerprint import fingerprint
from vop.places import join
from vop.whole import read_whole, write_whole

SHARDS = "shards.parquet"
OPENED = 32  # shards at once: on a remote filesystem each is some round trips
ROWS = pa.schema(
    [
        *(SCHEMA.field(name) for name in STATUS),
        *(pa.field("shard", pa.string()), pa.field("row", pa.int32()), pa.field("version", pa.string())),
    ]
)


@dataclass(frozen=True)
class Status:
    """STATUS of every video of a store, with the shard, its version, and the row where it is; {damaged shard: its fault}.

    remembered: whether `shards.parquet` says just that.
    """

    table: pa.Table
    faults: dict[str, str]
    remembered: bool


def read_status(folder: str, options: StoreOptions, anew: bool = False) -> Status:
    """What a store holds, by shard and row; no pixels are read. anew: every shard is opened."""
    versions, known = shards.versions(folder), remembered(folder, options)
    pairs = () if anew else known.group_by(["shard", "version"]).aggregate([]).to_pylist()
    same = [pair["shard"] for pair in pairs if versions.get(pair["shard"]) == pair["version"]]
    todo = {name: version for name, version in versions.items() if name not in set(same)}
    with ThreadPoolExecutor(OPENED) as pool:
        found = dict(zip(todo, pool.map(partial(_status, folder, options), todo, todo.values()), strict=True))
    tables = [table for table in found.values() if not isinstance(table, str)]
    held = known.filter(pc.is_in(known["shard"], pa.array(same, pa.string())))
    table = pa.concat_tables([held, *tables]).sort_by([("shard", "ascending"), ("row", "ascending")])
    faults = {name: fault for name, fault in found.items() if isinstance(fault, str)}
    return Status(table, faults, table.equals(known))


def _status(folder: str, options: StoreOptions, name: str, version: str) -> pa.Table | str:
    """The rows of a shard, or what is wrong with it."""
    try:
        table = shards.status(folder, name, options)
    except DamagedError as damage:
        return str(damage)
    place = [[name] * len(table), range(len(table)), [version] * len(table)]
    return pa.table([*table.columns, *(pa.array(column) for column in place)], ROWS.names).cast(ROWS)


def remembered(folder: str, options: StoreOptions) -> pa.Table:
    """The rows of `shards.parquet`; none if it is not there, damaged, or of another store."""
    try:
        table = read_whole(join(folder, SHARDS))
    except (pa.ArrowException, OSError, ValueError):
        return ROWS.empty_table()
    whose = (table.schema.metadata or {}).get(b"store")
    right = table.schema.equals(ROWS) and whose == fingerprint(options.identity).encode()
    return table.replace_schema_metadata() if right else ROWS.empty_table()


def write_status(folder: str, options: StoreOptions, table: pa.Table) -> None:
    """Remember the rows of `read_status`."""
    schema = ROWS.with_metadata({"store": fingerprint(options.identity)})
    write_whole(folder, SHARDS, [table.cast(schema)], schema, codec="zstd")
