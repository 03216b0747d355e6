"""What an index holds on disk, in a folder of this machine:

    index.json         what was indexed how: the manifest
    adapter/           the model, as any adapter's folder
    parts/*.parquet    rows, in the order of their numbers; appended, never changed

A row tells of a file: found, changed, unreadable or gone; of several rows of one path the last one holds. It has the windows
of the file, unless a row before has them: they belong to a file's content (its SHA-256), not to its path. A part is called
part-NUMBER-BODY-FOOTER.parquet, with the CRC-32 of its bytes in two parts; its pages have checksums of their own.

N windows of all files, E joint embedding, R numbers that a head keeps of a video.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vop.errors import VopError
from vop.messages import one_line
from vop.places import join, listed, located, told
from vop.whole import whole_file, write_whole

FORMAT = 1
MANIFEST, PARTS, ADAPTER = "index.json", "parts", "adapter"
NAME = re.compile(r"part-\d{6}-[0-9a-f]{8}-[0-9a-f]{8}\.parquet")
NUMBERED = re.compile(r"part-(\d{6})-.*parquet")
GROUP = 2**20  # bytes of numbers in a row group
KINDS: dict[str, type[np.generic]] = {"vectors": np.float16, "rows": np.float32}  # how the numbers of a column are stored
TOLD = ["path", "size", "mtime_ns", "content", "error", "gone", "start", "end"]  # all but the numbers

Times = NDArray[np.float32]


class VideoIndexError(VopError, ValueError):
    """An index that is not there, cannot be read or does not fit what is asked of it; the message says what is valid."""


@dataclass(frozen=True)
class Manifest:
    """fingerprint: of the model; overrides: where its weights are; window, stride: seconds; width: E; own: R, 0 for cosines."""

    fingerprint: str
    window: float
    stride: float
    width: int
    own: int = 0
    overrides: Sequence[str] = ()
    format: int = FORMAT

    @property
    def schema(self) -> pa.Schema:
        """Of a part. vectors: unit embeddings, float16 [E]; rows: what a head with a score of its own keeps, float32 [R]."""
        times = {"start": pa.list_(pa.float32()), "end": pa.list_(pa.float32())}
        numbers = {
            "vectors": pa.list_(pa.binary(2 * self.width)),
            **({"rows": pa.list_(pa.binary(4 * self.own))} if self.own else {}),
        }
        return pa.schema(
            {
                **{"path": pa.string(), "size": pa.int64(), "mtime_ns": pa.int64(), "content": pa.string()},
                **{"error": pa.string(), "gone": pa.bool_(), **times, **numbers},
            }
        )


@dataclass(frozen=True)
class File:
    """What is known of a file. size, mtime_ns: when it was read; error: why it cannot be read, else ""."""

    path: str
    size: int
    mtime_ns: int
    content: str = ""
    error: str = ""


@dataclass(frozen=True)
class Held:
    """Where the windows of a content are: in which row of which part; their times in seconds; the bytes of its file."""

    part: str
    row: int
    size: int
    start_N: Times
    end_N: Times

    @property
    def number(self) -> int:
        """Of the part."""
        return int(self.part[5:11])

    @property
    def duration(self) -> float:
        """Seconds that the windows cover."""
        return float(self.end_N[-1])


@dataclass
class Table:
    """An index as its parts tell it, without its numbers. damaged: parts that cannot be read, and why; told: those so named."""

    folder: str
    manifest: Manifest
    files: dict[str, File] = field(default_factory=dict)
    held: dict[str, Held] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)
    parts: int = 0  # the number of the next one

    @property
    def found(self) -> dict[str, list[File]]:
        """{content: its files by path}, of those whose windows are held."""
        groups: dict[str, list[File]] = {}
        for _, file in sorted(self.files.items()):
            if not file.error and file.content in self.held:
                groups.setdefault(file.content, []).append(file)
        return groups


def is_index(folder: str) -> bool:
    """Whether there is an index."""
    try:
        filesystem, inside = located(join(folder, MANIFEST))
        return bool(filesystem.get_file_info(inside).is_file)
    except (OSError, VopError, ValueError):
        return False


def read_manifest(folder: str) -> Manifest:
    """Raises VideoIndexError where there is no index, or one that this version does not read."""
    filesystem, inside = located(join(folder, MANIFEST))
    try:
        with filesystem.open_input_file(inside) as file:
            found = json.loads(file.read())
        if found["format"] != FORMAT:
            raise ValueError(f"format {found['format']!r}, this version reads {FORMAT}")
        return Manifest(**{each.name: found[each.name] for each in fields(Manifest)})
    except FileNotFoundError:
        raise VideoIndexError(f"{folder} is no index: make one, vop index VIDEOS --to {folder}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VideoIndexError(f"{join(folder, MANIFEST)} is not the manifest of an index: {one_line(error)}") from None


def write_manifest(folder: str, manifest: Manifest) -> None:
    """Written once, last of all that a new index needs: only then it is one. Raises PlaceError."""
    filesystem, inside = located(join(folder, PARTS))
    with told(folder):
        filesystem.create_dir(inside, recursive=True)
    with whole_file(folder, MANIFEST) as (file, _):
        file.write((json.dumps(asdict(manifest), indent=2) + "\n").encode())


def read_table(folder: str, whole: bool = False) -> Table:
    """An index as it is now; damaged parts are told in it, and their files are not. Raises VideoIndexError, PlaceError.

    whole: every byte of the parts is checked, not only those that are read.
    """
    table = Table(folder, read_manifest(folder))
    with told(folder):
        names = sorted(info.base_name for info in listed(join(folder, PARTS)))
    numbered = [found for found in map(NUMBERED.match, names) if found]  # damaged ones too: no number is used twice
    table.parts = 1 + max((int(found[1]) for found in numbered), default=-1)
    for name in filter(NAME.fullmatch, names):
        try:
            if whole:
                _check_bytes(folder, name)
            with _opened(table, name) as parquet:
                _take(table, name, parquet.read(columns=TOLD))
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            table.damaged[name] = one_line(error)
    return table


def _check_bytes(folder: str, name: str) -> None:
    """Raises ValueError for a part whose bytes are not those that its name tells of, OSError for one that cannot be read."""
    filesystem, inside = located(join(folder, PARTS, name))
    with filesystem.open_input_file(inside) as file:
        data = memoryview(file.read_buffer())
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    if f"{zlib.crc32(data[:footer]):08x}-{zlib.crc32(data[footer:]):08x}" != name[12:29]:
        raise ValueError("its bytes are not those that were written")


def _take(table: Table, name: str, rows: pa.Table) -> None:
    """Take a part's rows into the table; of numbers they have none."""
    times = [rows[each].combine_chunks() for each in ("start", "end")]
    for number, row in enumerate(rows.drop_columns(["start", "end"]).to_pylist()):
        if row.pop("gone"):
            table.files.pop(row["path"], None)
            continue
        table.files[row["path"]] = File(**row)
        start_N, end_N = (each[number].values for each in times)
        if end_N is not None and len(end_N) and row["content"] not in table.held:
            table.held[row["content"]] = Held(name, number, row["size"], start_N.to_numpy(), end_N.to_numpy())


