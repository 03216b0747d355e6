"""A frame store's shards: Parquet files, a row group a video. What is damaged in them is seen before it is believed.

A shard is called KEYS-BODY-FOOTER.parquet: a hash of its videos' keys, and the CRC-32 of all its bytes in two parts. Its pages
have checksums of their own. Opening one looks at footer, schema and fingerprint; a page is checked when a process first reads
it, since to check it takes as long as to read it; `body_fault` reads every byte. Shards of version 0.2 have no checksums, and a
name of KEYS alone: what can be told of them is told.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from pipelines.data.options import StoreOptions
from vop.fingerprint import fingerprint
from vop.messages import one_line
from vop.places import OF_THE_MACHINE, PlaceError, join, located, sentence
from vop.whole import write_whole

STATUS = ["key", "video_id", "path", "ok", "decoder", "damaged", "missing", "error_kind", "error"]
SCHEMA = pa.schema(
    {
        **{"key": pa.string(), "video_id": pa.string(), "path": pa.string(), "ok": pa.bool_()},
        **{"decoder": pa.string(), "damaged": pa.int32(), "missing": pa.int64()},  # counts of `Frames`
        **{"error_kind": pa.string(), "error": pa.string()},
        **{"frames": pa.list_(pa.binary()), "indices": pa.list_(pa.int64()), "times": pa.list_(pa.float32())},
    }
)
NAME = re.compile(r"(?P<keys>[0-9a-f]{24})(-(?P<body>[0-9a-f]{8})-(?P<footer>[0-9a-f]{8}))?\.parquet")
MAGIC = b"PAR1"  # both ends of a Parquet file
OPEN = 32  # shards that a process keeps open: 0.2 MiB each
KNOWN = 2048  # shards whose footers it keeps: 30 kB each
GONE = "it is not there"
TAIL = 2**16  # bytes read at once of a shard's end: on a remote filesystem each reading is a round trip
CHUNK = 2**22  # bytes read at once of a whole file


class DamagedError(Exception):
    """A shard that is not what was written, or not there; the message says why."""


def folder_of(store: str) -> str:
    """Where a store's shards are."""
    return join(store, "frames")


def write(store: str, keys: Sequence[str], rows: Iterable[pa.Table], options: StoreOptions) -> None:
    """Write a shard; rows: a table of one row of SCHEMA for each key, in their order."""
    codec = options.codec if options.codec in ("lz4", "zstd") else "none"
    schema = SCHEMA.with_metadata({"store": fingerprint(options.identity)})
    write_whole(folder_of(store), f"{_hash(keys)}-{{body}}-{{footer}}.parquet", rows, schema, codec)


def _hash(keys: Sequence[str]) -> str:
    return hashlib.sha256("".join(keys).encode()).hexdigest()[:24]


def versions(store: str) -> dict[str, str]:
    """{name: size and time of modification} of a store's shards, in order, also of what only is called like one."""
    filesystem, inside = located(folder_of(store))
    found = filesystem.get_file_info(fs.FileSelector(inside, allow_not_found=True))
    named = {info.base_name: f"{info.size} {info.mtime_ns}" for info in found if info.base_name.endswith(".parquet")}
    return dict(sorted(named.items()))


def status(store: str, name: str, options: StoreOptions) -> pa.Table:
    """STATUS of a shard's videos; no frames are read. Raises DamagedError for what is not of this store, or cannot be read."""
    with _reading(store, name), _opened(store, name) as file:
        if file.read_at(len(MAGIC), 0) != MAGIC:
            raise DamagedError("it does not begin as a Parquet file")
        parquet = pq.ParquetFile(file, metadata=_metadata(file, name), page_checksum_verification=True)
        if not parquet.schema_arrow.equals(SCHEMA):
            raise DamagedError("its columns are those of another version or of another file")
        if (parquet.schema_arrow.metadata or {}).get(b"store", b"").decode() not in ("", fingerprint(options.identity)):
            raise DamagedError("it is of another store, of other frames")
        table = parquet.read(columns=STATUS)
        found = NAME.fullmatch(name)
        if found is None or found["keys"] != _hash(table["key"].to_pylist()):
            raise DamagedError("its name is not that of its videos")
        if parquet.num_row_groups != len(table):
            raise DamagedError("its videos are not in row groups of their own")
    return table


def frames(store: str, name: str, row: int, key: str) -> list[pa.Buffer]:
    """The frames of the video of a key, in a row group of a shard, as they are stored. Raises DamagedError."""
    with _reading(store, name):
        version = _version(join(folder_of(store), name))
        file, metadata = _file(store, name, version)
        seen = _SEEN[store, name, version]
        new = row not in seen
        # A reader of its own for each call: they may come from several threads. Buffered, both columns are one request.
        how = {"page_checksum_verification": new, "pre_buffer": not version}
        columns = ["key", "frames"] if new else ["frames"]
        reader = pq.ParquetFile(file or _opened(store, name), metadata=metadata, **how)
        table = reader.read_row_group(row, columns=columns, use_threads=False)
        if new and table["key"].to_pylist() != [key]:
            raise DamagedError(f"its video {row} is another one")
        seen.add(row)
        values = table["frames"].chunk(0).values
        return [values[place].as_buffer() for place in range(len(values))]


