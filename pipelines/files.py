"""Files wherever they are: a path on this machine, or a URI that pyarrow knows (file://, s3://, gs://, ...)."""

from __future__ import annotations

import posixpath
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from vop.frames import FrameError, Frames, read_frames

LOCAL = fs.LocalFileSystem(use_mmap=True)


class StoreError(RuntimeError):
    """A place for frames that cannot be used; the message names it and says why."""


def located(place: str) -> tuple[fs.FileSystem, str]:
    """The filesystem of a path or URI, and the path in it. Raises StoreError for a URI that pyarrow does not know."""
    if "://" not in place:
        return LOCAL, place
    parent, name = posixpath.split(place.rstrip("/"))  # the name stays as it is: a video's may hold a % or a #
    if parent.endswith(("/", ":")):
        parent, name = place, ""
    filesystem, folder = _filesystem(parent)
    return filesystem, posixpath.join(folder, name) if name else folder


@lru_cache(maxsize=256)
def _filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    try:
        filesystem, folder = fs.FileSystem.from_uri(uri)
    except (pa.ArrowException, OSError, ImportError, ValueError) as error:
        raise StoreError(f"{uri}: {error}; valid: a path, or a URI that pyarrow knows (file://, s3://, gs://, ...)") from error
    return (LOCAL if isinstance(filesystem, fs.LocalFileSystem) else filesystem), folder


@contextmanager
def _local_copy(path: str) -> Iterator[str]:
    """A path on this machine for a video: its own, or that of a scratch copy of a remote one. FrameError if there is none."""
    filesystem, inside = located(path)
    if isinstance(filesystem, fs.LocalFileSystem):
        yield inside
        return
    with tempfile.TemporaryDirectory(prefix="vop-") as folder:
        copy = Path(folder) / f"video{Path(inside).suffix}"
        try:
            fs.copy_files(inside, str(copy), source_filesystem=filesystem, destination_filesystem=LOCAL)
        except FileNotFoundError as error:
            raise FrameError(path, "missing", "no such file") from error
        except OSError as error:
            raise FrameError(path, "unreadable", f"cannot be copied here: {error}") from error
        yield str(copy)


def write_whole(folder: str, name: str, rows: Iterable[pa.Table], schema: pa.Schema, codec: str = "none") -> None:
    """Write a Parquet file that appears whole or not at all, a row group a table."""
    filesystem, inside = located(folder)
    partial = f"{inside}/{name}.{uuid.uuid4().hex[:8]}.partial"
    with filesystem.open_output_stream(partial) as sink:
        # No dictionaries and statistics: training reads videos one by one, in random order.
        writer = pq.ParquetWriter(sink, schema, compression=codec, use_dictionary=False, write_statistics=False)
        with writer:
            for table in rows:
                writer.write_table(table)
    filesystem.move(partial, f"{inside}/{name}")


def listed(folder: str) -> list[fs.FileInfo]:
    """The files in a folder of any filesystem."""
    filesystem, inside = located(folder)
    with suppress(FileNotFoundError):
        return [info for info in filesystem.get_file_info(fs.FileSelector(inside)) if info.type == fs.FileType.File]
    return []


def read_video(
    path: str, count: int, sampling: str, options: dict[str, Any], window: Sequence[float] | None, seed: int = 0
) -> Frames:
    """Frames of a video at a path or URI, for a store or for a training that streams. Raises what `read_frames` does."""
    span = (float(window[0]), float(window[1])) if window is not None else None
    how = {name: options[name] for name in ("size", "fps", "decoder")}
    with _local_copy(path) as local:
        try:
            return read_frames(local, count, sampling=sampling, window=span, seed=seed, **how)
        except FrameError as error:
            raise FrameError(path, error.kind, error.problem) from error