def _opened(table: Table, name: str) -> pq.ParquetFile:
    """A part, open for reading. Raises as pyarrow does, ValueError for other columns."""
    filesystem, inside = located(join(table.folder, PARTS, name))
    parquet = pq.ParquetFile(filesystem.open_input_file(inside), page_checksum_verification=True)
    if parquet.schema_arrow.names != table.manifest.schema.names:
        raise ValueError("its columns are those of another index")
    return parquet


def read_numbers(table: Table, column: str, contents: Iterable[str]) -> dict[str, NDArray[Any]]:
    """{content: its windows' `vectors` [n, E] float16, or `rows` [n, R] float32}, read from the row groups that hold them.

    Parts that cannot be read are left out, and added to `table.damaged`.
    """
    found: dict[str, NDArray[Any]] = {}
    wanted: dict[str, list[str]] = {}
    for content in contents:
        wanted.setdefault(table.held[content].part, []).append(content)
    for name, inside in wanted.items():
        try:
            with _opened(table, name) as parquet:
                found |= _numbers(parquet, column, {table.held[content].row: content for content in inside})
        except (pa.ArrowException, OSError, ValueError) as error:
            table.damaged[name] = one_line(error)
    return found


def _numbers(parquet: pq.ParquetFile, column: str, content_of_row: dict[int, str]) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {}
    first = 0
    for group in range(parquet.num_row_groups):
        rows = range(first, first := first + parquet.metadata.row_group(group).num_rows)
        if here := [row for row in rows if row in content_of_row]:
            lists = parquet.read_row_group(group, columns=[column])[column].combine_chunks()
            found |= {content_of_row[row]: as_numbers(lists[row - rows.start].values, KINDS[column]) for row in here}
    return found


def as_numbers(values: pa.Array, kind: type[np.generic]) -> NDArray[Any]:
    """An array of fixed-size binaries as numbers, a row each."""
    width = values.type.byte_width
    data = np.frombuffer(values.buffers()[1], np.uint8)[values.offset * width :]
    return data[: len(values) * width].view(kind).reshape(len(values), -1)


def append(table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows of the schema, as dictionaries, as the next part, and take them into the table. Raises PlaceError.

    What a row does not say is null, or as of a file that is there and can be read.
    """
    schema = table.manifest.schema
    whole = [{**dict.fromkeys(schema.names), "error": "", "gone": False, **row} for row in rows]
    groups = (pa.Table.from_pylist(group, schema) for group in _grouped(whole))
    name = write_whole(join(table.folder, PARTS), f"part-{table.parts:06}-{{body}}-{{footer}}.parquet", groups, schema)
    _take(table, name, pa.Table.from_pylist(whole, schema).select(TOLD))
    table.parts += 1


def _grouped(rows: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Rows in groups of about GROUP bytes, so that the windows of a few files can be read alone."""
    group, size = list[dict[str, Any]](), 0
    for row in rows:
        group.append(row)
        size += sum(len(number) for name in KINDS for number in row.get(name) or ())
        if size >= GROUP or row is rows[-1]:
            yield group
            group, size = [], 0
