"""Validation videos held out of training."""

from __future__ import annotations

import pytest

from vop.benchmarks import BenchmarkError, Record, hold_out


def paired(pairs: int, singles: int) -> list[Record]:
    """Training videos, some with their opposites, and a test pair."""
    both = [(f"p{i}{a}", f"p{i}{b}") for i in range(pairs) for a, b in ("xy", "yx")]
    train = [Record(video, "", ("c",), "train", opposite=other) for video, other in both]
    train += [Record(f"s{i}", "", ("c",), "train") for i in range(singles)]
    return [*train, Record("tx", "", ("c",), "test", opposite="ty"), Record("ty", "", ("c",), "test", opposite="tx")]


@pytest.mark.parametrize("size", [1, 10, 11, 24, 59])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_held_out_videos_keep_their_opposites(size: int, seed: int) -> None:
    records = paired(20, 20)
    held = hold_out(records, size, seed)
    split = {record.video_id: record.split for record in held}
    assert sum(value == "val" for value in split.values()) - size in (0, 1)
    assert all(split[record.video_id] == split[record.opposite] for record in held if record.opposite)
    assert split["tx"] == split["ty"] == "test"
    assert [record.video_id for record in held] == [record.video_id for record in records]
    assert hold_out(records, size, seed) == held
    again = {record.video_id: record.split for record in hold_out(records[::-1], size, seed)}
    assert again == split, "records in another order"


def test_held_out_videos_depend_on_the_seed() -> None:
    assert hold_out(paired(20, 20), 10, 0) != hold_out(paired(20, 20), 10, 1)


def test_too_many_held_out_videos_are_refused() -> None:
    with pytest.raises(BenchmarkError, match="60 validation videos out of 60"):
        hold_out(paired(20, 20), 60, 0)
