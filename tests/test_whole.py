"""Files appear whole or not at all, whoever writes or fetches them."""

from __future__ import annotations

import resource
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from vop.places import LOCAL, PlaceError
from vop.whole import fetch, write_whole

SCHEMA = pa.schema({"a": pa.int64()})


def test_a_file_appears_whole_with_a_row_group_for_each_table(tmp_path: Path) -> None:
    write_whole(str(tmp_path), "x.parquet", (pa.table({"a": [n, n]}) for n in range(3)), SCHEMA, "zstd")
    assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]
    file = pq.ParquetFile(tmp_path / "x.parquet")
    assert file.num_row_groups == 3 and file.read()["a"].to_pylist() == [0, 0, 1, 1, 2, 2]
    column = file.metadata.row_group(0).column(0)
    write_whole(str(tmp_path), "y-{body}-{footer}.parquet", (pa.table({"a": [n, n]}) for n in range(3)), SCHEMA)
    (marked,) = tmp_path.glob("y-*.parquet")
    content = marked.read_bytes()
    at = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    assert marked.stem == f"y-{zlib.crc32(content[:at]):08x}-{zlib.crc32(content[at:]):08x}"
    assert column.compression == "ZSTD" and not column.is_stats_set and not column.has_dictionary_page


def test_a_file_that_is_not_finished_is_not_there(tmp_path: Path) -> None:
    def rows() -> Iterator[pa.Table]:
        yield pa.table({"a": [1]})
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_whole(str(tmp_path), "x.parquet", rows(), SCHEMA)
    assert not list(tmp_path.iterdir()), "and nothing is left of it"
    assert LOCAL.get_file_info(str(tmp_path / "x.parquet")).type == fs.FileType.NotFound


def test_a_file_without_room_is_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    """The limit of a process stands for a full disk: what is written fails midway."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, old[1]))
    try:
        with pytest.raises(PlaceError, match=r"x\.parquet: a file may not grow so large"):
            write_whole(str(tmp_path), "x.parquet", [pa.table({"a": range(2**16)})], SCHEMA)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert not list(tmp_path.iterdir())
    with pytest.raises(PlaceError, match="none/x"):
        write_whole(str(tmp_path / "none"), "x.parquet", [], SCHEMA)


def test_a_file_is_fetched_whole_with_its_time_or_stays_as_it_was(tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir(), here.mkdir()
    (there / "x").write_bytes(bytes(1000))
    fetch(LOCAL, str(there / "x"), here / "x", time_ns=5 * 10**9)
    assert (here / "x").read_bytes() == bytes(1000) and (here / "x").stat().st_mtime == 5
    (there / "x").write_bytes(bytes(2**17))
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, old[1]))  # as in the test above: it fails midway
    try:
        with pytest.raises(OSError, match="File too large"):
            fetch(LOCAL, str(there / "x"), here / "x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    (there / "x").unlink()
    with pytest.raises(FileNotFoundError):
        fetch(LOCAL, str(there / "x"), here / "x")
    assert [path.name for path in here.iterdir()] == ["x"] and (here / "x").stat().st_size == 1000
