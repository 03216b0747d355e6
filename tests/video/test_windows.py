"""Windows of long videos: they cover it, their frames are the right ones, each is decoded once, and memory is bounded."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tests.support.videos import number, rewrap, write
from vop.video import decode
from vop.video.frames import FrameError, probe, read_frames
from vop.video.windows import WindowRule, Windows, read_windows

RULE = WindowRule(length=2, stride=1, count=4, size=64)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8.2 seconds of numbered pictures, 10 a second, a key frame each 1.5 s."""
    return write(tmp_path_factory.mktemp("long") / "long.mp4", 82, rate=10, options={"g": "15"})


def numbers(windows: list[Windows]) -> list[list[int]]:
    return [[number(frame) for frame in frames] for part in windows for frames in part.frames()]


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (1.5, [(0, 1.5)]),
        (2.0, [(0, 2)]),
        (2.5, [(0, 2), (1, 2.5)]),
        (3.0, [(0, 2), (1, 3)]),
        (4.2, [(0, 2), (1, 3), (2, 4), (3, 4.2)]),
    ],
)
def test_windows_cover_a_video(duration: float, expected: list[tuple[float, float]]) -> None:
    assert RULE.spans(duration) == expected


def test_frames_are_evenly_spread_in_each_window(long: Path) -> None:
    windows = list(read_windows(str(long), RULE, at_once=3))
    assert [len(part) for part in windows] == [3, 3, 2]
    assert [start for part in windows for start in part.start_W] == [*range(8)][:8]
    expected = [[10 * n + k for k in (2, 7, 12, 17)] for n in range(7)]
    assert numbers(windows)[:7] == expected
    assert numbers(windows)[7] == [71, 74, 77, 80], "the last one ends with the video"


def test_a_file_no_longer_than_a_window_is_one_and_as_read_frames_reads_it(long: Path) -> None:
    for sampling in ("uniform", "fps"):
        (part,) = read_windows(str(long), WindowRule(9, 5, 4, 64, sampling, fps=0.5))
        expected = read_frames(long, 4, 64, sampling, fps=0.5)
        np.testing.assert_array_equal(part.frames()[0], expected.pixels_FHWC)
        np.testing.assert_array_equal(part.mask_WF[0], expected.mask_F)
    (part,) = read_windows(str(long), WindowRule(9, 5, 4, 64, drawn=12))
    candidates = read_frames(long, 12, 64)
    np.testing.assert_array_equal(part.frames()[0], candidates.pixels_FHWC[[1, 4, 7, 10]])


@pytest.mark.parametrize("stride", [2, 1, 0.25])
def test_a_file_is_decoded_once_whatever_the_windows(long: Path, stride: float, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, resized = [], []
    real_open, real_resize = decode.open_video, decode.resized_square
    monkeypatch.setattr("vop.video.windows.open_video", lambda *a, **k: opened.append(a) or real_open(*a, **k))
    monkeypatch.setattr(decode, "open_video", lambda *a: opened.append(a) or real_open(*a))
    monkeypatch.setattr(decode, "resized_square", lambda frame, *a: resized.append(frame.pts) or real_resize(frame, *a))
    rule = WindowRule(2, stride, 4, 64)
    windows = list(read_windows(str(long), rule, at_once=2))
    assert len(opened) == 1 and len(resized) == len(set(resized))
    assert sum(map(len, windows)) == len(rule.spans(8.2))


@pytest.mark.usefixtures("slow")
def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    peaks = []
    for count in (200, 800):
        path = write(tmp_path / f"{count}.mp4", count, rate=10, options={"g": "10"})
        tracemalloc.start()
        for _ in read_windows(str(path), RULE, at_once=4):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


def test_a_file_in_which_seeking_is_not_exact_gives_the_same_windows(long: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "long.avi", 82, rate=10, codec="mpeg4", options={"g": "15"})
    assert probe(other).why
    assert numbers(list(read_windows(str(other), RULE, at_once=3))) == numbers(list(read_windows(str(long), RULE)))


def test_where_seeking_goes_wrong_midway_decoding_goes_on_from_the_start(long: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right, groups = numbers(list(read_windows(str(long), RULE))), decode._groups

    def fails_at_the_third(*arguments: object) -> object:
        for place, group in enumerate(groups(*arguments)):  # type: ignore[arg-type]
            yield group if place < 2 else None

    monkeypatch.setattr(decode, "_groups", fails_at_the_third)
    assert numbers(list(read_windows(str(long), RULE, at_once=2))) == right


def test_a_cut_file_gives_the_windows_that_it_holds(long: Path, tmp_path: Path) -> None:
    whole = rewrap(long, tmp_path / "whole.mkv").read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    windows = list(read_windows(str(cut), RULE))
    assert 3 <= sum(map(len, windows)) < 8 and numbers(windows)[0] == [2, 7, 12, 17]


def test_a_window_in_which_no_frame_begins_has_the_one_on_screen(tmp_path: Path) -> None:
    path = write(tmp_path / "still.mp4", 3, stamps=[0, 500, 9000], options={"g": "1"})
    found = numbers(list(read_windows(str(path), RULE)))
    assert found[0] == [0, 1, 1, 1] and found[4] == [1] * 4


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    path = tmp_path / "no video.mp4"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(FrameError, match=r"no video\.mp4: not a video"):
        list(read_windows(str(path), RULE))
    with pytest.raises(FrameError, match="no such file"):
        list(read_windows(str(tmp_path / "missing.mp4"), RULE))
