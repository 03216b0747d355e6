"""The frame store as it is read: the manifest, the order of training, and batches through Ray Data.

The order depends on seed and epoch alone. In an epoch every caption of every video comes exactly once, and a batch holds
no video twice. W workers share each batch, so their number changes nothing but speed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
from numpy.typing import NDArray

from vop.benchmarks import Record

MANIFEST = "manifest.parquet"
STATUS_COLUMNS = ["key", "video_id", "path", "ok", "decoder", "error_kind", "error"]
STEPS_PER_BLOCK = 8
# Reading the store needs next to nothing, and a task that waits for its reader keeps what it asked for: with more, the
# batches of validation could wait for ever behind those of training.
LOAD_CPUS = 0.01

Pair = tuple[int, int]  # video, and which of its captions


@dataclass(frozen=True)
class Batch:
    """A worker's share of one step: pixels_BFHWC uint8, mask_BF, captions; `video_B` indexes the list of records."""

    step: int
    video_B: NDArray[np.int64]
    pixels_BFHWC: NDArray[np.uint8]
    mask_BF: NDArray[np.bool_]
    captions: list[str]


def read_manifest(folder: Path, split: str = "") -> list[Record]:
    """The records of a store whose videos could be read, in manifest order; of one split or of all."""
    rows = pq.read_table(folder / MANIFEST).to_pylist()
    names = Record.__dataclass_fields__
    return [
        Record(**{**{name: row[name] for name in names}, "captions": tuple(row["captions"])})
        for row in rows
        if row["ok"] and split in ("", row["split"])
    ]


def read_status(folder: Path) -> list[dict[str, Any]]:
    """What the store holds: a row a video, without its pixels."""
    return [row for shard in _shards(folder) for row in pq.read_table(shard, columns=STATUS_COLUMNS).to_pylist()]


def _shards(folder: Path) -> list[Path]:
    return sorted((folder / "frames").glob("*.parquet"))


@lru_cache(maxsize=4)
def _places(folder: Path) -> dict[str, tuple[Path, int]]:
    """Where each video is: shard and row group. Cached: a data task reads the same store many times."""
    keys = {row["video_id"]: row["key"] for row in pq.read_table(folder / MANIFEST, columns=["video_id", "key"]).to_pylist()}
    at = {
        key: (shard, row)
        for shard in _shards(folder)
        for row, key in enumerate(pq.read_table(shard, columns=["key"])["key"].to_pylist())
    }
    return {video_id: at[key] for video_id, key in keys.items()}


@lru_cache(maxsize=64)
def _open(shard: Path) -> pq.ParquetFile:
    return pq.ParquetFile(shard, memory_map=True)


def read_videos(folder: Path, video_ids: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Frames [N, F, H, W, 3] and masks [N, F] of videos from a store."""
    pixels, masks = [], []
    for video_id in video_ids:
        shard, row = _places(folder)[video_id]
        table = _open(shard).read_row_group(row, columns=["pixels", "shape", "mask"])
        buffer = table["pixels"].chunk(0)[0].as_buffer()
        pixels.append(np.frombuffer(buffer, np.uint8).reshape(table["shape"][0].as_py()))
        masks.append(np.asarray(table["mask"][0].as_py(), dtype=np.bool_))
    return np.stack(pixels), np.stack(masks)


def epoch_batches(captions: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[Pair]]:
    """The batches of one epoch over videos with so many captions each.

    Videos go round in random order, each time with another of their captions; a video that is in a batch already waits for
    the next one. So the last batches of an epoch may be short: nothing is dropped.
    """
    rng = np.random.default_rng([seed, epoch])
    orders = [rng.permutation(count) for count in captions]
    waiting: deque[Pair] = deque()
    for turn in range(max(captions, default=0)):
        videos = np.flatnonzero(np.asarray(captions) > turn)
        waiting.extend((int(video), int(orders[video][turn])) for video in rng.permutation(videos))
    batches = []
    while waiting:
        batch: dict[int, int] = {}
        postponed: list[Pair] = []
        while waiting and len(batch) < batch_size:
            video, caption = waiting.popleft()
            if video in batch:
                postponed.append((video, caption))
            else:
                batch[video] = caption
        waiting.extendleft(reversed(postponed))
        batches.append(list(batch.items()))
    return batches


def share(batch: Sequence[Pair], rank: int, workers: int) -> list[Pair]:
    """A worker's part of a batch; the parts' sizes differ by at most one, the first are the larger."""
    bounds = [len(batch) * 0, *np.cumsum(share_sizes(len(batch), workers))]
    return list(batch[bounds[rank] : bounds[rank + 1]])


def share_sizes(size: int, workers: int) -> list[int]:
    """How a batch of `size` is shared out."""
    return [size // workers + (rank < size % workers) for rank in range(workers)]


def stream(folder: Path, records: Sequence[Record], steps: Sequence[Sequence[Pair]], first: int = 0) -> Iterator[Batch]:
    """Batches for a worker's steps, in order, loaded ahead by Ray Data tasks; `first` is the number of the first step.

    Frames stay uint8.
    """
    rows = [
        {
            "step": first + number,
            "video": [video for video, _ in pairs],
            "video_id": [records[video].video_id for video, _ in pairs],
            "caption": [records[video].captions[caption] for video, caption in pairs],
        }
        for number, pairs in enumerate(steps)
        if pairs
    ]
    if not rows:
        return
    # Not from_arrow: that starts tasks of a whole CPU each, and waits for them for ever beside a full train worker.
    dataset = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // STEPS_PER_BLOCK))
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    batches = dataset.map_batches(_load, batch_size=1, batch_format="pyarrow", fn_kwargs={"folder": str(folder)}, num_cpus=0.25)
    yield from _regrouped(batches.iter_batches(batch_size=None, prefetch_batches=2, batch_format="numpy"))


def _load(table: pa.Table, folder: str) -> dict[str, Any]:
    """One step's row -> its pairs, a row each."""
    row = table.to_pylist()[0]
    pixels, mask = read_videos(Path(folder), row["video_id"])
    columns = {"video": np.asarray(row["video"]), "caption": np.asarray(row["caption"], dtype=object)}
    return {"step": np.full(len(pixels), row["step"]), "pixels": pixels, "mask": mask, **columns}


def _regrouped(blocks: Iterator[dict[str, NDArray[Any]]]) -> Iterator[Batch]:
    """Blocks may end anywhere between rows: put the rows of a step together again."""
    parts: list[dict[str, NDArray[Any]]] = []
    for block in blocks:
        ends = np.flatnonzero(np.diff(block["step"])) + 1
        for start, end in zip([0, *ends], [*ends, len(block["step"])], strict=True):
            part = {name: column[start:end] for name, column in block.items()}
            if parts and parts[0]["step"][0] != part["step"][0]:
                yield _batch(parts)
                parts = []
            parts.append(part)
    if parts:
        yield _batch(parts)


def _batch(parts: list[dict[str, NDArray[Any]]]) -> Batch:
    rows = parts[0] if len(parts) == 1 else {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    return Batch(int(rows["step"][0]), rows["video"], rows["pixels"], rows["mask"], [str(text) for text in rows["caption"]])
