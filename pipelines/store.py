"""The frame store's format: where it is, its shards and its manifest, and how frames are coded in them.

A store is a folder, on this machine or at any URI that pyarrow knows (s3://, gs://, ...):

    frames/<hash>.parquet   shards, a row group a video, each at most SHARD_BYTES of uncompressed frames
    manifest.parquet        the benchmark's records, and in which row of which shard the frames of each are
    failed.csv              the videos that cannot be read, and why

A video is a row with its distinct frames: `frames.count` of them or fewer, or, where training draws frames at random, up to
`frames.candidates` for each, out of which the reader draws.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import fs

from pipelines.files import StoreError, listed, located, write_whole
from vop.benchmarks import Record
from vop.frames import sample_indices

MANIFEST = "manifest.parquet"
FAILED = "failed.csv"
STATUS = ["key", "video_id", "path", "ok", "decoder", "error_kind", "error"]
SCHEMA = pa.schema(
    {
        **{"key": pa.string(), "video_id": pa.string(), "path": pa.string(), "ok": pa.bool_()},
        **{"decoder": pa.string(), "error_kind": pa.string(), "error": pa.string()},
        **{"frames": pa.list_(pa.binary()), "indices": pa.list_(pa.int64()), "times": pa.list_(pa.float32())},
    }
)

Images = NDArray[np.uint8]
Mask = NDArray[np.bool_]


# -- frames in a row -------------------------------------------------------------------------------------------------------


def coded(frames_FHWC: Images, codec: str, quality: int) -> list[bytes]:
    """Frames as a row holds them: the bytes of each, or a JPEG of each (lz4 and zstd are applied by Parquet)."""
    if codec != "jpeg":
        return [frame.tobytes() for frame in frames_FHWC]
    import torch
    from torchvision.io import encode_jpeg

    pictures = encode_jpeg(list(torch.from_numpy(frames_FHWC).permute(0, 3, 1, 2).contiguous()), quality=quality)
    return [picture.numpy().tobytes() for picture in pictures]


def _decoded(frames: list[pa.Buffer], codec: str, size: int) -> Images:
    if codec != "jpeg":
        return np.stack([np.frombuffer(frame, np.uint8).reshape(size, size, 3) for frame in frames])
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    data = [torch.from_numpy(np.frombuffer(frame, np.uint8).copy()) for frame in frames]
    images: Images = torch.stack(decode_jpeg(data, mode=ImageReadMode.RGB)).permute(0, 2, 3, 1).contiguous().numpy()
    return images


@dataclass(frozen=True)
class Draw:
    """Which of the stored frames a step of training takes: a function of seed, step and video, whoever reads it."""

    seed: int
    step: int

    def rng(self, video_id: str) -> np.random.Generator:
        """The generator for one video."""
        return np.random.default_rng([self.seed, self.step, zlib.crc32(video_id.encode())])

    def number(self, video_id: str) -> int:
        """A seed for one video, for `read_frames`."""
        return int(self.rng(video_id).integers(2**31))


def read_videos(folder: str, video_ids: Sequence[str], draw: Draw | None = None) -> tuple[Images, Mask]:
    """Frames [N, F, H, W, 3] and masks [N, F] of videos from a store; a clip with fewer than F repeats its last one.

    Of more stored frames than F, each of F equal parts gives one: its middle one, or with `draw` a random one.
    """
    store = opened(folder)
    count, videos, masks = store.options["count"], [], []
    for video_id in video_ids:
        shard, row = store.place(video_id)
        column = _shard(f"{folder}/frames/{shard}").read_row_group(row, columns=["frames"], use_threads=False)["frames"]
        frames = column.chunk(0).values
        rng = draw.rng(video_id) if draw else None
        picked = sample_indices(len(frames), count, "random" if draw else "uniform", rng=rng)
        wanted = picked[np.minimum(np.arange(count), len(picked) - 1)]
        videos.append(_decoded([frames[int(k)].as_buffer() for k in wanted], store.options["codec"], store.options["size"]))
        masks.append(np.arange(count) < len(picked))
    return np.stack(videos), np.stack(masks)


@lru_cache(maxsize=64)
def _shard(path: str) -> pq.ParquetFile:
    filesystem, inside = located(path)
    return pq.ParquetFile(filesystem.open_input_file(inside))


# -- manifest --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Store:
    """A store as its manifest tells it. options: see `prepare.store_options`."""

    options: dict[str, Any]
    places: dict[str, tuple[str, int]]

    def place(self, video_id: str) -> tuple[str, int]:
        """Shard and row group of a video's frames. StoreError if the store has none of it."""
        if video_id not in self.places:
            raise StoreError(f"the store holds no frames of {video_id}: run vop prepare (with data.store=true)")
        return self.places[video_id]


