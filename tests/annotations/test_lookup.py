"""Where the file of a video is found, also by names that are no plain text or the same to a person."""

from __future__ import annotations

import logging
import os
import unicodedata
from pathlib import Path

import pytest

from vop.benchmarks import BenchmarkError, Record, find_videos, stem_of
from vop.config import kind, load_experiment
from vop.places import as_text, is_remote, local_copy, located

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café.mp4") for form in ("NFC", "NFD"))


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


def records(name: str, folder: Path) -> list[Record]:
    config = load_experiment({"benchmark": {"name": name, "videos": str(folder)}}).benchmark
    found: list[Record] = kind("benchmark", name).records(config)
    return found


def test_a_name_that_is_no_text_is_a_place_that_is_text(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/100% caf\xe9 #1?.mp4")
    Path(path).write_bytes(b"frames")
    (found,) = records("gallery", tmp_path)
    assert found.video_id == "100% caf\\xe9 #1?.mp4" and found.path.encode() and not is_remote(found.path)
    filesystem, inside = located(found.path)
    assert filesystem.open_input_file(inside).read() == b"frames"
    with local_copy(found.path) as local:
        assert Path(local).read_bytes() == b"frames"
    assert as_text("/a/b c%20.mp4") == "/a/b c%20.mp4"


@pytest.mark.parametrize(("named", "there"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_unicode_forms_are_matched_and_told(tmp_path: Path, named: str, there: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / there).write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        assert find_videos(tmp_path, [named, named.removesuffix(".mp4")]) == {
            name: str(tmp_path / "deep" / there) for name in (named, named.removesuffix(".mp4"))
        }
    assert "another Unicode form" in caplog.text
    (tmp_path / "captions.csv").write_text(f"video,caption,split\ndeep/{named},x,train\nb.mp4,y,test\nc.mp4,z,val\n")
    assert records("folder", tmp_path)[0].path == str(tmp_path / "deep" / there)


def test_a_link_to_a_training_video_is_no_test_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "b.mp4").symlink_to(tmp_path / "a.mp4")
    (tmp_path / "captions.csv").write_text("video,caption,split\na.mp4,x,train\nb.mp4,y,test\nc.mp4,z,val\n")
    with pytest.raises(BenchmarkError, match=r"a\.mp4 \(train\) and b\.mp4 \(test\) are the same file"):
        records("folder", tmp_path)
