"""The order of training: pure functions of seed and epoch.

In an epoch every caption of every video comes exactly once (or at most so many of a video), and a batch holds no video twice.
W workers share each batch, so their number changes nothing but speed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pipelines.data.reader import Pair
    from vop.config import TrainingConfig


def epoch_batches(captions: Sequence[int], batch_size: int, seed: int, epoch: int, most: int = 0) -> list[list[Pair]]:
    """The batches of one epoch over videos with so many captions each, of which `most` are taken, drawn anew (0: all).

    Videos go round in random order, each time with another of their captions; a video that is in a batch already waits for
    the next one. So the last batches of an epoch may be short: nothing is dropped.
    """
    rng = np.random.default_rng([seed, epoch])
    orders = [rng.permutation(count) for count in captions]
    turns = np.minimum(captions, most) if most else np.asarray(captions)
    waiting: deque[Pair] = deque()
    for turn in range(max(turns, default=0)):
        videos = np.flatnonzero(turns > turn)
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


def all_batches(captions: Sequence[int], training: TrainingConfig, seed: int) -> list[list[list[Pair]]]:
    """The batches of every epoch of a training."""
    most = training.captions_per_video
    return [epoch_batches(captions, training.batch_size, seed, epoch, most) for epoch in range(training.epochs)]


def thin_steps(batches: Sequence[Sequence[Pair]], videos: int, batch_size: int) -> tuple[int, int]:
    """How many steps hold less than half of the pairs that they could, of distinct videos; of them, those that hold one."""
    sizes, full = [len(batch) for batch in batches], min(batch_size, videos)
    return sum(size == 1 or 2 * size < full for size in sizes), sizes.count(1)


def share(batch: Sequence[Pair], rank: int, workers: int) -> list[Pair]:
    """A worker's part of a batch; the parts' sizes differ by at most one, the first are the larger."""
    bounds = [0, *np.cumsum(share_sizes(len(batch), workers))]
    return list(batch[bounds[rank] : bounds[rank + 1]])


def share_sizes(size: int, workers: int) -> list[int]:
    """How a batch of `size` is shared out."""
    return [size // workers + (rank < size % workers) for rank in range(workers)]
