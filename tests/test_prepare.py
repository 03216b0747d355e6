"""Decoding into the frame store: every video is stored or listed by cause, and nothing is decoded twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import recipe

from pipelines.data import epoch_batches, share, stream
from pipelines.prepare import FailedVideosError, prepare
from pipelines.store import read_manifest, read_status, read_videos
from vop.frames import read_frames

pytestmark = pytest.mark.usefixtures("ray_cluster")
SIZE = 64


def bad_copy(videos: Path, folder: Path) -> Path:
    """The videos with five spoilt: empty, truncated, text, audio only (as far as it can be made), missing."""
    shutil.copytree(videos, folder)
    (folder / "clip 0.mp4").write_bytes(b"")
    whole = (folder / "clip 1.mp4").read_bytes()
    (folder / "clip 1.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "clip 2.mp4").write_text("not a video at all\n" * 100)
    write_sound(folder / "clip 3.mp4")
    (folder / "clip 4.mp4").unlink()
    return folder


def write_sound(path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        for _ in range(20):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_store_holds_the_decoded_frames(videos: Path, tmp_path: Path) -> None:
    experiment = recipe(videos, tmp_path)
    done = prepare(experiment, SIZE)
    assert (done.videos, done.decoded, done.failed) == (12, 12, [])
    for record in read_manifest(done.folder):
        frames = read_frames(record.path, 4, SIZE)
        pixels, mask = read_videos(done.folder, [record.video_id])
        np.testing.assert_array_equal(pixels[0], frames.pixels_FHWC)
        np.testing.assert_array_equal(mask[0], frames.mask_F)


def test_only_new_and_changed_videos_are_decoded(videos: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(videos, tmp_path / "videos")
    experiment = recipe(folder, tmp_path)
    assert prepare(experiment, SIZE).decoded == 12
    assert prepare(experiment, SIZE).decoded == 0
    shutil.copyfile(folder / "clip 5.mp4", folder / "clip 6.mp4")
    done = prepare(experiment, SIZE)
    assert done.decoded == 1
    pixels, _ = read_videos(done.folder, ["clip 5.mp4", "clip 6.mp4"])
    np.testing.assert_array_equal(pixels[0], pixels[1])


def test_other_frames_are_another_store(videos: Path, tmp_path: Path) -> None:
    first, second = (prepare(recipe(videos, tmp_path, f"frames.count={n}"), SIZE) for n in (4, 5))
    assert first.folder != second.folder and second.decoded == 12


def test_bad_files_are_listed_by_name_and_reason(videos: Path, tmp_path: Path) -> None:
    folder = bad_copy(videos, tmp_path / "videos")
    done = prepare(recipe(folder, tmp_path, "data.max_failed_fraction=0.5"), SIZE)
    reasons = {row["video_id"]: row["error_kind"] for row in done.failed}
    assert reasons.keys() == {f"clip {n}.mp4" for n in range(5)}
    assert reasons["clip 0.mp4"] == "empty"
    assert reasons["clip 2.mp4"] == "not-a-video"
    assert reasons["clip 3.mp4"] == "no-video-stream"
    assert reasons["clip 4.mp4"] == "missing"
    assert all(row["video_id"] in row["error"] for row in done.failed)
    assert len(read_manifest(done.folder)) == 7
    assert sum(read_status(done.folder)["ok"].to_pylist()) == 7


def test_too_many_bad_files_stop_before_training(videos: Path, tmp_path: Path) -> None:
    folder = bad_copy(videos, tmp_path / "videos")
    with pytest.raises(FailedVideosError, match=r"5 of 12 videos(?s:.*)clip 4\.mp4: missing(?s:.*)max_failed_fraction=0.1"):
        prepare(recipe(folder, tmp_path, "data.max_failed_fraction=0.1"), SIZE)


def test_stream_gives_each_step_its_pairs_in_order(videos: Path, tmp_path: Path) -> None:
    folder = prepare(recipe(videos, tmp_path), SIZE).folder
    records = read_manifest(folder, "train")
    steps = [b for epoch in range(3) for b in epoch_batches([len(r.captions) for r in records], 4, 0, epoch)]
    batches = list(stream(folder, records, steps, first=10))
    assert [batch.step for batch in batches] == list(range(10, 10 + len(steps)))
    for batch, pairs in zip(batches, steps, strict=True):
        assert [records[v].captions[c] for v, c in pairs] == batch.captions
        expected, mask = read_videos(folder, [records[v].video_id for v, _ in pairs])
        np.testing.assert_array_equal(batch.pixels_BFHWC, expected)
        np.testing.assert_array_equal(batch.mask_BF, mask)
    together: dict[int, list[str]] = {step: [] for step in range(len(steps))}
    for rank in (0, 1):  # a worker may have no pair in a short step
        for batch in stream(folder, records, [share(step, rank, 2) for step in steps]):
            together[batch.step] += batch.captions
    assert list(together.values()) == [batch.captions for batch in batches]
