"""An index grows: what is new is appended, what is known is kept by its content, a kill loses what no part holds."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.search import fill, windows
from pipelines.search.build import Indexed, index
from tests.support.long import CLIPS, stream_here, write_long
from vop.benchmarks import BenchmarkError
from vop.errors import VopError
from vop.index.search import Index
from vop.index.table import VideoIndexError, read_numbers, read_table
from vop.video.windows import WindowRule, Windows, read_windows
from vop.whole import Partial

TEXT = "a golden box"
STREAM = windows.stream  # by Ray's tasks
HOSTILE = ["plain.mp4", "two\nlines.mp4", "[bold]red.mp4", "犬 é.mp4", os.fsdecode(b"caf\xe9.mp4"), "'; --to.mp4"]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Decoding in this process; the paths that were decoded."""
    decoded: list[str] = []

    def stream(paths: Sequence[str], rule: WindowRule) -> Generator[tuple[str, Windows | windows.End]]:
        decoded.extend(paths)
        yield from stream_here(paths, rule)

    monkeypatch.setattr(windows, "stream", stream)
    return decoded


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four videos of 6 to 24 seconds."""
    folder = tmp_path_factory.mktemp("originals")
    return [write_long(folder / f"{n}.mp4", CLIPS[n : n + 1 + n], seconds=6) for n in range(4)]


@pytest.fixture
def videos(originals: list[Path], tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    (folder / "below").mkdir(parents=True)
    for place, path in enumerate(originals[:3]):
        shutil.copy(path, folder / ("below" if place == 1 else "") / path.name)
    return folder


def grown(videos: Path, name: str = "index", **how: float | str) -> Indexed:
    return index(str(videos), str(videos.parent / name), overrides=["frames.count=4"], **how)  # type: ignore[arg-type]


def begun(videos: Path, name: str = "index") -> Indexed:
    return grown(videos, name, model="ViT-toy", window=4, stride=2)


def held(folder: Path) -> dict[str, tuple[list[float], np.ndarray]]:
    """{path: times and numbers} of all that an index holds."""
    table = read_table(str(folder))
    numbers = read_numbers(table, "vectors", table.found)
    return {
        file.path: (table.held[content].start_N.tolist(), numbers[content])
        for content, files in table.found.items()
        for file in files
    }


def test_what_is_new_is_appended_and_nothing_is_written_again(
    videos: Path, originals: list[Path], here: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written, write = [], Partial.write
    monkeypatch.setattr(Partial, "write", lambda self, data: written.append(len(memoryview(data))) or write(self, data))
    first = begun(videos)
    assert (first.videos, first.windows, first.embedded) == (3, 2 + 5 + 8, 3)
    parts = {path: path.read_bytes() for path in (videos.parent / "index/parts").iterdir()}
    shutil.copy(originals[3], videos / "new.mp4")
    here.clear()
    second = grown(videos)
    assert here == [str(videos / "new.mp4")] and (second.videos, second.embedded, second.kept) == (4, 1, 0)
    assert all(path.read_bytes() == content for path, content in parts.items())
    size = sum(path.stat().st_size for path in (videos.parent / "index").rglob("*") if path.is_file())
    assert sum(written) <= 1.2 * size


def test_what_lacks_nothing_is_only_read(videos: Path, here: list[str]) -> None:
    begun(videos)
    before = {path: path.stat().st_mtime_ns for path in (videos.parent / "index").rglob("*") if path.is_file()}
    here.clear()
    again = grown(videos)
    assert not here and (again.embedded, again.kept, again.gone, again.videos) == (0, 0, 0, 3)
    assert before == {path: path.stat().st_mtime_ns for path in (videos.parent / "index").rglob("*") if path.is_file()}


def test_a_renamed_or_touched_file_is_found_by_its_content(videos: Path, here: list[str]) -> None:
    begun(videos)
    before = held(videos.parent / "index")
    os.rename(videos / "0.mp4", videos / "below/renamed.mp4")
    os.utime(videos / "2.mp4", (1, 1))
    here.clear()
    found = grown(videos)
    assert not here and (found.kept, found.gone, found.videos) == (2, 1, 3)
    after = held(videos.parent / "index")
    assert after.keys() == {str(videos / name) for name in ("below/renamed.mp4", "below/1.mp4", "2.mp4")}
    np.testing.assert_array_equal(after[str(videos / "below/renamed.mp4")][1], before[str(videos / "0.mp4")][1])


def test_a_folder_that_moved_is_found_by_its_content(videos: Path, here: list[str]) -> None:
    begun(videos)
    moved = videos.rename(videos.parent / "moved")
    here.clear()
    assert not here and grown(moved).kept == 3
    assert {Path(path).parent.name for path in held(moved.parent / "index")} == {"moved", "below"}
    assert all(path.startswith(str(moved)) for path in held(moved.parent / "index"))


def test_a_changed_file_is_embedded_again_and_a_removed_one_is_not_found(
    videos: Path, originals: list[Path], here: list[str]
) -> None:
    begun(videos)
    shutil.copy(originals[3], videos / "0.mp4")
    (videos / "2.mp4").unlink()
    here.clear()
    found = grown(videos)
    assert here == [str(videos / "0.mp4")] and (found.embedded, found.gone, found.videos) == (1, 1, 2)
    fresh = begun(videos, "fresh")
    assert fresh.windows == found.windows
    assert_same(held(videos.parent / "index"), held(videos.parent / "fresh"))


def assert_same(one: dict[str, tuple[list[float], np.ndarray]], other: dict[str, tuple[list[float], np.ndarray]]) -> None:
    """The same windows, and the same numbers but for the order in which they were computed."""
    assert one.keys() == other.keys()
    for path, (times, numbers) in one.items():
        assert times == other[path][0]
        np.testing.assert_allclose(numbers, other[path][1], atol=2e-3)


@pytest.mark.parametrize(("step", "count"), [*(("decode", n) for n in range(1, 7)), *(("write", n) for n in (1, 9, 25, 60))])
def test_killed_and_resumed_equals_undisturbed(videos: Path, step: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part after each video; the kill comes while one is decoded, or in the midst of writing."""
    monkeypatch.setattr(fill, "PART_SECONDS", 0)
    monkeypatch.setattr(fill, "TOGETHER", 1)
    begun(videos, "undisturbed")
    left, write = [count], Partial.write

    def killed() -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    def stream(paths: Sequence[str], rule: WindowRule) -> Generator[tuple[str, Windows | windows.End]]:
        for item in stream_here(paths, rule):
            killed()
            yield item

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if step == "decode":
            patch.setattr(windows, "stream", stream)
        else:
            patch.setattr(Partial, "write", lambda self, data: killed() or write(self, data))
        begun(videos)
    done = len(held(videos.parent / "index")) if (videos.parent / "index/index.json").exists() else 0
    (videos.parent / "index/parts").mkdir(exist_ok=True)
    (videos.parent / "index/parts/part.12345678.partial").write_bytes(b"of one that was killed with -9")
    assert begun(videos).embedded == 3 - done
    assert not list((videos.parent / "index").rglob("*.partial"))
    assert_same(held(videos.parent / "index"), held(videos.parent / "undisturbed"))


