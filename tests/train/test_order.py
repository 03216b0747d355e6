"""The order of training and how a batch is shared out: pure functions, no Ray."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest

from pipelines.train.order import epoch_batches, share, share_sizes, thin_steps

CAPTIONS = {
    "equal": [5] * 13,
    "one-each": [1] * 9,
    "unequal": [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8],
    "one-has-most": [20, 1, 2, 1],
    "one-video": [4],
    "silent-video": [2, 0, 3],
    "no-videos": [],
}


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
@pytest.mark.parametrize("captions", CAPTIONS.values(), ids=CAPTIONS)
def test_an_epoch_holds_every_caption_once_and_a_batch_no_video_twice(captions: list[int], batch_size: int) -> None:
    batches = epoch_batches(captions, batch_size, seed=3, epoch=1)
    every = [(video, caption) for video, count in enumerate(captions) for caption in range(count)]
    assert sorted(chain(*batches)) == every
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        assert len({video for video, _ in batch}) == len(batch)
    sizes = [len(batch) for batch in batches]
    assert sizes == sorted(sizes, reverse=True), "only the last batches may be short"


def test_batches_are_full_where_videos_suffice() -> None:
    assert [len(batch) for batch in epoch_batches([5] * 13, 4, 0, 0)] == [4] * 16 + [1]
    assert [len(batch) for batch in epoch_batches([3] * 5, 100, 0, 0)] == [5] * 3


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    captions = CAPTIONS["unequal"]
    first = epoch_batches(captions, 4, seed=1, epoch=2)
    np.random.seed(9)
    assert epoch_batches(captions, 4, seed=1, epoch=2) == first
    others = [epoch_batches(captions, 4, seed, epoch) for seed, epoch in ((1, 0), (1, 1), (1, 3), (2, 2), (2, 1))]
    flat = [tuple(chain(*batches)) for batches in (first, *others)]
    assert len(set(flat)) == len(flat)


def test_videos_go_round_with_another_caption_each_time() -> None:
    rounds = np.array(list(chain(*epoch_batches([5] * 6, 6, seed=0, epoch=0)))).reshape(5, 6, 2)
    assert all(sorted(videos) == list(range(6)) for videos in rounds[:, :, 0])
    assert len({tuple(videos) for videos in rounds[:, :, 0]}) > 1, "the same order of videos in every round"
    assert any(len(set(captions)) > 1 for captions in rounds[:, :, 1]), "all videos give their captions in the same order"


@pytest.mark.parametrize("seed", range(5))
def test_a_video_that_waits_comes_in_the_next_batch(seed: int) -> None:
    order = [video for video, _ in chain(*epoch_batches([5] * 13, 4, seed, epoch=0))]
    for video in range(13):
        places = [place for place, other in enumerate(order) if other == video]
        assert all(place < 13 * turn + 4 for turn, place in enumerate(places, start=1))


@pytest.mark.parametrize("captions", CAPTIONS.values(), ids=CAPTIONS)
def test_a_cap_takes_some_captions_of_each_video_and_others_the_next_time(captions: list[int]) -> None:
    epochs = [list(chain(*epoch_batches(captions, 4, seed=3, epoch=epoch, most=2))) for epoch in range(200)]
    for taken in epochs:
        assert len(set(taken)) == len(taken) and all(caption < captions[video] for video, caption in taken)
        assert [sum(video == other for other, _ in taken) for video in range(len(captions))] == [min(2, n) for n in captions]
    every = {(video, caption) for video, count in enumerate(captions) for caption in range(count)}
    assert set(chain(*epochs)) == every, "a cap loses no caption for ever"
    again = list(chain(*epoch_batches(captions, 4, seed=3, epoch=0, most=2)))
    assert again == epochs[0]
    assert epoch_batches(captions, 4, 3, 1, most=max(captions, default=1)) == epoch_batches(captions, 4, 3, 1)


@pytest.mark.parametrize(
    ("captions", "batch_size", "most", "thin"),
    [
        ([500] + [1] * 9, 8, 0, (499, 498)),
        ([500] + [1] * 9, 8, 1, (1, 0)),  # the last step of an epoch
        ([300, 300] + [1] * 18, 16, 0, (300, 1)),  # of two videos
        ([5] * 13, 4, 0, (1, 1)),
        ([20] * 6, 32, 0, (0, 0)),  # fewer videos than a batch: the steps hold all that they can
        ([7], 8, 0, (7, 7)),
        ([], 8, 0, (0, 0)),
    ],
)
def test_steps_that_hold_few_pairs_are_counted(captions: list[int], batch_size: int, most: int, thin: tuple[int, int]) -> None:
    steps = epoch_batches(captions, batch_size, 0, 0, most)
    assert thin_steps(steps, len(captions), batch_size) == thin


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [0, 1, 2, 7, 8, 9])
def test_workers_share_a_batch(size: int, workers: int) -> None:
    batch = [(10 + place, place % 3) for place in range(size)]
    parts = [share(batch, rank, workers) for rank in range(workers)]
    assert list(chain(*parts)) == batch
    sizes = share_sizes(size, workers)
    assert [len(part) for part in parts] == sizes
    assert max(sizes) - min(sizes) <= 1 and sizes == sorted(sizes, reverse=True)
