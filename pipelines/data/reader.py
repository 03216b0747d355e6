"""Batches of frames and captions, read from the frame store ahead of use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.data.store import Draw, Images, Mask, opened, read_video
from vop.benchmarks import Record
from vop.config import DataConfig

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
Pair = tuple[int, int]  # video, and which of its captions
READERS = DataConfig().readers


@dataclass(frozen=True)
class Batch:
    """A worker's share of one step: pixels_BFHWC uint8, mask_BF, captions; `video_B` indexes the list of records.

    The arrays are numpy's as they are read, and tensors on a GPU once they are copied (`pipelines/train/copies.py`).

    frame_captions: of each pair one for each frame, where the benchmark has them.
    activations_BFLD: what the frozen layers made of the pixels, where that is reused; there are no pixels then.
    """

    step: int
    video_B: NDArray[np.int64]
    pixels_BFHWC: Images | Tensor
    mask_BF: Mask | Tensor
    captions: list[str]
    activations_BFLD: NDArray[np.float32] | Tensor | None = None
    frame_captions: Sequence[tuple[str, ...]] = ()

    def part(self, start: int, stop: int) -> Batch:
        """Some of the pairs."""
        rows, reused = slice(start, stop), self.activations_BFLD
        return replace(
            self,
            video_B=self.video_B[rows],
            pixels_BFHWC=self.pixels_BFHWC[rows],
            mask_BF=self.mask_BF[rows],
            captions=self.captions[rows],
            activations_BFLD=None if reused is None else reused[rows],
            frame_captions=self.frame_captions[rows],
        )


def stream(
    folder: str,
    records: Sequence[Record],
    steps: Sequence[Sequence[Pair]],
    first: int = 0,
    seed: int | None = None,
    ahead: int = 2,
    readers: int = READERS,
) -> Iterator[Batch]:
    """Batches for a worker's steps, in order, read from the store ahead of use; `first` is the number of the first step.

    readers: videos read at once, of whichever batch; the batches are the same at any number.

    With a seed each step draws its frames at random out of those stored. Frames stay uint8, in pinned memory where there is a
    GPU. A step without pairs for this worker is left out. Memory: `ahead` + 2 batches.
    """

    def start(number: int) -> Callable[[], Batch]:
        ids = [records[video].video_id for video, _ in steps[number]]
        draw = None if seed is None else Draw(seed, first + number)
        return joining.submit(join, number, [reading.submit(read_video, store, video_id, draw) for video_id in ids]).result

    def join(number: int, videos: Sequence[Future[tuple[Images, Mask]]]) -> Batch:
        return batch_of(records, steps[number], first + number, *_stacked(videos))

    store = opened(folder)
    with _threads(readers) as (reading, joining):
        yield from read_ahead(start, steps, ahead)


def stream_videos(
    folder: str, video_ids: Sequence[str], size: int, ahead: int = 2, readers: int = READERS
) -> Iterator[tuple[Images, Mask]]:
    """Frames and masks of `size` videos at a time, in order, read from the store ahead of use; pinned as in `stream`."""
    parts = [video_ids[start : start + size] for start in range(0, len(video_ids), size)]

    def start(number: int) -> Callable[[], tuple[Images, Mask]]:
        return joining.submit(join, [reading.submit(read_video, store, video_id) for video_id in parts[number]]).result

    def join(videos: Sequence[Future[tuple[Images, Mask]]]) -> tuple[Images, Mask]:
        pixels_BFHWC, mask_BF = _stacked(videos)
        return _pinned(pixels_BFHWC), mask_BF

    if not parts:
        return
    store = opened(folder)
    with _threads(readers) as (reading, joining):
        yield from read_ahead(start, parts, ahead)


@contextmanager
def _threads(readers: int) -> Iterator[tuple[ThreadPoolExecutor, ThreadPoolExecutor]]:
    """Threads that read videos, and one that makes batches of them. Who stops early waits for what is being read now alone."""
    pa.set_io_thread_count(max(readers, pa.io_thread_count()))  # Arrow's own, which wait for a remote filesystem
    with ThreadPoolExecutor(1) as joining, ThreadPoolExecutor(readers) as reading:
        try:
            yield reading, joining
        finally:
            for pool in (reading, joining):
                pool.shutdown(wait=False, cancel_futures=True)


def _stacked(videos: Sequence[Future[tuple[Images, Mask]]]) -> tuple[Images, Mask]:
    pixels, masks = zip(*(video.result() for video in videos), strict=True)
    return np.stack(pixels), np.stack(masks)


def read_ahead(start: Callable[[int], Callable[[], T]], steps: Sequence[Sequence[Any]], ahead: int) -> Iterator[T]:
    """What all steps that are not empty start; so many of them started before they are asked for."""
    todo = iter([number for number, step in enumerate(steps) if step])
    started = deque(start(number) for number in islice(todo, ahead))
    while started:
        batch = started.popleft()()
        started.extend(start(number) for number in islice(todo, 1))
        yield batch


def batch_of(records: Sequence[Record], pairs: Sequence[Pair], step: int, pixels_BFHWC: Images, mask_BF: Mask) -> Batch:
    """A step of these pairs of records and captions, with their frames."""
    captions = [records[video].captions[caption] for video, caption in pairs]
    of_frames = [records[video].frame_captions[caption] for video, caption in pairs if records[video].frame_captions]
    videos = np.asarray([video for video, _ in pairs])
    return Batch(step, videos, _pinned(pixels_BFHWC), mask_BF, captions, frame_captions=of_frames)


def _pinned(pixels: Images) -> Images:
    """The same pixels in memory that a GPU copies from while it computes."""
    import torch

    return torch.from_numpy(pixels).pin_memory().numpy() if torch.cuda.is_available() else pixels
