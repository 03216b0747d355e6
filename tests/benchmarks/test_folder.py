"""A folder of one's own videos with a captions.csv."""

from __future__ import annotations

from pathlib import Path

import pytest

from vop.benchmarks import SPLITS, BenchmarkError, Record
from vop.benchmarks import folder as own


def read_own(root: Path, text: str, **fields: object) -> list[Record]:
    (root / "captions.csv").write_bytes(text.encode())
    return own.records(own.Config(name="folder", videos=str(root), **fields))  # type: ignore[arg-type]


def many(count: int) -> str:
    return "video,caption\n" + "".join(f"v{i}.mp4,caption {k} of {i}\n" for k in range(2) for i in range(count))


@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["plain", "bom"])
def test_own_videos_with_a_split(tmp_path: Path, start: str) -> None:
    rows = (
        'caption,split,video\r\n"one, two",train,a.mp4\r\nthree, test ,sub/b.webm\r\n four ,train,a.mp4\r\nfive,val,c.mp4\r\n'
    )
    expected = [
        Record("a.mp4", str(tmp_path / "a.mp4"), ("one, two", "four"), "train"),
        Record("sub/b.webm", str(tmp_path / "sub" / "b.webm"), ("three",), "test"),
        Record("c.mp4", str(tmp_path / "c.mp4"), ("five",), "val"),
    ]
    assert read_own(tmp_path, start + rows) == expected
    (tmp_path / "captions.csv").rename(tmp_path / "other.csv")
    config = own.Config(name="folder", videos=str(tmp_path), annotations=str(tmp_path / "other.csv"))
    assert own.records(config) == expected


def test_own_videos_without_a_split_are_split_by_video_and_seed(tmp_path: Path) -> None:
    records = read_own(tmp_path, many(50))
    assert len(records) == 50 and all(len(record.captions) == 2 for record in records)
    assert [sum(record.split == split for record in records) for split in SPLITS] == [35, 5, 10]
    assert read_own(tmp_path, many(50)) == records
    assert read_own(tmp_path, many(50), split_seed=1) != records
    halves = read_own(tmp_path, many(50), val_fraction=0.2, test_fraction=0.3)
    assert [sum(record.split == split for record in halves) for split in SPLITS] == [25, 10, 15]
    header, *rows = many(50).splitlines(keepends=True)
    shuffled = read_own(tmp_path, header + "".join(reversed(rows)))
    assert {r.video_id: r.split for r in shuffled} == {r.video_id: r.split for r in records}, "rows in another order"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "video,text\na.mp4,x\n",
            ["no column caption; its columns: video, text", "and, if you like, split"],
        ),
        ("video,caption,splt\na.mp4,x,train\n", ["'splt': is 'split' meant?"]),
        ("video\na.mp4\n", ["no column caption; its columns: video;"]),
        ("", ["no column video, caption"]),
        ("video,caption\na.mp4,x\nb.mp4,\n", ["line 3", "must not be empty"]),
        ("video,caption\na.mp4,x\nb.mp4\n", ["line 3: 1 fields between commas, 2 expected"]),
        ("video,caption\n  ,x\n", ["line 2", "must not be empty"]),
        ("video,caption,split\na.mp4,x,train\nb.mp4,y,dev\n", ["line 3", "split 'dev'", "train, val, test"]),
        ("video,caption,split\na.mp4,x,train\nb.mp4,y\n", ["line 3: 2 fields between commas, 3 expected"]),
        ("video,caption,split\na.mp4,x,train\na.mp4,y,test\n", ["line 3", "a.mp4 is in two splits, train and test"]),
        (many(2), ["2 videos are too few"]),
        ("video,caption\n", ["has no rows"]),
    ],
)
def test_own_videos_name_the_line_and_its_fault(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(BenchmarkError) as error:
        read_own(tmp_path, text)
    for word in words:
        assert word in str(error.value)
    assert str(tmp_path / "captions.csv") in str(error.value) or "too few" in str(error.value)


def test_own_videos_that_are_nowhere(tmp_path: Path) -> None:
    for videos, word in [("", "benchmark.videos"), (str(tmp_path / "no"), "a directory"), (str(tmp_path), "captions.csv")]:
        with pytest.raises(BenchmarkError) as error:
            own.records(own.Config(name="folder", videos=videos))
        assert word in str(error.value)


def test_three_own_videos_are_enough(tmp_path: Path) -> None:
    assert sorted(record.split for record in read_own(tmp_path, many(3))) == sorted(SPLITS)


def test_captions_of_frames_are_parted_by_bars_and_may_be_missing_where_nothing_trains(tmp_path: Path) -> None:
    head = "video,caption,split,frame_captions\n"
    found = read_own(
        tmp_path, head + "a.mp4,one,train,a dog | it runs\na.mp4,two,train,a dog|away\nb.mp4,x,test,\nc.mp4,y,val,\n"
    )
    assert [record.frame_captions for record in found] == [(("a dog", "it runs"), ("a dog", "away")), (), ()]
    with pytest.raises(BenchmarkError, match="line 2: frame_captions has an empty caption: expected one for each frame"):
        read_own(tmp_path, head + "a.mp4,one,train,a dog||it runs\n")
