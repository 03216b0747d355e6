"""Annotation files -> records: MSR-VTT's formats, one's own folder, the toy's files, and the held-out validation."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from vop.benchmarks import SPLITS, BenchmarkError, Record, hold_out, toy
from vop.benchmarks import folder as own
from vop.benchmarks._msrvtt import read_records
from vop.config import BenchmarkConfig, kind, kinds
from vop.toy.videos import VERSION, _write_annotations, plan

MSRVTT = Path(__file__).parents[2] / "shared" / "annotations" / "msrvtt"
FILES = ("data.json", "train.csv", "test.csv")

SENTENCES = [("video7", "a dog runs"), ("video2", "a cat, asleep"), ("video7", "ein Hund läuft"), ("video9", "unused")]
TRAIN = "video_id\nvideo7\nvideo2\n"
TEST = 'key,vid_key,video_id,sentence\nret0,msr9,video9,"a man says ""hi"", then leaves"\nret1,msr4,video4,rain falls\n'


@pytest.mark.parametrize("name", kinds("benchmark"))
def test_every_benchmark_has_records(name: str) -> None:
    module = kind("benchmark", name)
    assert callable(module.records)
    assert issubclass(getattr(module, "Config", BenchmarkConfig), BenchmarkConfig)


# --- MSR-VTT's formats --------------------------------------------------------------------------------------------


def write_msrvtt(root: Path, sentences: Sequence[tuple[str, str]] = SENTENCES, **texts: str) -> Path:
    """The three files; `texts` may replace the csv's."""
    data = {
        "videos": [{"video_id": video, "split": "validate"} for video, _ in sentences],
        "sentences": [{"sen_id": i, "video_id": v, "caption": text} for i, (v, text) in enumerate(sentences)],
    }
    (root / "data.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    (root / "train.csv").write_bytes(texts.get("train", TRAIN).encode())
    (root / "test.csv").write_bytes(texts.get("test", TEST).encode())
    return root


def read_msrvtt(root: Path) -> list[Record]:
    return read_records(root / "videos", *(root / name for name in FILES))


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["plain", "bom"])
def test_msrvtt_files(tmp_path: Path, end: str, start: str) -> None:
    root = write_msrvtt(tmp_path, train=start + TRAIN.replace("\n", end), test=start + TEST.replace("\n", end))
    videos = tmp_path / "videos"
    assert read_msrvtt(root) == [
        Record("video7", str(videos / "video7.mp4"), ("a dog runs", "ein Hund läuft"), "train"),
        Record("video2", str(videos / "video2.mp4"), ("a cat, asleep",), "train"),
        Record("video9", str(videos / "video9.mp4"), ('a man says "hi", then leaves',), "test"),
        Record("video4", str(videos / "video4.mp4"), ("rain falls",), "test"),
    ]


def test_msrvtt_takes_the_file_that_is_there(tmp_path: Path) -> None:
    root = write_msrvtt(tmp_path)
    (root / "videos").mkdir()
    for name in ("video7.webm", "video2.webm", "video2.mp4"):
        (root / "videos" / name).touch()
    assert [Path(record.path).name for record in read_msrvtt(root)][:3] == ["video7.webm", "video2.mp4", "video9.mp4"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("train.csv", "id\nvideo7\n", ["no column video_id", "its columns: id"]),
        ("test.csv", "video_id,caption\nvideo9,x\n", ["no column sentence", "video_id, caption"]),
        ("train.csv", "", ["no column video_id"]),
        ("train.csv", "video_id\nvideo7\nvideo2\nvideo7\n", ["1 ids are listed twice: video7"]),
        ("test.csv", "video_id,sentence\nvideo9,x\nvideo9,y\n", ["1 ids are listed twice: video9"]),
        ("test.csv", "video_id,sentence\nvideo9\n", ["line 2: sentence must not be empty"]),
        ("test.csv", "video_id,sentence\nvideo7,x\n", ["1 ids are in both", "train.csv", "video7"]),
        ("train.csv", "video_id\nvideo7\nvideo3\n", ["data.json: no caption for 1 videos", "video3"]),
        ("data.json", "[1, 2]", ["sentences", "video_id"]),
        ("data.json", '{"sentences": [{"video_id": "video7"}]}', ["caption"]),
        ("data.json", "not json", ["sentences"]),
    ],
)
def test_msrvtt_names_the_file_and_its_fault(tmp_path: Path, name: str, text: str, words: list[str]) -> None:
    root = write_msrvtt(tmp_path)
    (root / name).write_text(text)
    with pytest.raises(BenchmarkError) as error:
        read_msrvtt(root)
    for word in (str(root / name), *words):
        assert word in str(error.value)


