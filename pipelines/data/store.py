"""The frame store's format: where it is, its manifest, and how frames are coded in its shards.

A store is a folder, on this machine or at any URI that pyarrow knows (s3://, gs://, ...):

    frames/*.parquet        shards, a row group a video, each at most SHARD_BYTES of uncompressed frames (`shards.py`)
    shards.parquet          what those hold, so that nobody has to open them all (`status.py`)
    manifest.parquet        the benchmark's records, and in which row of which shard the frames of each are
    failed.csv              the videos that cannot be read, and why

A video is a row with its distinct frames: `frames.count` of them or fewer, or, where training draws frames at random, up to
`frames.candidates` for each, out of which the reader draws.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import fs

from pipelines.data import shards
from pipelines.data.local import drop, nearest
from pipelines.data.options import StoreOptions, content_key
from pipelines.data.shards import DamagedError
from vop.benchmarks import Record
from vop.errors import VopError
from vop.places import join, located
from vop.video.frames import FrameError, sample_indices
from vop.whole import read_whole, set_aside

logger = logging.getLogger(__name__)
MANIFEST = "manifest.parquet"
FAILED = "failed.csv"

MANIFEST_SCHEMA = pa.schema(
    {
        **{"video_id": pa.string(), "path": pa.string(), "captions": pa.list_(pa.string()), "split": pa.string()},
        **{"group": pa.string(), "opposite": pa.string(), "window": pa.list_(pa.float64())},
        **{"shard": pa.string(), "key": pa.string(), "ok": pa.bool_(), "row": pa.int32()},
    }
)

FRAME_CAPTIONS = pa.field("frame_captions", pa.list_(pa.list_(pa.string())))  # a last column, where records have them

Images = NDArray[np.uint8]
Mask = NDArray[np.bool_]


class StoreError(VopError, RuntimeError):
    """A frame store that lacks what is asked of it; the message names it and says what to do."""


# -- frames in a row -------------------------------------------------------------------------------------------------------


def coded(frames_FHWC: Images, codec: str, quality: int) -> list[bytes]:
    """Frames as a row holds them: the bytes of each, or a JPEG of each (lz4 and zstd are applied by Parquet)."""
    if codec != "jpeg":
        return [frame.tobytes() for frame in frames_FHWC]
    import torch
    from torchvision.io import encode_jpeg

    pictures = encode_jpeg(list(torch.from_numpy(frames_FHWC).permute(0, 3, 1, 2).contiguous()), quality=quality)
    return [picture.numpy().tobytes() for picture in pictures]


def _decoded(frames: Sequence[pa.Buffer | bytes], codec: str, size: int) -> Images:
    """Raises ValueError for what are no such frames."""
    if codec != "jpeg":
        return np.stack([np.frombuffer(frame, np.uint8).reshape(size, size, 3) for frame in frames])
    from simplejpeg import decode_jpeg  # the same pixels as torchvision's, in less time

    data = [np.frombuffer(frame, np.uint8) for frame in frames]
    return np.stack([decode_jpeg(picture, colorspace="RGB").reshape(size, size, 3) for picture in data])


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
    """Frames [N, F, H, W, 3] and masks [N, F] of videos from a store, as `read_video` gives them."""
    store = opened(folder)
    pixels, masks = zip(*(read_video(store, video_id, draw) for video_id in video_ids), strict=True)
    return np.stack(pixels), np.stack(masks)


def read_video(store: Store, video_id: str, draw: Draw | None = None) -> tuple[Images, Mask]:
    """Frames [F, H, W, 3] and mask [F] of a video from a store; a clip with fewer than F repeats its last one.

    Of more stored frames than F, each of F equal parts gives one: its middle one, or with `draw` a random one. A video whose
    shard is damaged is decoded again, with a warning; StoreError where that gives other frames or none.
    """
    place = store.place(video_id)
    try:
        return _picked(store, _stored(store, place), video_id, draw)
    except (DamagedError, ValueError) as fault:
        if isinstance(fault, VopError):
            raise
        return _picked(store, _again(store, place, video_id, fault), video_id, draw)


def _stored(store: Store, place: Place) -> Sequence[pa.Buffer]:
    """The frames of a video, from this node's copy of its shard where there is one."""
    folder = nearest(store.folder, place.shard)
    if folder != store.folder:
        try:
            return shards.frames(folder, place.shard, place.row, place.key)
        except DamagedError:
            drop(folder, place.shard)
    return shards.frames(store.folder, place.shard, place.row, place.key)


def _picked(store: Store, frames: Sequence[pa.Buffer | bytes], video_id: str, draw: Draw | None) -> tuple[Images, Mask]:
    count = store.options.count
    picked = sample_indices(len(frames), count, "random" if draw else "uniform", rng=draw.rng(video_id) if draw else None)
    wanted = picked[np.minimum(np.arange(count), len(picked) - 1)]
    images = _decoded([frames[int(k)] for k in wanted], store.options.codec, store.options.size)
    return images, np.arange(count) < len(picked)