_SEEN: defaultdict[tuple[str, str, str], set[int]] = defaultdict(set)  # rows that this process has checked


def _version(place: str) -> str:
    """Another one where a file of this machine was changed or cut while it was open; a cut map would kill the process.

    Of a remote file nothing: it cannot be changed, and to look at it would be a request.
    """
    filesystem, inside = located(place)
    if not isinstance(filesystem, fs.LocalFileSystem):
        return ""
    found = os.stat(inside)
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns}"


@lru_cache(maxsize=OPEN)
def _file(store: str, name: str, version: str) -> tuple[pa.NativeFile | None, pq.FileMetaData]:
    """A shard's file, where threads can share it, and its footer."""
    file, footer = _known(store, name, version)
    return _opened(store, name) if version else file, pq.read_metadata(pa.BufferReader(footer))


@lru_cache(maxsize=KNOWN)
def _known(store: str, name: str, version: str) -> tuple[pa.NativeFile | None, bytes]:
    """A shard's footer, and its open file where that takes nothing of the machine: a remote one.

    But not one of fsspec's (hf://): its size is found by moving the place that it is read at, also under another thread.
    """
    file, (filesystem, _) = _opened(store, name), located(store)
    shared = not version and type(getattr(filesystem, "handler", None)) is not fs.FSSpecHandler
    return file if shared else None, _footer(file, name)


def _opened(store: str, name: str) -> pa.NativeFile:
    """A shard's file, that holds something."""
    filesystem, inside = located(join(folder_of(store), name))
    if isinstance(filesystem, fs.LocalFileSystem) and not os.path.isfile(inside):  # to open a pipe would wait for ever
        raise DamagedError("it is not a file" if os.path.lexists(inside) else GONE)
    if isinstance(filesystem, fs.LocalFileSystem) and not os.path.getsize(inside):
        raise DamagedError("it is empty")
    return filesystem.open_input_file(inside)


def _metadata(file: pa.NativeFile, name: str) -> pq.FileMetaData:
    return pq.read_metadata(pa.BufferReader(_footer(file, name)))


def _footer(file: pa.NativeFile, name: str) -> bytes:
    """A shard's footer, if it is one and, where the shard's name says which, the one that was written."""
    size = file.size()
    tail = file.read_at(min(TAIL, size), max(0, size - TAIL))
    length = 8 + int.from_bytes(tail[-8:-4], "little")
    if tail[-4:] != MAGIC or length > size:
        raise DamagedError("it does not end as a Parquet file: cut off, overwritten or added to")
    footer = tail[-length:] if length <= len(tail) else file.read_at(length, size - length)
    found = NAME.fullmatch(name)
    if found and found["footer"] and f"{zlib.crc32(footer):08x}" != found["footer"]:
        raise DamagedError("its footer is not the one that was written")
    return bytes(footer)


def body_fault(store: str, name: str) -> str:
    """What is wrong with a shard whose `status` can be read, if anything is: every byte or, without checksums, row is read."""
    try:
        with _reading(store, name), _opened(store, name) as file:
            found = NAME.fullmatch(name)
            metadata = _metadata(file, name)
            if found is None or not found["body"]:
                pq.ParquetFile(file, metadata=metadata, page_checksum_verification=True).read()
                return ""
            size, crc = file.size(), 0
            left = size - 8 - int.from_bytes(file.read_at(4, size - 8), "little")
            while left:
                data = file.read(min(CHUNK, left))
                crc, left = zlib.crc32(data, crc), left - len(data)
            return "" if f"{crc:08x}" == found["body"] else "its bytes are not those that were written"
    except DamagedError as damage:
        return str(damage)


@contextmanager
def _reading(store: str, name: str) -> Iterator[None]:
    """DamagedError for all that a file can make its reader raise; PlaceError for what is wrong with this machine."""
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedError(GONE) from error
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        place, number = join(folder_of(store), name), getattr(error, "errno", None)
        if number in OF_THE_MACHINE or isinstance(error, pa.ArrowMemoryError):
            raise PlaceError(sentence(place, error) if isinstance(error, OSError) else f"{place}: {one_line(error)}") from error
        raise DamagedError(
            "no permission to read it" if number == errno.EACCES else f"it cannot be read: {short(error)}"
        ) from error


def short(error: Any) -> str:
    """The first line of what a library says, not too long."""
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
