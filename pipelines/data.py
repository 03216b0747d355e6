"""The frame store as it is read: the manifest, the order of training, and its batches.

The order depends on seed and epoch alone. In an epoch every caption of every video comes exactly once, and a batch holds
no video twice. W workers share each batch, so their number changes nothing but speed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vop.benchmarks import Record

MANIFEST = "manifest.parquet"
STATUS_COLUMNS = ["key", "video_id", "path", "ok", "decoder", "error_kind", "error"]
READ_AHEAD = 2  # batches

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
    """Where each video is: shard and row group. Cached: training reads it every step."""
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
    bounds = [0, *np.cumsum(share_sizes(len(batch), workers))]
    return list(batch[bounds[rank] : bounds[rank + 1]])


def share_sizes(size: int, workers: int) -> list[int]:
    """How a batch of `size` is shared out."""
    return [size // workers + (rank < size % workers) for rank in range(workers)]


def stream(folder: Path, records: Sequence[Record], steps: Sequence[Sequence[Pair]], first: int = 0) -> Iterator[Batch]:
    """Batches for a worker's steps, in order, read from the store ahead of use; `first` is the number of the first step.

    Frames stay uint8. A step without pairs for this worker is left out. Memory: READ_AHEAD + 1 batches.
    """

    def load(number: int) -> Batch:
        videos = [video for video, _ in steps[number]]
        pixels, mask = read_videos(folder, [records[video].video_id for video in videos])
        texts = [records[video].captions[caption] for video, caption in steps[number]]
        return Batch(first + number, np.asarray(videos), pixels, mask, texts)

    todo = iter([number for number, pairs in enumerate(steps) if pairs])
    with ThreadPoolExecutor(max_workers=1) as reader:
        ahead = deque(reader.submit(load, number) for number in islice(todo, READ_AHEAD))
        while ahead:
            batch = ahead.popleft().result()
            ahead.extend(reader.submit(load, number) for number in islice(todo, 1))
            yield batch
