"""Decoding into the frame store: every video is stored or listed by cause, and nothing is decoded twice."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipelines.data.prepare import FailedVideosError, prepare
from pipelines.data.reader import stream
from pipelines.data.store import StoreError, opened, read_manifest, read_videos
from pipelines.data.streaming import stream_decoded, training_batches
from pipelines.data.tasks import find_tasks
from pipelines.train.order import epoch_batches, share
from tests.support.recipe import recipe
from vop.video.frames import read_frames

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
    shutil.copyfile(folder / "clip 5.mp4", folder / "clip 4.mp4")
    done = prepare(experiment, SIZE)
    assert done.decoded == 1
    pixels, _ = read_videos(done.folder, ["clip 4.mp4", "clip 5.mp4"])
    np.testing.assert_array_equal(pixels[0], pixels[1])


def test_other_frames_are_another_store(videos: Path, tmp_path: Path) -> None:
    first, second = (prepare(recipe(videos, tmp_path, f"frames.count={n}"), SIZE) for n in (4, 5))
    assert first.folder != second.folder and second.decoded == 12


def test_bad_files_are_listed_by_name_and_reason(videos: Path, tmp_path: Path) -> None:
    folder = bad_copy(videos, tmp_path / "videos")
    experiment = recipe(folder, tmp_path, "data.max_failed_fraction=0.5")
    done = prepare(experiment, SIZE)
    reasons = {row["video_id"]: row["error_kind"] for row in done.failed}
    assert reasons.keys() == {f"clip {n}.mp4" for n in range(5)}
    assert reasons["clip 0.mp4"] == "empty"
    assert reasons["clip 2.mp4"] == "not-a-video"
    assert reasons["clip 3.mp4"] == "no-video-stream"
    assert reasons["clip 4.mp4"] == "missing"
    assert all(row["video_id"] in row["error"] for row in done.failed)
    assert len(read_manifest(done.folder)) == 7
    assert find_tasks(experiment, SIZE).status["ok"].to_pylist().count(True) == 7


def test_too_many_bad_files_stop_before_training(videos: Path, tmp_path: Path) -> None:
    folder = bad_copy(videos, tmp_path / "videos")
    with pytest.raises(FailedVideosError, match=r"5 of 12 videos(?s:.*)clip 4\.mp4: missing(?s:.*)max_failed_fraction=0.1"):
        prepare(recipe(folder, tmp_path, "data.max_failed_fraction=0.1"), SIZE)


def test_unreadable_videos_are_listed_in_a_file_until_they_are_mended(videos: Path, tmp_path: Path) -> None:
    folder = bad_copy(videos, tmp_path / "videos")
    experiment = recipe(
        folder, tmp_path, "data.max_failed_fraction=0.5", f"data.cache=file://{tmp_path}/else where".replace(" ", "%20")
    )
    done = prepare(experiment, SIZE)
    assert done.report == f"{done.folder}/failed.csv" and done.folder.startswith("file://")
    written = tmp_path / "else where" / "frames" / Path(done.folder).name
    with (written / "failed.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["video_id"]: row for row in csv.DictReader(file)}
    assert list(next(iter(rows.values()))) == ["video_id", "path", "decoder", "error_kind", "error"]
    assert rows.keys() == {f"clip {n}.mp4" for n in range(5)} and rows["clip 0.mp4"]["error_kind"] == "empty"
    for n in range(5):
        shutil.copyfile(videos / f"clip {n}.mp4", folder / f"clip {n}.mp4")
    done = prepare(experiment, SIZE)
    assert (done.decoded, done.failed, done.report) == (5, [], "")
    assert not (written / "failed.csv").exists()
    pixels, _ = read_videos(done.folder, [record.video_id for record in read_manifest(done.folder)])
    assert pixels.shape == (12, 4, SIZE, SIZE, 3)


def test_training_without_a_store_gets_the_same_batches(videos: Path, tmp_path: Path) -> None:
    """Only the frames of validation and test are stored, and all bad files are known beforehand."""
    folder = bad_copy(videos, tmp_path / "videos")
    stored, streamed = (
        recipe(folder, tmp_path, "data.max_failed_fraction=0.5", f"data.store={store}") for store in ("true", "false")
    )
    done, other = prepare(stored, SIZE), prepare(streamed, SIZE)
    assert other.failed == done.failed and other.folder != done.folder
    assert prepare(streamed, SIZE).decoded == 0
    records = read_manifest(done.folder, "train")
    assert records == read_manifest(other.folder, "train") and len(records) == 1 + 0
    with pytest.raises(StoreError, match=r"no frames of clip 5\.mp4"):
        read_videos(other.folder, ["clip 5.mp4"])
    for split in ("val", "test"):
        ids = [record.video_id for record in read_manifest(other.folder, split)]
        np.testing.assert_array_equal(read_videos(done.folder, ids)[0], read_videos(other.folder, ids)[0])


def test_a_stream_of_decoded_videos_equals_one_from_the_store(videos: Path, tmp_path: Path) -> None:
    experiment = recipe(videos, tmp_path)
    folder = prepare(experiment, SIZE).folder
    records = read_manifest(folder, "train")
    steps = [b for epoch in range(2) for b in epoch_batches([len(r.captions) for r in records], 4, 0, epoch)]
    streamed = experiment.model_copy(update={"data": experiment.data.model_copy(update={"store": False})})
    for one, other in zip(*(training_batches(e, folder, records, steps, 5) for e in (experiment, streamed)), strict=True):
        assert (one.step, one.captions) == (other.step, other.captions)
        np.testing.assert_array_equal(one.video_B, other.video_B)
        np.testing.assert_array_equal(one.pixels_BFHWC, other.pixels_BFHWC)
        np.testing.assert_array_equal(one.mask_BF, other.mask_BF)


def test_a_video_that_vanishes_while_training_streams_is_named(videos: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(videos, tmp_path / "videos")
    store = prepare(recipe(folder, tmp_path, "data.store=false"), SIZE).folder
    records = read_manifest(store, "train")
    (folder / "clip 3.mp4").unlink()
    with pytest.raises(StoreError, match=r"clip 3\.mp4: no such file; it could be read when"):
        list(stream_decoded(opened(store).options, records, [[(0, 0), (3, 0)]]))


def test_random_frames_come_from_the_candidates_that_are_stored(videos: Path, tmp_path: Path) -> None:
    experiment = recipe(videos, tmp_path, "frames.sampling=random", "frames.candidates=2")
    folder = prepare(experiment, SIZE).folder
    records = read_manifest(folder, "train")
    every = {r.video_id: read_frames(r.path, 8, SIZE).pixels_FHWC for r in records}  # 8 = 4 segments of 2
    middle, mask = read_videos(folder, list(every))
    assert mask.all()
    for frames, all_frames in zip(middle, every.values(), strict=True):
        np.testing.assert_array_equal(frames, all_frames[::2])
    steps = [[(video, 0) for video in range(len(records))]] * 12
    batches = list(training_batches(experiment, folder, records, steps, first=3))
    chosen = np.asarray([[which(b.pixels_BFHWC[i], every[r.video_id]) for i, r in enumerate(records)] for b in batches])
    assert set(np.unique(chosen % 2)) == {0, 1} and len({tuple(step.ravel()) for step in chosen}) == 12
    (again,) = training_batches(experiment, folder, records, [steps[0][2:4]], first=8)  # another worker, after a restart
    np.testing.assert_array_equal(again.pixels_BFHWC, batches[5].pixels_BFHWC[2:4])


def which(frames: np.ndarray, candidates: np.ndarray) -> list[int]:
    """The place of each frame among the two candidates of its own segment (a clip may show one picture several times)."""
    found = [[k for k in (2 * i, 2 * i + 1) if np.array_equal(frame, candidates[k])] for i, frame in enumerate(frames)]
    assert all(found), "one of each segment"
    return [places[0] for places in found]


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
