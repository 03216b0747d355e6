"""What the measurements of the data engine stand on: the peers' readers read what they should, the clips are as said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.data import local
from pipelines.throughput import readers, remote
from pipelines.throughput.clips import BAD, frame_a_second, seek_each_frame, write_clip, write_dataset
from vop.video.frames import FrameError, probe, read_frames


@pytest.mark.usefixtures("slow")
def test_what_was_before_and_decord_read_the_frames_that_we_read(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "clip.mp4", 0, 12, size=(320, 180), frames=90)
    dropped = readers._repeated(whole, tmp_path / "dropped.mp4")
    assert probe(dropped).frames == readers.MINUTES * 60 * 30 - 1
    for path in (str(whole), str(dropped)):
        assert (readers.read_before(path, 12, 224, decord=False) == read_frames(path, 12, 224).pixels_FHWC).all()
    found = readers.compare({"a clip": str(whole)}, 1)
    lines = readers.rows(found)
    assert len(lines) == 2 and "before" in lines[0][1] and (found["a clip"][readers.PYAV_BEFORE] or 0) > 0
    slower = readers.rows({"a clip": {readers.BEFORE: 0.5, "decord": 1.1}})
    assert [line[3] for line in slower] == [False, True], "behind decord, ahead of what was before"


def test_peers_read_the_frames_that_we_read(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    path = str(write_clip(tmp_path / "clip.mp4", 0, 12, size=(320, 180), frames=90))
    for reader, sampling in ((seek_each_frame, "uniform"), (frame_a_second, "fps")):
        theirs = reader(path, 3, 112).permute(0, 2, 3, 1).numpy() * 255
        ours = read_frames(path, 3, 112, sampling)
        assert np.abs(theirs - ours.pixels_FHWC).mean() < 4
        others = read_frames(path, 3, 112, sampling, window=(0.5, 3.0))
        assert np.abs(theirs - others.pixels_FHWC).mean() > 8, "other frames differ by more than that"


def test_a_dataset_has_unlike_files_and_says_which_are_bad(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "clip.mp4", 0, 12, size=(96, 72), frames=8)
    causes = write_dataset(tmp_path / "set", [source], 100, bad=0.1)
    assert causes == {"empty": 3, "truncated": 3, "not-a-video": 2, "no-video-stream": 2} and set(causes) == set(BAD)
    found: dict[str, int] = {}
    contents = set()
    for path in (tmp_path / "set").glob("*.mp4"):
        try:
            assert probe(path).frames == 8
            contents.add(path.read_bytes())
        except FrameError as error:
            found[error.kind] = found.get(error.kind, 0) + 1
    assert found == causes and len(contents) == 90


@pytest.mark.usefixtures("slow")
def test_a_store_far_away_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"READERS": (1, 4), "CLIPS": 16, "PAIRS": 4, "STEPS": 3, "SIZE": 64}.items():
        monkeypatch.setattr(remote, name, value)
    monkeypatch.setattr(local, "_NEAR", {})
    rows = remote.measure(5, [3, 9])
    assert [row.met for row in rows[:3]] == [None, None, True]
    ways = ("1 readers", "4 readers", "4 readers, data.local_gb")
    assert [row.what for row in rows[3:]] == [f"{codec}, {way}" for codec in ("raw", "jpeg") for way in ways]
