"""Frame stores without Ray, and the ways in which a shard is damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data import shards
from pipelines.data.decode import write_shard
from pipelines.data.lists import index_records
from pipelines.data.options import StoreOptions, store_folder, store_options
from pipelines.data.tasks import content_key, tasks_of
from vop.benchmarks import Record
from vop.config import Experiment
from vop.model.architecture import image_size


def write_store(experiment: Experiment, records: Sequence[Record]) -> str:
    """Decode videos into an experiment's store, unless it is there already; returns its folder."""
    size = image_size(experiment.backbone)
    store, options = store_folder(experiment, size), store_options(experiment, size)
    if not Path(store).exists():
        (Path(store) / "frames").mkdir(parents=True)
        keys = [content_key(record) for record in records]
        write_shard(tasks_of(records, keys, set(), True), store, options)
        index_records(store, records, keys, options)
    return store


def decode_here(tasks: pa.Table, folder: str, options: StoreOptions) -> None:
    """In place of `pipelines.data.decode.decode`: the same shards, decoded in this process, three videos each."""
    for start in range(0, len(tasks), 3):
        write_shard(tasks.slice(start, 3), folder, options)


def flip(path: Path, place: int, bit: int = 3) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def _pages(data: bytes) -> int:
    """Where the pages end and the footer begins."""
    return len(data) - 8 - int.from_bytes(data[-8:-4], "little")


def _rewritten(change: Callable[[bytes], bytes]) -> Callable[[Path, Random], None]:
    return lambda shard, rng: shard.write_bytes(change(shard.read_bytes())) and None


def _in_a_page(shard: Path, rng: Random) -> None:
    flip(shard, rng.randrange(_pages(shard.read_bytes()) // 4, _pages(shard.read_bytes()) // 2), rng.randrange(8))


def _in_a_header(shard: Path, rng: Random) -> None:
    flip(shard, 5, rng.randrange(8))  # the first page's begins at 4


def _in_the_footer(shard: Path, rng: Random) -> None:
    data = shard.read_bytes()
    flip(shard, rng.randrange(_pages(data), len(data) - 8), rng.randrange(8))


def _zeros_in_the_middle(shard: Path, rng: Random) -> None:
    data = bytearray(shard.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 4096] = bytes(4096)
    shard.write_bytes(data)


def _folder_in_its_place(shard: Path, rng: Random) -> None:
    shard.unlink()
    shard.mkdir()
    (shard / "file").touch()


def _of_other_frames(shard: Path, rng: Random) -> None:
    """As if copied in from another store: whole, and called as its own keys and checksums say."""
    found = pq.ParquetFile(shard)
    rows = [found.read_row_group(number) for number in range(found.num_row_groups)]
    options = StoreOptions(*(32, 1, 1, True, "uniform", 1.0, "auto", "refuse", "raw", 0))
    shards.write(str(shard.parents[1]), found.read(["key"])["key"].to_pylist(), rows, options)
    shard.unlink()


def _of_other_columns(shard: Path, rng: Random) -> None:
    pq.write_table(pa.table({"key": ["a"]}), shard)


def _twice(shard: Path, rng: Random) -> None:
    shutil.copyfile(shard, shard.with_name(f"{'0' * 24}{shard.name[24:]}"))


def _of_another_shard(shard: Path, rng: Random) -> None:
    other = next(path for path in sorted(shard.parent.glob("*.parquet")) if path != shard)
    shutil.copyfile(other, shard)


DAMAGE: dict[str, Callable[[Path, Random], None]] = {
    "a bit of a page": _in_a_page,
    "a bit of a page's header": _in_a_header,
    "a bit of the footer": _in_the_footer,
    "a bit of the magic at its beginning": lambda shard, rng: flip(shard, rng.randrange(4), rng.randrange(8)),
    "a bit of the magic at its end": lambda shard, rng: flip(shard, -1 - rng.randrange(4), rng.randrange(8)),
    "its beginning is missing": _rewritten(lambda data: data[100:]),
    "its middle is missing": _rewritten(lambda data: data[: len(data) // 3] + data[len(data) // 2 :]),
    "its end is missing": _rewritten(lambda data: data[: len(data) * 2 // 3]),
    "empty": _rewritten(lambda data: b""),
    "all zeros": _rewritten(lambda data: bytes(len(data))),
    "zeros in the middle": _zeros_in_the_middle,
    "bytes after its end": _rewritten(lambda data: data + b"more"),
    "text": _rewritten(lambda data: b"not a shard at all\n" * 100),
    "a folder in its place": _folder_in_its_place,
    "of other frames": _of_other_frames,
    "of other columns": _of_other_columns,
    "twice": _twice,
    "another shard under its name": _of_another_shard,
    "gone": lambda shard, rng: shard.unlink(),
}
