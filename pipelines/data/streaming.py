"""The batches of a training's worker: read from the frame store, or decoded by Ray tasks as they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from pipelines.cluster.connect import labelled
from pipelines.data.options import StoreOptions
from pipelines.data.reader import Batch, Pair, batch_of, read_ahead, stream
from pipelines.data.store import Draw, Images, Mask, StoreError, opened
from vop.benchmarks import Record
from vop.config import Experiment
from vop.video.frames import FrameError

if TYPE_CHECKING:
    from pipelines.data.activations import Activations


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
    if reused is not None:
        return stream_reused(reused, records, steps, first, ahead)
    if experiment.data.store:
        return stream(folder, records, steps, first, seed, ahead, experiment.data.readers)
    return stream_decoded(opened(folder).options, records, steps, first, seed, ahead)


def decoding_cpus(experiment: Experiment) -> int:
    """CPUs that the workers of a training must leave free: without one, one that streams would wait for ever."""
    return 0 if experiment.data.store or labelled("decode") else 1


def stream_reused(
    reused: Activations, records: Sequence[Record], steps: Sequence[Sequence[Pair]], first: int = 0, ahead: int = 2
) -> Iterator[Batch]:
    """The same batches, with what the frozen layers made of the pixels in place of them."""

    def load(number: int) -> Batch:
        tokens_BFLD, mask_BF = reused.read([records[video].video_id for video, _ in steps[number]])
        none = np.zeros((len(steps[number]), 0), np.uint8)
        return replace(batch_of(records, steps[number], first + number, none, mask_BF), activations_BFLD=tokens_BFLD)

    with ThreadPoolExecutor(max_workers=1) as reader:
        yield from read_ahead(lambda number: reader.submit(load, number).result, steps, ahead)


def stream_decoded(
    options: StoreOptions,
    records: Sequence[Record],
    steps: Sequence[Sequence[Pair]],
    first: int = 0,
    seed: int | None = None,
    ahead: int = 2,
) -> Iterator[Batch]:
    """The same batches, decoded by Ray tasks on the CPUs that training leaves free, wherever in the cluster they are.

    options: of the store. A task a video, so that the order is that of `steps` by construction and no more than `ahead` batches
    are decoded beyond the one that training has. Ray Data fed about as much, and began more ahead
    (docs/what-did-not-work.md). Memory: the frames of `ahead` + 1 batches, in Ray's object store. A task whose process or node
    dies is started again, up to three times.
    Raises StoreError for a video that could be read when the store was prepared and no longer can.
    """
    decode = ray.remote(decoded).options(num_cpus=1, scheduling_strategy="SPREAD", **labelled("decode"))

    def start(number: int) -> Callable[[], Batch]:
        chosen = [records[video] for video, _ in steps[number]]
        draws = [None if seed is None else Draw(seed, first + number).number(record.video_id) for record in chosen]
        tasks = [decode.remote(record, options, draw) for record, draw in zip(chosen, draws, strict=True)]
        return partial(collect, number, tasks)

    def collect(number: int, tasks: list[Any]) -> Batch:
        pixels, masks = zip(*ray.get(tasks), strict=True)
        return batch_of(records, steps[number], first + number, np.stack(pixels), np.stack(masks))

    return read_ahead(start, steps, ahead)


def decoded(record: Record, options: StoreOptions, seed: int | None) -> tuple[Images, Mask]:
    """Frames [F, H, W, 3] and mask [F] of one video, decoded now: those that a store would give, or drawn with a seed."""
    try:
        frames = options.read(record.path, record.window, seed)
    except FrameError as error:
        raise StoreError(f"{error}; it could be read when the videos were checked: run vop prepare again") from error
    return frames.pixels_FHWC, frames.mask_F