def opened(folder: str) -> Store:
    """The store at a folder; read once as long as its manifest stays the same."""
    filesystem, inside = located(f"{folder}/{MANIFEST}")
    info = filesystem.get_file_info(inside)
    if info.type == fs.FileType.NotFound:
        raise StoreError(f"{folder} holds no {MANIFEST}: run vop prepare")
    return _opened(folder, str(info.mtime_ns))


@lru_cache(maxsize=4)
def _opened(folder: str, version: str) -> Store:
    table = _manifest(folder)
    rows = zip(*(table[name].to_pylist() for name in ("video_id", "shard", "row")), strict=True)
    places = {video_id: (shard, row) for video_id, shard, row in rows if shard}
    return Store(json.loads(table.schema.metadata[b"store"]), places)


def _manifest(folder: str) -> pa.Table:
    filesystem, inside = located(f"{folder}/{MANIFEST}")
    return pq.read_table(inside, filesystem=filesystem)


def read_manifest(folder: str, split: str = "") -> list[Record]:
    """The records of a store whose videos could be read, in manifest order; of one split or of all."""
    table = _manifest(folder)
    names = [name for name in Record.__dataclass_fields__ if name in table.column_names]
    return [
        Record(**{**{name: row[name] for name in names}, **_tuples(row)})
        for batch in table.to_batches(max_chunksize=1024)
        for row in batch.to_pylist()
        if row["ok"] and split in ("", row["split"])
    ]


def content_keys(folder: str) -> dict[str, str]:
    """The content key of every video of a store: another one means other frames."""
    table = _manifest(folder)
    return dict(zip(table["video_id"].to_pylist(), table["key"].to_pylist(), strict=True))


def _tuples(row: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) for name, value in row.items() if isinstance(value, list)}


def write_manifest(folder: str, rows: pa.Table, options: dict[str, Any]) -> None:
    """Write the manifest: the records' fields, `key`, `ok`, and `shard` and `row` of the frames (null without)."""
    rows = rows.replace_schema_metadata({"store": json.dumps(options)})
    write_whole(folder, MANIFEST, [rows], rows.schema, codec="zstd")


def read_status(folder: str) -> pa.Table:
    """What the store holds: STATUS of every video, and the `shard` and `row` where it is; no pixels."""
    filesystem, inside = located(f"{folder}/frames")
    places = [pa.field("shard", pa.string()), pa.field("row", pa.int32())]
    tables = [pa.schema([*(SCHEMA.field(name) for name in STATUS), *places]).empty_table()]
    for shard in shards(folder):
        with pq.ParquetFile(filesystem.open_input_file(f"{inside}/{shard}")) as file:
            table = file.read(columns=STATUS)
        table = table.append_column("shard", pa.array([shard] * len(table), pa.string()))
        tables.append(table.append_column("row", pa.array(range(len(table)), pa.int32())))
    return pa.concat_tables(tables)


def shards(folder: str) -> list[str]:
    """Names of a store's shards, in order."""
    return sorted(info.base_name for info in listed(f"{folder}/frames") if info.base_name.endswith(".parquet"))