@pytest.mark.parametrize("name", FILES)
def test_msrvtt_names_the_file_that_is_missing(tmp_path: Path, name: str) -> None:
    root = write_msrvtt(tmp_path)
    (root / name).unlink()
    with pytest.raises(BenchmarkError, match="is missing") as error:
        read_msrvtt(root)
    assert str(root / name) in str(error.value)


@pytest.mark.skipif(not MSRVTT.is_dir(), reason=f"MSR-VTT's annotation files are not in {MSRVTT}")
@pytest.mark.parametrize(("ids", "count"), [("MSRVTT_train.9k.csv", 9000), ("MSRVTT_train.7k.csv", 7010)])
def test_msrvtt_as_published(tmp_path: Path, ids: str, count: int) -> None:
    listed = (MSRVTT / ids).read_text().split()[1:]
    root = write_msrvtt(tmp_path, [(video, f"{video} {number}") for number in range(2) for video in reversed(listed)])
    records = read_records(root / "videos", root / "data.json", MSRVTT / ids, MSRVTT / "MSRVTT_JSFUSION_test.csv")
    train, test = ([record for record in records if record.split == split] for split in ("train", "test"))
    assert (len(train), len(test), len(records)) == (count, 1000, count + 1000)
    assert [record.video_id for record in train] == listed
    assert all(record.captions == (f"{record.video_id} 0", f"{record.video_id} 1") for record in train)
    assert test[0].captions == ("a person is connecting something to system",) and test[0].video_id == "video9770"
    assert all(len(record.captions) == 1 and record.captions[0] for record in test)
    assert len({record.video_id for record in records}) == len(records)


# --- one's own folder ---------------------------------------------------------------------------------------------


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
        ("video,text\na.mp4,x\n", ["columns are video, text", "expected video, caption[, split]"]),
        ("video,caption,splt\na.mp4,x,train\n", ["columns are video, caption, splt"]),
        ("video\na.mp4\n", ["columns are video;"]),
        ("", ["expected video, caption"]),
        ("video,caption\na.mp4,x\nb.mp4,\n", ["line 3", "must not be empty"]),
        ("video,caption\na.mp4,x\nb.mp4\n", ["line 3", "must not be empty"]),
        ("video,caption\n  ,x\n", ["line 2", "must not be empty"]),
        ("video,caption,split\na.mp4,x,train\nb.mp4,y,dev\n", ["line 3", "split 'dev'", "train, val, test"]),
        ("video,caption,split\na.mp4,x,train\nb.mp4,y\n", ["line 3", "split ''"]),
        ("video,caption,split\na.mp4,x,train\na.mp4,y,test\n", ["line 3", "a.mp4 is in two splits, train and test"]),
        (many(2), ["2 videos are too few"]),
        ("video,caption\n", ["0 videos are too few"]),
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


# --- validation ---------------------------------------------------------------------------------------------------


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


# --- toy ----------------------------------------------------------------------------------------------------------


def test_toy_records(tmp_path: Path) -> None:
    """From its annotation files alone: the videos take a minute to write."""
    written = tmp_path / f"toy-{VERSION}"
    written.mkdir()
    train, test = plan()
    _write_annotations(written, train, test)
    records = toy.records(BenchmarkConfig(name="toy", videos=str(tmp_path)))
    assert [sum(record.split == split for record in records) for split in SPLITS] == [280 - 56, 56, 240]
    by_id = {record.video_id: record for record in records}
    assert len(by_id) == 520
    for record in records:
        assert Path(record.path).parent == written / "videos"
        assert len(record.captions) == (1 if record.split == "test" else 5)
        assert bool(record.opposite) == (record.group == "time_pairs")
        if record.opposite:
            assert by_id[record.opposite].opposite == record.video_id
            assert by_id[record.opposite].split == record.split
    assert sum(r.group == "time_pairs" for r in records if r.split == "test") == 120
    with (written / "toy_time_pairs.csv").open(newline="") as file:
        assert len(list(csv.reader(file))) == 1 + 72 + 60
