"""A place is a path or a URI: names are joined to it, and it is opened, whatever it ends in."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from pyarrow import fs

from pipelines.throughput.far import far_away
from vop.places import PlaceError, absolute, amount, file_infos, is_remote, join, listed, local_copy, located, told


@pytest.mark.parametrize(
    ("place", "names", "joined"),
    [
        ("/a/b", ["c"], "/a/b/c"),
        ("/a/b/", ["c", "d"], "/a/b/c/d"),
        ("/a/why?x=1", ["c"], "/a/why?x=1/c"),  # a path may hold a question mark
        ("s3://bucket/b/", ["c"], "s3://bucket/b/c"),
        ("s3://bucket/b?region=eu-west-1", ["c", "d"], "s3://bucket/b/c/d?region=eu-west-1"),
        ("s3://bucket/b/?region=eu&scheme=http", ["c"], "s3://bucket/b/c?region=eu&scheme=http"),
        ("s3://bucket/what?/b", ["c"], "s3://bucket/what?/b/c"),
    ],
)
def test_names_are_joined_before_the_query(place: str, names: list[str], joined: str) -> None:
    assert join(place, *names) == joined


def test_an_absolute_place_means_the_same_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert absolute("a/../b") == str(tmp_path / "b") and absolute("~/c") == str(tmp_path / "home" / "c")
    assert absolute("s3://bucket/b/?region=eu") == "s3://bucket/b?region=eu"
    assert absolute("gs://bucket/b//") == "gs://bucket/b"
    assert is_remote("s3://bucket") and not is_remote("/a:b/c")


@pytest.mark.parametrize("name", ["a b.mp4", "100% #1.mp4", "what?.mp4"])
def test_a_file_is_found_by_path_and_by_uri(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"frames")
    for place in (f"{tmp_path}/{name}", f"file://{tmp_path}/{name}"):
        filesystem, inside = located(place)
        assert isinstance(filesystem, fs.LocalFileSystem)
        assert filesystem.open_input_file(inside).read() == b"frames"
        with local_copy(place) as path:
            assert path == str(tmp_path / name), "a file of this machine is not copied"
    assert located(f"file://{tmp_path}/")[1].rstrip("/") == str(tmp_path)
    assert located("file:///")[1] == "/"


def test_an_unknown_filesystem_is_named() -> None:
    with pytest.raises(PlaceError, match=r"gopher://x.*valid: a path, or a URI"):
        located("gopher://x/y")


def test_files_are_listed_and_folders_are_not(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").touch()
    assert [info.base_name for info in listed(str(tmp_path))] == ["a"] == [i.base_name for i in listed(f"file://{tmp_path}")]
    assert listed(str(tmp_path / "nothing")) == []


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, r"no room, [\d.]+ \w+ are free there: free some"),
        (errno.EDQUOT, "no room"),
        (errno.EACCES, "no permission"),
        (errno.EROFS, "can only be read"),
        (errno.EMFILE, "too many open files"),
        (errno.EFBIG, "may not grow so large"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_what_the_system_says_is_one_sentence_with_the_place(tmp_path: Path, number: int, words: str) -> None:
    with pytest.raises(PlaceError, match=f"^{tmp_path}/x: .*{words}") as caught, told(f"{tmp_path}/x"):
        raise OSError(number, os.strerror(number))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1234, "1.23 kB"), (1.8e6, "1.8 MB"), (2e10, "20 GB"), (5e13, "50 TB")],
)
def test_amounts_are_readable(size: float, text: str) -> None:
    assert amount(size) == text


def test_a_remote_folder_is_listed_and_its_files_are_not_asked_for_one_by_one(tmp_path: Path) -> None:
    names = [f"{number}.mp4" for number in range(20)]
    (tmp_path / "videos").mkdir()
    (tmp_path / "alone").mkdir()
    for name in names[1:]:
        (tmp_path / "videos" / name).write_text(name)
    (tmp_path / "alone" / "a.mp4").touch()
    with far_away(tmp_path) as far:
        infos = file_infos([f"far://videos/{name}" for name in names] + ["far://alone/a.mp4"])
        assert far.requests == 2
        single = [file_infos([f"far://videos/{name}"])[0] for name in names]
    told = [[(info.path, info.type, info.mtime_ns) for info in found] for found in (infos[:-1], single)]
    assert told[0] == told[1] and not infos[0].is_file
    assert [info.size for info in infos[1:]] == [*map(len, names[1:]), 0]
    assert file_infos([str(tmp_path / "videos" / name) for name in names])[1].size == len(names[1])