def test_an_unreadable_file_is_told_once_and_then_counted(
    videos: Path, here: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    (videos / "bad.mp4").write_bytes(b"no video at all")
    first = begun(videos)
    assert first.unreadable == 1 and first.videos == 3 and list(first.failed) == [str(videos / "bad.mp4")]
    assert sum("bad.mp4: not a video" in message for message in caplog.messages) == 1
    caplog.clear()
    here.clear()
    again = grown(videos)
    assert again.unreadable == 1 and not again.failed and not here and not caplog.messages
    assert Index.open(videos.parent / "index").unreadable.keys() == {str(videos / "bad.mp4")}
    (videos / "bad.mp4").unlink()
    assert grown(videos).unreadable == 0


def test_a_file_that_goes_away_while_it_is_read_is_not_taken(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: str, rule: WindowRule) -> Generator[Windows]:
        yield from read_windows(path, rule)
        os.unlink(path)

    monkeypatch.setattr(windows, "read_windows", read)
    found = begun(videos)
    assert found.videos == 0 and all("went away" in reason for reason in found.failed.values()) and len(found.failed) == 3


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_of_any_name(videos: Path, name: str, here: list[str]) -> None:
    os.rename(videos / "0.mp4", videos / name)
    assert begun(videos).videos == 3 and not grown(videos).embedded
    os.rename(videos / name, videos / "0.mp4")
    assert (grown(videos).gone, len(held(videos.parent / "index"))) == (1, 3)


def test_a_damaged_part_is_named_and_mended(
    videos: Path, here: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fill, "PART_SECONDS", 0)
    begun(videos)
    right = held(videos.parent / "index")
    part = sorted((videos.parent / "index/parts").iterdir())[1]
    content = bytearray(part.read_bytes())
    table = read_table(str(videos.parent / "index"))
    (lost,) = (content for content, where in table.held.items() if where.part == part.name)
    place = content.index(right[table.found[lost][0].path][1].tobytes()[:64])
    content[place] ^= 16
    part.write_bytes(content)
    found = Index.open(videos.parent / "index", device="cpu").search(TEXT, top=50)
    assert {hit.video for hit in found} == right.keys() - {table.found[lost][0].path}
    assert [part.name in message for message in caplog.messages if "is damaged" in message] == [True]
    caplog.clear()
    here.clear()
    assert grown(videos).embedded == 1 and here == [table.found[lost][0].path]
    numbers = sorted(path.name[5:11] for path in part.parent.iterdir())
    assert numbers == ["000000", "000001", "000002", "000003"], "no number is used twice"
    assert [part.name in message for message in caplog.messages if "is damaged" in message] == [True]
    assert_same(held(videos.parent / "index"), right)


def test_an_index_of_nothing_finds_nothing(videos: Path) -> None:
    begun(videos)
    for path in list(videos.rglob("*.mp4")):
        path.unlink()
    found = grown(videos)
    assert (found.gone, found.videos, found.windows) == (3, 0, 0)
    assert Index.open(videos.parent / "index", device="cpu").search(TEXT) == []


def test_several_folders_share_an_index(videos: Path, originals: list[Path], tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    shutil.copy(originals[3], tmp_path / "other/3.mp4")
    begun(videos)
    assert grown(tmp_path / "other").videos == 4
    assert grown(videos).gone == 0


def test_what_does_not_fit_is_refused_before_work(videos: Path, tmp_path: Path, here: list[str]) -> None:
    begun(videos)
    here.clear()
    (tmp_path / "empty").mkdir()
    refused: list[tuple[dict[str, float | str], type[VopError], str]] = [
        ({"window": 3}, VideoIndexError, "--window: .* has 4 s, not 3"),
        ({"stride": 1}, VideoIndexError, "--stride: .* has 2 s, not 1"),
        ({"model": "ViT-toy/random"}, VideoIndexError, "was made with another model"),
        ({"window": 0}, VopError, "--window: 0 s; valid"),
        ({"window": 2, "stride": 3}, VopError, "leave gaps"),
        ({"name": "videos"}, VideoIndexError, "is a folder of something else"),
    ]
    for how, kind, words in refused:
        with pytest.raises(kind, match=words):
            grown(videos, **how)  # type: ignore[arg-type]
    shutil.copy(videos / "0.mp4", videos / "new.mp4")
    (videos / "new.mp4").open("ab").write(b"\0")
    with pytest.raises(VideoIndexError, match="was made with another model: leave out frames"):
        index(str(videos), str(tmp_path / "index"), overrides=["frames.count=5"])
    with pytest.raises(BenchmarkError, match="no file below"):
        grown(tmp_path / "empty")
    (tmp_path / "index/index.json").write_text('{"format": 7}')
    with pytest.raises(VideoIndexError, match="format 7, this version reads 1"):
        grown(videos)
    assert not here


def test_the_tiny_clip_says_what_it_is(videos: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        begun(videos)
    assert any("ViT-toy is the tiny CLIP" in message for message in caplog.messages)


def test_tasks_of_ray_give_the_same_index(
    videos: Path, originals: list[Path], ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(videos)
    (videos / "bad.mp4").write_bytes(b"no video at all")
    grown(videos)
    monkeypatch.setattr(windows, "stream", STREAM)
    how = ["--model", "ViT-toy", "--window", "4", "--stride", "2", "frames.count=4"]
    done = CliRunner().invoke(app, ["index", str(videos), "--to", str(videos.parent / "other"), *how])
    assert done.exit_code == 0, done.output
    assert "3 videos embedded" in done.stdout
    assert "3 videos, 15 windows, 1 files cannot be read, 1 of them found now" in done.stdout
    assert_same(held(videos.parent / "index"), held(videos.parent / "other"))
