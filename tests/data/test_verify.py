"""`vop verify`: every fault of a dataset is found and named, and nothing else is called a fault."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.data.verify import _captions_cut, _hashes, look_at
from tests.support.annotations import DIDEMO, write_small
from tests.support.videos import write
from vop.annotations.copies import END_BYTES, equal_files, hash_all, hash_ends
from vop.benchmarks import Record, didemo
from vop.config import load_experiment

pytestmark = pytest.mark.usefixtures("ray_cluster")
TINY = ["backbone.name=ViT-toy", "frames.count=4"]


def vop_verify(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["verify", *map(str, arguments)], env={"COLUMNS": "150"})
    return done.exit_code, done.output


def row_of(report: Path, video_id: str) -> dict[str, Any]:
    (row,) = (row for row in pq.read_table(report).to_pylist() if row["video_id"] == video_id)
    return row


def add_caption(folder: Path, *row: str) -> None:
    with (folder / "captions.csv").open("a", encoding="utf-8", newline="") as file:
        csv.writer(file).writerow(row)


def test_a_whole_folder(videos: Path, tmp_path: Path) -> None:
    report = tmp_path / "new" / "report.parquet"
    code, output = vop_verify("folder", "--videos", videos, "--report", report, *TINY)
    assert code == 0 and "\nwhole\n" in output
    rows = pq.read_table(report).to_pylist()
    assert [row["video_id"] for row in rows] == [f"clip {number}.mp4" for number in range(12)]
    for row in rows:
        assert row["bytes"] == (videos / row["video_id"]).stat().st_size
        assert row["problem_kind"] == row["other_extension"] == row["same_bytes_as"] == ""
        assert row["frames"] >= 12 and row["width"] == row["height"] == 64 and row["codec"] == "h264"
        assert (row["captions"], row["captions_cut"]) == (2 if row["video_id"] in ("clip 0.mp4", "clip 1.mp4") else 1, 0)


def test_every_fault_is_found_by_name(videos: Path, tmp_path: Path) -> None:
    folder, report = shutil.copytree(videos, tmp_path / "videos"), tmp_path / "report.parquet"
    (folder / "clip 0.mp4").unlink()
    (folder / "clip 1.mp4").rename(folder / "clip 1.webm")
    (folder / "clip 2.mp4").write_bytes(b"")
    (folder / "clip 3.mp4").write_text("not a video at all\n" * 100)
    whole = (folder / "clip 4.mp4").read_bytes()
    (folder / "clip 4.mp4").write_bytes(whole[: len(whole) // 2])
    shutil.copyfile(folder / "clip 6.mp4", folder / "clip 7.mp4")
    write(folder / "two frames.mp4", 2)
    add_caption(folder, "two frames.mp4", "nothing happens", "train")
    write(folder / "cut off.mkv", 100, codec="libx264", muxer={"cluster_time_limit": "200"})
    stored = (folder / "cut off.mkv").read_bytes()
    (folder / "cut off.mkv").write_bytes(stored[: len(stored) * 2 // 3])
    add_caption(folder, "cut off.mkv", "cut", "train")
    add_caption(folder, "clip 7.mp4", "word " * 80, "val")

    code, output = vop_verify("folder", "--videos", folder, "--annotations", folder, "--report", report, *TINY)
    assert code == 1
    kinds = {row["video_id"]: row["problem_kind"] for row in pq.read_table(report).to_pylist() if row["problem_kind"]}
    assert kinds == {
        **{"clip 0.mp4": "missing", "clip 1.mp4": "missing", "clip 2.mp4": "empty"},
        **{"clip 3.mp4": "not-a-video", "clip 4.mp4": "truncated", "cut off.mkv": "truncated"},
    }
    assert row_of(report, "clip 1.mp4")["other_extension"] == "clip 1.webm"
    assert row_of(report, "clip 0.mp4")["other_extension"] == ""
    assert row_of(report, "cut off.mkv")["problem"] == "the file is cut off"
    copies = {row["video_id"]: row["same_bytes_as"] for row in pq.read_table(report).to_pylist() if row["same_bytes_as"]}
    assert copies == {"clip 7.mp4": str(folder / "clip 6.mp4")}
    assert [row["video_id"] for row in pq.read_table(report).to_pylist() if row["few_frames"]] == ["two frames.mp4"]
    assert row_of(report, "clip 7.mp4")["captions_cut"] == 1 and row_of(report, "clip 7.mp4")["captions"] == 2
    assert "train: 2 videos missing" in output and "train: 4 videos unreadable" in output
    assert "val: " not in output and "test: " not in output, "equal files and long texts are no faults"
    shutil.copyfile(folder / "clip 6.mp4", folder / "clip 5.mp4")
    words = ("folder", "--videos", folder, "--annotations", folder, "--report", report, *TINY)
    assert (
        "2 videos of one split have the same bytes as one of another, such as clip 5.mp4 (train) and" in vop_verify(*words)[1]
    )
    assert "of one split" not in vop_verify(*words, "benchmark.shared_videos=allow")[1]
    lines = [line.strip() for line in output.splitlines()]
    for line in (
        f"train clip 0.mp4: {folder / 'clip 0.mp4'}",
        "train clip 1.mp4: clip 1.webm",
        "train clip 2.mp4: empty: the file has no bytes",
        "train two frames.mp4: 2",
    ):
        assert line in lines


def test_published_counts_are_held_against_the_files(videos: Path, tmp_path: Path) -> None:
    write_small("didemo", tmp_path)
    (tmp_path / "videos").mkdir()
    for number, name in enumerate(("1@N01_2_ab.mov", "2@N01_3_bc.", "4@N02_6_ef.wmv", "3@N02_5_de.3gp.mp4")):
        shutil.copyfile(videos / f"clip {number}.mp4", tmp_path / "videos" / name)
    report = tmp_path / "report.parquet"
    folders = ("--videos", tmp_path / "videos", "--annotations", tmp_path / "annotations", "--report", report)
    code, output = vop_verify("didemo", *folders, *TINY)
    assert code == 1 and set(didemo.EXAMPLE.files) == {path.name for path in (tmp_path / "annotations").iterdir()}
    for line in ("train: 1 videos in the annotation files, 8392 published", "test: 2 videos in the annotation files, 1004"):
        assert line in output
    assert "missing:" not in output and "unreadable:" not in output
    assert [row["other_extension"] for row in pq.read_table(report).to_pylist()] == ["", "", "", "3@N02_5_de.3gp.mp4"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "there is no 'nothing'; valid names: activitynet, didemo"),
        (["didemo"], "benchmark.videos: give the folder"),
        (["didemo", "--videos", "/no/such"], "/no/such is not a directory"),
        (["folder", "--videos", "s3://bucket/videos", "--annotations", "captions.csv"], "is a URI"),
        (["folder", "--videos", ".", "backbone.name=ViT-none"], "ViT-none"),
        (["folder", "backbone.nam=x"], "unknown key"),
    ],
)
def test_what_cannot_be_told_is_exit_code_two(
    arguments: list[str], words: str, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(videos)
    code, output = vop_verify(*arguments, "--report", tmp_path / "report.parquet")
    assert code == 2 and words in " ".join(output.split())
    assert not (tmp_path / "report.parquet").exists()


def test_equal_files_are_those_with_the_same_bytes(tmp_path: Path) -> None:
    """Same size, same ends, same bytes: only the last are equal."""
    middle = bytes(END_BYTES)
    contents = {
        **{"a": b"1" * 3 * END_BYTES, "b": b"1" * END_BYTES + middle + b"1" * END_BYTES, "c": b"1" * 3 * END_BYTES},
        **{"d": b"2" * 3 * END_BYTES, "e": b"short", "f": b"shore", "g": b"short", "h": b"", "i": b"", "j": b"alone!"},
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    sizes = {str(tmp_path / name): len(content) for name, content in contents.items()}
    assert hash_ends(str(tmp_path / "a"))["digest"] == hash_ends(str(tmp_path / "b"))["digest"]
    assert hash_all(str(tmp_path / "a"))["digest"] != hash_all(str(tmp_path / "b"))["digest"]
    equal = {Path(path).name: Path(first).name for path, first in equal_files(sizes, _hashes).items()}
    assert equal == {"c": "a", "g": "e"}, "and files without a byte are empty, not equal"
    assert hash_ends(str(tmp_path / "none"))["digest"] == hash_all(str(tmp_path / "none"))["digest"] == ""


def test_a_file_that_no_one_may_read_is_listed(tmp_path: Path) -> None:
    assert look_at(str(tmp_path / "none"))["problem_kind"] == "missing"
    assert look_at(str(tmp_path))["problem_kind"] == "not-a-file"
    os.symlink(tmp_path / "gone", tmp_path / "dangling")
    assert look_at(str(tmp_path / "dangling"))["problem_kind"] == "missing"


@pytest.mark.parametrize("length", [0, 8])
def test_a_text_is_cut_if_it_has_more_tokens_than_are_read(length: int) -> None:
    """A word is a token; both ends take one each; the prompts take the rest."""
    words = [["dog"] * count for count in (75 - length, 76 - length, 1)]
    record = Record("a", "", tuple(" ".join(text) for text in words), "train")
    experiment = load_experiment({"backbone": {"name": "ViT-B-32"}, "text_prompt": {"length": length}})
    assert _captions_cut([Record("b", "", ("cat",), "val"), record], experiment) == ([0, 1], 77 - length)


@pytest.mark.skipif(not DIDEMO.is_dir(), reason=f"DiDeMo's annotation files are not in {DIDEMO}")
@pytest.mark.parametrize(("limit", "percent"), [(64, 1.0), (77, 0.2)])
def test_the_share_of_didemos_texts_that_is_cut(limit: int, percent: float) -> None:
    """As counted elsewhere, with another implementation of CLIP's tokenizer."""
    texts = didemo._paragraphs(
        DIDEMO / "test_data.json", didemo._listed(DIDEMO / "test_list.txt", "utf-8"), exact=True, encoding="utf-8"
    )
    records = [Record(name, "", (text,), "test") for name, text in texts.items()]
    cut, tokens = _captions_cut(records, load_experiment({"text_prompt": {"length": 77 - limit}}))
    assert tokens == limit and round(100 * sum(cut) / len(records), 1) == percent
