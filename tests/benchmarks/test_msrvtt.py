"""MSR-VTT: its three files, and both published splits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.annotations import MSRVTT, SENTENCES, TEST, TRAIN, config_of, records_of, write_small
from vop.benchmarks import SPLITS, BenchmarkError, Record
from vop.benchmarks._msrvtt import read_records
from vop.config import kind

FILES = ("data.json", "train.csv", "test.csv")


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
    sentences, train, test = (root / name for name in FILES)
    return read_records(root / "videos", [sentences], train, test)


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
        ("test.csv", "video_id,sentence\nvideo9\n", ["line 2: 1 fields between commas, 2 expected"]),
        ("test.csv", "video_id,sentence\nvideo7,x\n", ["1 ids are in both", "train.csv", "video7"]),
        ("train.csv", "video_id\nvideo7\nvideo3\n", ["data.json: no caption for 1 videos", "video3"]),
        ("data.json", "[1, 2]", ["sentences", "video_id"]),
        ("data.json", '{"sentences": [{"video_id": "video7"}]}', ["caption"]),
        ("data.json", "not json", ["not JSON"]),
    ],
)
def test_msrvtt_names_the_file_and_its_fault(tmp_path: Path, name: str, text: str, words: list[str]) -> None:
    root = write_msrvtt(tmp_path)
    (root / name).write_text(text)
    with pytest.raises(BenchmarkError) as error:
        read_msrvtt(root)
    for word in (str(root / name), *words):
        assert word in str(error.value)


def test_msrvtt_names_the_file_that_is_missing_and_those_that_are_there(tmp_path: Path) -> None:
    root = write_msrvtt(tmp_path)
    (root / "test.csv").rename(root / "tests.csv")
    with pytest.raises(BenchmarkError, match="is missing") as error:
        read_msrvtt(root)
    assert f"{root / 'test.csv'} is missing" in str(error.value)
    assert "its folder holds tests.csv, " in str(error.value) and "train.csv" in str(error.value)


@pytest.mark.parametrize("name", ["data.json", "train.csv"])
def test_msrvtt_needs_nothing_of_training_for_its_test(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    root = write_msrvtt(tmp_path)
    (root / name).unlink()
    records = read_msrvtt(root)
    assert [(record.video_id, record.split) for record in records] == [("video9", "test"), ("video4", "test")]
    assert f"{root / name} is missing: no training videos" in caplog.text


def test_msrvtts_official_files_are_read(tmp_path: Path) -> None:
    """The same records as from the file of peers; the 9k split has training videos of both official parts."""
    expected = records_of("msrvtt-9k", write_small("msrvtt-9k", tmp_path / "peers"), "benchmark.validation=1")
    official = write_small("msrvtt-9k", tmp_path / "official")
    data = json.loads((official / "annotations" / "MSRVTT_data.json").read_text(encoding="utf-8"))
    (official / "annotations" / "MSRVTT_data.json").unlink()
    for name, part in (("train_val", ("video7",)), ("test", ("video2", "video9"))):
        sentences = [{"sen_id": 3, **sentence} for sentence in data["sentences"] if sentence["video_id"] in part]
        videos = [{"id": 1, "video_id": video, "split": "train", "start time": 1.5} for video in part]
        text = json.dumps({"info": {"year": "2016"}, "videos": videos, "sentences": sentences})
        (official / "annotations" / f"{name}_videodatainfo.json").write_text(text, encoding="utf-8")
    found = records_of("msrvtt-9k", official, "benchmark.validation=1")
    told = [(record.video_id, record.captions, record.split) for record in found]
    assert told == [(record.video_id, record.captions, record.split) for record in expected]
    (official / "annotations" / "test_videodatainfo.json").unlink()
    with pytest.raises(BenchmarkError, match=r"train_val_videodatainfo.json: no caption for 1 videos of .*: video2"):
        records_of("msrvtt-9k", official, "benchmark.validation=1")


@pytest.mark.skipif(not MSRVTT.is_dir(), reason=f"MSR-VTT's annotation files are not in {MSRVTT}")
@pytest.mark.parametrize(
    ("name", "ids", "count"), [("msrvtt-9k", "MSRVTT_train.9k.csv", 9000), ("msrvtt-7k", "MSRVTT_train.7k.csv", 7010)]
)
def test_msrvtt_as_published(name: str, ids: str, count: int, tmp_path: Path) -> None:
    """Its json of captions is made up here, 20 for each id; the ids and the test pairs are as published."""
    listed = (MSRVTT / ids).read_text().split()[1:]
    (tmp_path / "annotations").mkdir()
    for path in MSRVTT.iterdir():
        (tmp_path / "annotations" / path.name).symlink_to(path)
    made = [{"video_id": video, "caption": f"{video} {number}"} for number in range(20) for video in reversed(listed)]
    (tmp_path / "annotations" / "MSRVTT_data.json").unlink(missing_ok=True)
    (tmp_path / "annotations" / "MSRVTT_data.json").write_text(json.dumps({"sentences": made}))
    for overrides, held in (([], 500), (["benchmark.validation=0"], 0)):
        records = records_of(name, tmp_path, *overrides)
        by_split = {split: [record for record in records if record.split == split] for split in SPLITS}
        assert [len(by_split[split]) for split in SPLITS] == [count - held, held, 1000]
        protocol = kind("benchmark", name).protocol(config_of(name, tmp_path, *overrides))
        assert {split: len(found) for split, found in by_split.items()} == protocol.videos
        assert {split: sum(len(r.captions) for r in found) for split, found in by_split.items()} == protocol.captions
    assert [record.video_id for record in by_split["train"]] == listed
    assert all(record.captions == tuple(f"{record.video_id} {n}" for n in range(20)) for record in by_split["train"])
    assert by_split["test"][0] == Record(
        "video9770", str(tmp_path / "videos" / "video9770.mp4"), ("a person is connecting something to system",), "test"
    )
    assert len({record.video_id for record in records}) == len(records)
