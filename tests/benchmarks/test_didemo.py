"""DiDeMo: one paragraph per video, names as they are listed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.annotations import DIDEMO, config_of, records_of, write_small
from vop.benchmarks import SPLITS, BenchmarkError, Record
from vop.config import kind


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