def _again(store: Store, place: Place, video_id: str, fault: Exception) -> list[bytes]:
    """The frames of a video whose shard is damaged, decoded from its file as they were for the store."""
    _tell(store.folder, place.shard, str(fault))
    shard = f"{join(shards.folder_of(store.folder), place.shard)} is damaged ({shards.short(fault)})"
    if content_key(Record(video_id, place.path, (), "train", window=place.window)) != place.key:
        raise StoreError(f"{shard}, and {place.path} is no longer the file that it was made of: run vop prepare")
    try:
        frames = store.options.read_all(place.path, place.window)
    except FrameError as error:
        raise StoreError(f"{shard}, and its video cannot be decoded again here: {error}: run vop prepare") from error
    return coded(frames.pixels_FHWC[: int(frames.mask_F.sum())], store.options.codec, store.options.quality)


@lru_cache(maxsize=1024)
def _tell(folder: str, shard: str, fault: str) -> None:
    """Say once of a shard that it is damaged, and put it out of the way, so that the next `prepare` stores its videos again."""
    with suppress(OSError):  # another process was first, or the store can only be read
        set_aside(shards.folder_of(folder), shard)
    if fault != shards.GONE:
        words = (
            "%s is damaged (%s): its videos are decoded from their files now, and stored again when a training ends or begins"
        )
        logger.warning(words, join(shards.folder_of(folder), shard), fault)


# -- manifest --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where a video's frames are, shard and row group; and what they were made of: content key, file, window."""

    shard: str
    row: int
    key: str
    path: str
    window: tuple[float, float] | None


@dataclass(frozen=True)
class Store:
    """A store as its manifest tells it."""

    folder: str
    options: StoreOptions
    places: dict[str, Place]

    def place(self, video_id: str) -> Place:
        """Where a video's frames are. StoreError if the store has none of it."""
        if video_id not in self.places:
            raise StoreError(f"the store holds no frames of {video_id}: run vop prepare (with data.store=true)")
        return self.places[video_id]


def opened(folder: str) -> Store:
    """The store at a folder; read once as long as its manifest stays the same."""
    return _opened(folder, _version(folder))


@lru_cache(maxsize=4)
def _opened(folder: str, version: str) -> Store:
    table = _manifest(folder, version)
    columns = (table[name].to_pylist() for name in ("video_id", "shard", "row", "key", "path", "window"))
    places = {
        video_id: Place(shard, row, key, path, window and (window[0], window[1]))
        for video_id, shard, row, key, path, window in zip(*columns, strict=True)
        if shard
    }
    return Store(folder, StoreOptions(**json.loads(table.schema.metadata[b"store"])), places)


def _version(folder: str) -> str:
    """Another one for another manifest."""
    filesystem, inside = located(join(folder, MANIFEST))
    info = filesystem.get_file_info(inside)
    if info.type == fs.FileType.NotFound:
        raise StoreError(f"{folder} holds no {MANIFEST}: run vop prepare")
    return f"{info.mtime_ns} {info.size}"


def manifest_schema(frame_captions: bool) -> pa.Schema:
    """Of a manifest whose records have captions of frames, or not."""
    return MANIFEST_SCHEMA.append(FRAME_CAPTIONS) if frame_captions else MANIFEST_SCHEMA


def manifest(folder: str) -> pa.Table:
    """A store's manifest. Raises StoreError where there is none, or it cannot be read."""
    return _manifest(folder, _version(folder))


@lru_cache(maxsize=2)
def _manifest(folder: str, version: str) -> pa.Table:
    place = join(folder, MANIFEST)
    try:
        table = read_whole(place)
        schema = manifest_schema(FRAME_CAPTIONS.name in table.column_names)
        table = table.select(schema.names).cast(schema.with_metadata(table.schema.metadata))
        StoreOptions(**json.loads(table.schema.metadata[b"store"]))
    except FileNotFoundError as error:
        raise StoreError(f"{folder} holds no {MANIFEST}: run vop prepare") from error
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{place} is damaged ({shards.short(error)}): run vop prepare, which writes it anew") from error
    return table


def read_manifest(folder: str, split: str = "") -> list[Record]:
    """The records of a store whose videos could be read, in manifest order; of one split or of all."""
    table = manifest(folder)
    return [
        Record(**{name: _tuples(row[name]) for name in Record.__dataclass_fields__ if name in row})
        for batch in table.to_batches(max_chunksize=1024)
        for row in batch.to_pylist()
        if row["ok"] and split in ("", row["split"])
    ]


def content_keys(folder: str) -> dict[str, str]:
    """The content key of every video of a store: another one means other frames."""
    table = manifest(folder)
    return dict(zip(table["video_id"].to_pylist(), table["key"].to_pylist(), strict=True))


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
