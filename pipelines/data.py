"""The trainer's side: the order of training and its batches, read from the frame store or decoded as they are needed.

The order depends on seed and epoch alone. In an epoch every caption of every video comes exactly once, and a batch holds
no video twice. W workers share each batch, so their number changes nothing but speed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import ray
from numpy.typing import NDArray

from pipelines.cluster import labelled
from pipelines.files import StoreError, read_video
from pipelines.store import Draw, Images, Mask, opened, read_videos
from vop.benchmarks import Record
from vop.config import Experiment
from vop.frames import FrameError

if TYPE_CHECKING:
    from pipelines.activations import Activations

T = TypeVar("T")
Pair = tuple[int, int]  # video, and which of its captions


@dataclass(frozen=True)
class Batch:
    """A worker's share of one step: pixels_BFHWC uint8, mask_BF, captions; `video_B` indexes the list of records.

    activations_BFLD: what the frozen layers made of the pixels, where that is reused; there are no pixels then.
    """

    step: int
    video_B: NDArray[np.int64]
    pixels_BFHWC: Images
    mask_BF: Mask
    captions: list[str]
    activations_BFLD: NDArray[np.float32] | None = None

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
        )


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


def training_batches(
    experiment: Experiment,
    folder: str,
    records: Sequence[Record],
    steps: Sequence[Sequence[Pair]],
    first: int = 0,
    reused: Activations | None = None,
) -> Iterator[Batch]:
    """A worker's batches of a training as its `frames` and `data` sections say; `steps` and `first` as in `stream`."""
    ahead, seed = experiment.data.ahead, experiment.seed if experiment.frames.sampling == "random" else None
    if experiment.data.store or reused is not None:
        return stream(folder, records, steps, first, seed, ahead, reused)
    return stream_decoded(folder, records, steps, first, seed, ahead)


def stream(
    folder: str,
    records: Sequence[Record],
    steps: Sequence[Sequence[Pair]],
    first: int = 0,
    seed: int | None = None,
    ahead: int = 2,
    reused: Activations | None = None,
) -> Iterator[Batch]:
    """Batches for a worker's steps, in order, read from the store ahead of use; `first` is the number of the first step.

    With a seed each step draws its frames at random out of those stored. Frames stay uint8, in pinned memory where there is a
    GPU. A step without pairs for this worker is left out. Memory: `ahead` + 1 batches.
    """

    def load(number: int) -> Batch:
        ids = [records[video].video_id for video, _ in steps[number]]
        if reused is not None:
            tokens_BFLD, mask_BF = reused.read(ids)
            batch = _batch(records, steps[number], first + number, np.zeros((len(ids), 0), np.uint8), mask_BF)
            return replace(batch, activations_BFLD=tokens_BFLD)
        draw = None if seed is None else Draw(seed, first + number)
        return _batch(records, steps[number], first + number, *read_videos(folder, ids, draw))

    with ThreadPoolExecutor(max_workers=1) as reader:
        yield from _ahead(lambda number: reader.submit(load, number).result, steps, ahead)


def stream_videos(folder: str, video_ids: Sequence[str], size: int, ahead: int = 2) -> Iterator[tuple[Images, Mask]]:
    """Frames and masks of `size` videos at a time, in order, read from the store ahead of use; pinned as in `stream`."""
    parts = [video_ids[start : start + size] for start in range(0, len(video_ids), size)]

    def load(part: Sequence[str]) -> tuple[Images, Mask]:
        pixels_BFHWC, mask_BF = read_videos(folder, part)
        return _pinned(pixels_BFHWC), mask_BF

    with ThreadPoolExecutor(max_workers=1) as reader:
        yield from _ahead(lambda number: reader.submit(load, parts[number]).result, parts, ahead)


def stream_decoded(
    folder: str,
    records: Sequence[Record],
    steps: Sequence[Sequence[Pair]],
    first: int = 0,
    seed: int | None = None,
    ahead: int = 2,
) -> Iterator[Batch]:
    """The same batches, decoded by Ray tasks on the CPUs that training leaves free, wherever in the cluster they are.

    A task a video, so that the order is that of `steps` by construction; not a Ray Data execution, which would need its own
    for each worker and reserve CPUs that the workers hold. Memory: the frames of `ahead` + 1 batches, in Ray's object store.
    Raises StoreError for a video that could be read when the store was prepared and no longer can.
    """
    options = opened(folder).options
    decode = ray.remote(decoded).options(num_cpus=1, scheduling_strategy="SPREAD", **labelled("decode"))

    def start(number: int) -> Callable[[], Batch]:
        chosen = [records[video] for video, _ in steps[number]]
        draws = [None if seed is None else Draw(seed, first + number).number(record.video_id) for record in chosen]
        tasks = [decode.remote(record, options, draw) for record, draw in zip(chosen, draws, strict=True)]
        return partial(collect, number, tasks)

    def collect(number: int, tasks: list[Any]) -> Batch:
        pixels, masks = zip(*ray.get(tasks), strict=True)
        return _batch(records, steps[number], first + number, np.stack(pixels), np.stack(masks))

    return _ahead(start, steps, ahead)


def decoded(record: Record, options: dict[str, Any], seed: int | None) -> tuple[Images, Mask]:
    """Frames [F, H, W, 3] and mask [F] of one video, decoded now: those that a store would give, or drawn with a seed."""
    sampling = "uniform" if seed is None and options["sampling"] == "random" else options["sampling"]
    try:
        frames = read_video(record.path, options["count"], sampling, options, record.window, seed or 0)
    except FrameError as error:
        raise StoreError(f"{error}; it could be read when the videos were checked: run vop prepare again") from error
    return frames.pixels_FHWC, frames.mask_F


def _ahead(start: Callable[[int], Callable[[], T]], steps: Sequence[Sequence[Any]], ahead: int) -> Iterator[T]:
    """What all steps that are not empty start; so many of them started before they are asked for."""
    todo = iter([number for number, step in enumerate(steps) if step])
    started = deque(start(number) for number in islice(todo, ahead))
    while started:
        batch = started.popleft()()
        started.extend(start(number) for number in islice(todo, 1))
        yield batch


def _batch(records: Sequence[Record], pairs: Sequence[Pair], step: int, pixels_BFHWC: Images, mask_BF: Mask) -> Batch:
    captions = [records[video].captions[caption] for video, caption in pairs]
    return Batch(step, np.asarray([video for video, _ in pairs]), _pinned(pixels_BFHWC), mask_BF, captions)


def _pinned(pixels: Images) -> Images:
    """The same pixels in memory that a GPU copies from while it computes."""
    import torch

    return torch.from_numpy(pixels).pin_memory().numpy() if torch.cuda.is_available() else pixels
