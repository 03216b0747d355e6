"""Files that appear whole or not at all, on any filesystem: written, fetched, or set aside where they are damaged."""

from __future__ import annotations

import os
import uuid
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from vop.places import LOCAL, join, located, told

CHUNK = 2**26  # bytes fetched at once: each reading is a round trip


class Partial:
    """A file on its way: what is written goes on to `sink`, and into a CRC-32 that `taken` reads and begins anew."""

    def __init__(self, sink: Any):
        self.sink, self.closed, self.crc = sink, False, 0

    def write(self, data: bytes) -> int:
        """Write bytes-like data; returns how many bytes."""
        self.crc = zlib.crc32(data, self.crc)
        return int(self.sink.write(data))

    def taken(self) -> str:
        """The CRC-32 since the last call, 8 hexadecimal digits."""
        crc, self.crc = self.crc, 0
        return f"{crc:08x}"

    def tell(self) -> int:
        """Where the next byte goes."""
        return int(self.sink.tell())

    def flush(self) -> None:
        """As of any file."""
        self.sink.flush()


@contextmanager
def whole_file(folder: str, name: str) -> Iterator[tuple[Partial, dict[str, str]]]:
    """A file that appears whole or not at all, and what its name is completed with (`name.format(**...)`) when it does.

    It is `NAME.<8 digits>.partial` before. Raises PlaceError where it cannot be written.
    """
    filesystem, inside = located(folder)
    plain, marks = name.replace("{", "").replace("}", ""), dict[str, str]()
    partial = f"{inside}/{plain}.{_mark()}.partial"
    with told(join(folder, plain)):
        try:
            with filesystem.open_output_stream(partial) as sink:
                yield Partial(sink), marks
            name = name.format(**marks)
            if isinstance(filesystem, fs.LocalFileSystem) and Path(inside, name).is_dir():
                set_aside(folder, name)
            filesystem.move(partial, f"{inside}/{name}")
        except BaseException:
            with suppress(OSError):
                filesystem.delete_file(partial)
            raise


def set_aside(folder: str, name: str) -> str:
    """Rename what is damaged to NAME.<8 digits>.damaged, so that nothing reads it; returns that name. Raises OSError."""
    filesystem, inside = located(folder)
    aside = f"{name}.{_mark()}.damaged"
    filesystem.move(f"{inside}/{name}", f"{inside}/{aside}")
    return aside


def write_whole(folder: str, name: str, rows: Iterable[pa.Table], schema: pa.Schema, codec: str = "none") -> str:
    """Write a Parquet file that appears whole or not at all, a row group a table, with a checksum for each page; its name.

    `{body}` and `{footer}` in its name become the CRC-32 of what is before Parquet's footer, and of it and all that follows.
    """
    # No dictionaries and statistics: training reads videos one by one, in random order.
    plain = {"use_dictionary": False, "write_statistics": False}
    with whole_file(folder, name) as (file, marks):
        with pq.ParquetWriter(file, schema, compression=codec, write_page_checksum=True, **plain) as writer:
            for table in rows:
                writer.write_table(table)
            marks["body"] = file.taken()
        marks["footer"] = file.taken()
    return name.format(**marks)


def read_whole(place: str) -> pa.Table:
    """A Parquet file of `write_whole`, read at once: on a remote filesystem each reading is a round trip."""
    filesystem, inside = located(place)
    with filesystem.open_input_file(inside) as file:
        return pq.ParquetFile(pa.BufferReader(file.read()), page_checksum_verification=True).read()


def fetch(source: fs.FileSystem, inside: str, to: Path, time_ns: int | None = None) -> None:
    """Copy a file of a filesystem to a path of this machine, whose folder there is. Several processes may at once.

    time_ns: when it says that it was changed; without it, now. Memory: a few times 64 MiB at most.
    Raises OSError; what was at the path is then as it was.
    """
    partial = to.with_name(f"{to.name}.{_mark()}.partial")
    try:
        fs.copy_files(inside, str(partial), source_filesystem=source, destination_filesystem=LOCAL, chunk_size=CHUNK)
        if time_ns is not None:
            os.utime(partial, ns=(time_ns, time_ns))
        partial.replace(to)
    finally:
        partial.unlink(missing_ok=True)


def _mark() -> str:
    return uuid.uuid4().hex[:8]
