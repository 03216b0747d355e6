"""Annotation files -> records: each benchmark's formats, the published counts, where files are found, validation.

The published files of MSR-VTT and DiDeMo are read from $VOP_ANNOTATIONS (`msrvtt/`, `didemo/`), if it is there.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from vop.benchmarks import SPLITS, BenchmarkError, Protocol, Record, find_videos, hold_out, lsmdc, stem_of, toy
from vop.benchmarks import folder as own
from vop.benchmarks._msrvtt import read_records
from vop.config import BenchmarkConfig, kind, kinds, load_experiment
from vop.toy.videos import VERSION, _write_annotations, plan

ANNOTATIONS = Path(os.environ.get("VOP_ANNOTATIONS", Path(__file__).parents[2] / "shared" / "annotations"))
MSRVTT, DIDEMO = ANNOTATIONS / "msrvtt", ANNOTATIONS / "didemo"
FILES = ("data.json", "train.csv", "test.csv")

SENTENCES = [("video7", "a dog runs"), ("video2", "a cat, asleep"), ("video7", "ein Hund läuft"), ("video9", "unused")]
TRAIN = "video_id\nvideo7\nvideo2\n"
TEST = 'key,vid_key,video_id,sentence\nret0,msr9,video9,"a man says ""hi"", then leaves"\nret1,msr4,video4,rain falls\n'


# --- what every benchmark keeps to --------------------------------------------------------------------------------


def config_of(name: str, root: Path, *overrides: str) -> BenchmarkConfig:
    """As a recipe gives it, for folders `videos` and `annotations` below `root`."""
    for folder in ("videos", "annotations"):
        (root / folder).mkdir(exist_ok=True)
    section = {"name": name, "videos": str(root / "videos"), "annotations": str(root / "annotations")}
    return load_experiment({"benchmark": section}, overrides).benchmark


def records_of(name: str, root: Path, *overrides: str) -> list[Record]:
    records: list[Record] = kind("benchmark", name).records(config_of(name, root, *overrides))
    return records


def lsmdc_row(clip: str, sentence: str) -> str:
    return "\t".join([clip, *["00.00.01.000"] * 4, sentence]) + "\n"


HELD_OUT = ["benchmark.validation=1"]
# For each published benchmark: its files, small; and the overrides that such small files need.
SMALL: dict[str, tuple[dict[str, object], list[str]]] = {
    "msrvtt-9k": (
        {
            "MSRVTT_data.json": {"sentences": [{"video_id": v, "caption": t} for v, t in SENTENCES]},
            "MSRVTT_train.9k.csv": TRAIN,
            "MSRVTT_JSFUSION_test.csv": TEST,
        },
        HELD_OUT,
    ),
    "msrvtt-7k": (
        {
            "MSRVTT_data.json": {"sentences": [{"video_id": v, "caption": t} for v, t in SENTENCES]},
            "MSRVTT_train.7k.csv": TRAIN,
            "MSRVTT_JSFUSION_test.csv": TEST,
        },
        HELD_OUT,
    ),
    "didemo": (
        {
            "train_list.txt": "1@N01_2_ab.mov\n",
            "val_list.txt": "2@N01_3_bc.\n",
            "test_list.txt": "4@N02_6_ef.wmv\n3@N02_5_de.3gp\n",
            "train_data.json": [{"video": "1@N01_2_ab.mov", "description": "a dog jumps", "times": [[1, 1]]}],
            "val_data.json": [{"video": "2@N01_3_bc.", "description": "the sea", "times": [[0, 0]]}],
            "test_data.json": [
                {"video": "3@N02_5_de.3gp", "description": " last things first.", "times": [[5, 5]]},
                {"video": "4@N02_6_ef.wmv", "description": "a tree", "times": [[0, 1]]},
                {"video": "3@N02_5_de.avi", "description": "under its other name", "times": [[0, 0]]},
                {"video": "3@N02_5_de.3gp", "description": "then the rest", "times": [[0, 0]]},
                {"video": "9@N09_9_zz.mp4", "description": "not listed", "times": [[0, 0]]},
            ],
        },
        [],
    ),
    "activitynet": (
        {
            "train.json": {
                "v_-aaaaaaaaa1": {
                    "duration": 82.7,
                    "timestamps": [[9, 19.9], [0, 60]],
                    "sentences": ["A man runs.", " He falls. "],
                },
                "v_aaaaaaaaaa2": {"duration": 2.0, "timestamps": [[0, 1]], "sentences": ["Rain."]},
            },
            "val_1.json": {"v__aaaaaaaaa3": {"duration": 3.0, "timestamps": [[0, 1]], "sentences": ["Snow.", "It melts."]}},
            "train_ids.json": ["v_aaaaaaaaaa2", "v_without_cap", "v_-aaaaaaaaa1"],
            "val_ids.json": ["v__aaaaaaaaa3", "v_without_ca2"],
        },
        HELD_OUT,
    ),
    "lsmdc": (
        {
            "LSMDC16_annos_training.csv": lsmdc_row("3001_A_FILM_00.00.01.000-00.00.03.500", 'SOMEONE says "hi, you.')
            + lsmdc_row("3001_A_FILM_00.00.09.000-00.00.11.000", "SOMEONE stands.")
            + lsmdc_row("3001_A_FILM_00.00.01.000-00.00.03.500", 'The same clip, "again".'),
            "LSMDC16_annos_val.csv": lsmdc_row("3002_B_00.00.01.000-00.00.03.500", "Rain."),
            "LSMDC16_challenge_1000_publictect.csv": lsmdc_row("3003_C_00.00.01.000-00.00.03.500", "Snow.")
            + lsmdc_row(lsmdc.LEFT_OUT_BY_XPOOL, "SOMEONE frowns."),
        },
        [],
    ),
}
PUBLISHED = [name for name in kinds("benchmark") if hasattr(kind("benchmark", name), "protocol")]


def write_small(name: str, root: Path, end: str = "\n", start: str = "") -> Path:
    (root / "annotations").mkdir(exist_ok=True)
    for file, content in SMALL[name][0].items():
        text = content if isinstance(content, str) else json.dumps(content, indent=1)
        (root / "annotations" / file).write_bytes((start + text.replace("\n", end)).encode())
    return root


@pytest.mark.parametrize("name", kinds("benchmark"))
def test_every_benchmark_has_records_and_says_what_it_is(name: str) -> None:
    module = kind("benchmark", name)
    assert callable(module.records)
    assert module.__doc__
    assert issubclass(getattr(module, "Config", BenchmarkConfig), BenchmarkConfig)


@pytest.mark.parametrize("name", [name for name in kinds("benchmark") if name != "toy"])  # which writes its files
def test_every_benchmark_says_what_is_missing(name: str, tmp_path: Path) -> None:
    module = kind("benchmark", name)
    with pytest.raises(BenchmarkError, match=r"benchmark\.videos"):
        module.records(load_experiment({"benchmark": {"name": name}}).benchmark)
    with pytest.raises(BenchmarkError, match=str(tmp_path)):
        records_of(name, tmp_path)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_benchmark_states_its_numbers(name: str, tmp_path: Path) -> None:
    protocol: Protocol = kind("benchmark", name).protocol(config_of(name, tmp_path))
    assert {*protocol.videos} | {*protocol.captions} == {*SPLITS}, "each split has a number to hold a dataset to"
    assert all(count > 0 for count in (*protocol.videos.values(), *protocol.captions.values()))
    assert protocol.source and protocol.frames > 0 and protocol.tokens > 0


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize(("end", "start"), [("\n", ""), ("\r\n", ""), ("\n", "\ufeff")], ids=["lf", "crlf", "bom"])
def test_every_published_benchmark_reads_its_files(name: str, end: str, start: str, tmp_path: Path) -> None:
    if name not in SMALL:
        pytest.skip(f"no small files of {name} in SMALL")
    overrides = SMALL[name][1]
    records = records_of(name, write_small(name, tmp_path), *overrides)
    protocol: Protocol = kind("benchmark", name).protocol(config_of(name, tmp_path))
    assert {record.split for record in records} == {*SPLITS}
    assert len({record.video_id for record in records}) == len(records)
    for record in records:
        assert record.captions and all(isinstance(caption, str) and caption.strip() for caption in record.captions)
        assert Path(record.path).is_relative_to(tmp_path / "videos")
        assert record.window == protocol.window
    assert protocol.text == "each caption" or all(len(record.captions) == 1 for record in records)
    again = tmp_path / "again"
    again.mkdir()
    other = records_of(name, write_small(name, again, end, start), *overrides)
    assert [(r.video_id, r.captions, r.split) for r in other] == [(r.video_id, r.captions, r.split) for r in records]


@pytest.mark.parametrize("name", sorted(SMALL))
def test_every_file_of_a_published_benchmark_is_needed_by_name(name: str, tmp_path: Path) -> None:
    for file in SMALL[name][0]:
        if file.endswith("_ids.json"):
            continue
        (write_small(name, tmp_path) / "annotations" / file).unlink()
        with pytest.raises(BenchmarkError, match="is missing") as error:
            records_of(name, tmp_path, *SMALL[name][1])
        assert str(tmp_path / "annotations" / file) in str(error.value)
        (tmp_path / "annotations" / file).write_bytes(b"\xff\xfe nothing")
        with pytest.raises(BenchmarkError, match="UTF-8"):
            records_of(name, tmp_path, *SMALL[name][1])


# --- where the file of a video is ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "files", "found"),
    [
        ("a.mov", ["a.mov", "a.mov.mp4", "a.mp4"], "a.mov"),
        ("a.mov", ["a.mp4", "deep/er/a.mov"], "deep/er/a.mov"),
        ("a.3gp", ["a.mp4", "a.3gp.mp4"], "a.3gp.mp4"),
        ("a.3gp", ["a.avi", "a.MP4"], "a.MP4"),
        ("a.", ["a.", "a.mp4"], "a."),
        ("a.", ["sub/a..mp4", "a.avi"], "sub/a..mp4"),
        ("a.", ["a.avi"], "a.avi"),
        ("-a_b", ["-a_b.webm", "-a_b.mkv"], "-a_b.webm"),
        ("x_00.01-00.02.941", ["x_00.01-00.02.mp4", "film/x_00.01-00.02.941.avi"], "film/x_00.01-00.02.941.avi"),
        ("a", ["b/a.mp4", "a/a.mp4"], "a/a.mp4"),
        ("a", ["a.mp4.part", "a.json", "a.txt"], None),
        ("a", ["A.mp4", "aa.mp4"], None),
    ],
)
def test_a_video_is_found(name: str, files: list[str], found: str | None, tmp_path: Path) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert find_videos(tmp_path, [name]) == {name: str(tmp_path / (found or "a.mp4"))}
    assert find_videos(f"file://{tmp_path}", [name]) == {name: f"file://{tmp_path}/{found or 'a.mp4'}"}


def test_a_missing_video_has_the_path_where_it_was_expected(tmp_path: Path) -> None:
    names = ["a.mov", "b", "c.", "1_00.02.941"]
    expected = ["a.mov", "b.avi", "c.", "1_00.02.941.avi"]
    assert [*find_videos(tmp_path, names, ".avi").values()] == [str(tmp_path / name) for name in expected]
    assert stem_of("1_00.02.941") == "1_00.02.941" and stem_of("c.") == "c" and stem_of("d.Mp4") == "d"


def test_videos_below_linked_folders_are_found_and_rings_end(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "a.mp4").touch()
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "part").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "ring").symlink_to(tmp_path / "videos")
    assert find_videos(tmp_path / "videos", ["a"]) == {"a": str(tmp_path / "videos" / "part" / "a.mp4")}


def test_videos_below_a_uri_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="nosuch://bucket cannot be listed"):
        find_videos("nosuch://bucket", ["a"])
    with pytest.raises(BenchmarkError, match="no cannot be listed"):
        find_videos(f"file://{tmp_path}/no", ["a"])


# --- DiDeMo -------------------------------------------------------------------------------------------------------


def test_didemo_joins_what_is_filed_under_the_listed_name(tmp_path: Path) -> None:
    write_small("didemo", tmp_path)
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "3@N02_5_de.3gp.mp4").touch()
    test = [record for record in records_of("didemo", tmp_path) if record.split == "test"]
    path = str(tmp_path / "videos")
    assert test == [
        Record("4@N02_6_ef.wmv", f"{path}/4@N02_6_ef.wmv", ("a tree",), "test", window=(0.0, 31.0)),
        Record("3@N02_5_de.3gp", f"{path}/3@N02_5_de.3gp.mp4", (" last things first. then the rest",), "test", window=(0, 31)),
    ]
    merged = [record for record in records_of("didemo", tmp_path, "benchmark.exact_names=false") if record.split == "test"]
    assert [record.captions for record in merged] == [
        ("a tree",),
        (" last things first. under its other name then the rest",),
    ]


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("test_list.txt", "1@N01_2_ab.mov\n", ["1 ids are listed twice: 1@N01_2_ab.mov"]),
        ("test_list.txt", "8@N01_2_ab.mov\n", ["test_data.json", "no description for 1 listed videos: 8@N01_2_ab.mov"]),
        ("test_data.json", '[{"video": "a.mov"}]', ["test_data.json", "description"]),
        ("test_data.json", '{"video": "a.mov"}', ["test_data.json", "expected"]),
        ("test_data.json", "no", ["test_data.json", "not JSON"]),
    ],
)
def test_didemo_names_the_file_and_its_fault(file: str, text: str, words: list[str], tmp_path: Path) -> None:
    (write_small("didemo", tmp_path) / "annotations" / file).write_text(text)
    with pytest.raises(BenchmarkError) as error:
        records_of("didemo", tmp_path)
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.skipif(not DIDEMO.is_dir(), reason=f"DiDeMo's annotation files are not in {DIDEMO}")
@pytest.mark.parametrize(("exact", "val", "test"), [("true", 4109, 3932), ("false", 4180, 4021)])
def test_didemo_as_published(exact: str, val: int, test: int, tmp_path: Path) -> None:
    """Its training descriptions are made up here, one for each listed name; all else is as published."""
    (tmp_path / "annotations").mkdir()
    for path in DIDEMO.iterdir():
        (tmp_path / "annotations" / path.name).symlink_to(path)
    if not (DIDEMO / "train_data.json").exists():
        listed = (DIDEMO / "train_list.txt").read_text().split()
        made = [{"video": name, "description": f"this is {name}"} for name in listed]
        (tmp_path / "annotations" / "train_data.json").write_text(json.dumps(made))
    records = records_of("didemo", tmp_path, f"benchmark.exact_names={exact}")
    by_split = {split: [record for record in records if record.split == split] for split in SPLITS}
    protocol = kind("benchmark", "didemo").protocol(config_of("didemo", tmp_path))
    assert {split: len(found) for split, found in by_split.items()} == protocol.videos
    assert protocol.videos == {"train": 8392, "val": 1065, "test": 1004}
    for split, count in (("val", val), ("test", test)):
        texts: dict[str, list[str]] = {}
        for row in json.loads((DIDEMO / f"{split}_data.json").read_text()):
            texts.setdefault(row["video"], []).append(row["description"])
        kept = [record for record in by_split[split] if record.captions == (" ".join(texts[record.video_id]),)]
        if exact == "true":
            assert len(kept) == len(by_split[split]) and sum(len(texts[record.video_id]) for record in kept) == count
        else:  # a paragraph holds every description of both spellings
            stems: dict[str, list[str]] = {}
            for name, parts in texts.items():
                stems.setdefault(name.rpartition(".")[0], []).extend(parts)
            for record in by_split[split]:
                parts = stems[record.video_id.rpartition(".")[0]]
                assert len(record.captions[0]) == sum(map(len, parts)) + len(parts) - 1
            assert sum(map(len, stems.values())) == count
            assert len(kept) < len(by_split[split])
    assert all(record.window == (0.0, 31.0) for record in records)
    assert sum(record.video_id.endswith(".") for record in by_split["test"]) == 27


# --- ActivityNet --------------------------------------------------------------------------------------------------


def test_activitynet_joins_sentences_and_skips_ids_without_captions(tmp_path: Path) -> None:
    write_small("activitynet", tmp_path)
    (tmp_path / "videos" / "deep").mkdir(parents=True)
    for name in ("deep/-aaaaaaaaa1.mkv", "v__aaaaaaaaa3.webm"):
        (tmp_path / "videos" / name).touch()
    path = str(tmp_path / "videos")
    expected = [
        Record("v_aaaaaaaaaa2", f"{path}/aaaaaaaaaa2.mp4", ("Rain.",), "train"),
        Record("v_-aaaaaaaaa1", f"{path}/deep/-aaaaaaaaa1.mkv", ("A man runs.  He falls. ",), "train"),
        Record("v__aaaaaaaaa3", f"{path}/v__aaaaaaaaa3.webm", ("Snow. It melts.",), "test"),
    ]
    assert records_of("activitynet", tmp_path, "benchmark.validation=0") == expected
    for file in ("train_ids.json", "val_ids.json"):
        (tmp_path / "annotations" / file).unlink()
    assert records_of("activitynet", tmp_path, "benchmark.validation=0") == [expected[1], expected[0], expected[2]]


@pytest.mark.parametrize(
    ("file", "text"),
    [("train.json", "[]"), ("train.json", '{"v_a": {"text": []}}'), ("train.json", '{"v_a": []}'), ("train_ids.json", "7")],
)
def test_activitynet_names_the_file_and_its_fault(file: str, text: str, tmp_path: Path) -> None:
    (write_small("activitynet", tmp_path) / "annotations" / file).write_text(text)
    with pytest.raises(BenchmarkError, match=r"train\.json: expected"):
        records_of("activitynet", tmp_path, "benchmark.validation=0")


# --- LSMDC --------------------------------------------------------------------------------------------------------


def test_lsmdc_makes_every_row_a_pair(tmp_path: Path) -> None:
    write_small("lsmdc", tmp_path)
    records = {record.video_id: record for record in records_of("lsmdc", tmp_path)}
    assert [record.captions for record in records.values()] == [
        ('SOMEONE says "hi, you.', 'The same clip, "again".'),
        ("SOMEONE stands.",),
        ("Rain.",),
        ("Snow.",),
        ("SOMEONE frowns.",),
    ]
    assert [record.split for record in records.values()] == ["train", "train", "val", "test", "test"]
    fewer = records_of("lsmdc", tmp_path, "benchmark.xpool_clips=true")
    assert [*records.values()][:4] == fewer and lsmdc.LEFT_OUT_BY_XPOOL in records
    assert lsmdc.protocol(lsmdc.Config(name="lsmdc", xpool_clips=True)).videos["test"] == 999


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b,c,d,e,f\n", "line 1: expected clip id"),
        (lsmdc_row("c", "one") + "\n" + lsmdc_row("d", " "), "line 3: expected"),
        (lsmdc_row("c", "a\ttab"), "line 1: expected"),
        (
            lsmdc_row("3002_B_00.00.01.000-00.00.03.500", "x"),
            "3002_B_00.00.01.000-00.00.03.500 is in LSMDC16_annos_val.csv too",
        ),
    ],
)
def test_lsmdc_names_the_line_and_its_fault(text: str, words: str, tmp_path: Path) -> None:
    file = write_small("lsmdc", tmp_path) / "annotations" / "LSMDC16_challenge_1000_publictect.csv"
    file.write_text(text)
    with pytest.raises(BenchmarkError) as error:
        records_of("lsmdc", tmp_path)
    assert f"{file}" in str(error.value) and words in str(error.value)


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


@pytest.mark.parametrize("name", FILES)
def test_msrvtt_names_the_file_that_is_missing(tmp_path: Path, name: str) -> None:
    root = write_msrvtt(tmp_path)
    (root / name).unlink()
    with pytest.raises(BenchmarkError, match="is missing") as error:
        read_msrvtt(root)
    assert str(root / name) in str(error.value)


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
