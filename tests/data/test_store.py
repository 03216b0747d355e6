"""The frame store's format: codecs, shards on any filesystem, random draws. No Ray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.data import shards
from pipelines.data.decode import write_shard
from pipelines.data.lists import index_records
from pipelines.data.options import store_options
from pipelines.data.prepare import prepare
from pipelines.data.reader import stream
from pipelines.data.status import read_status
from pipelines.data.store import MANIFEST_SCHEMA, Draw, StoreError, manifest, read_manifest, read_videos
from pipelines.data.tasks import content_key, tasks_of
from pipelines.throughput.far import far_away
from tests.support.recipe import recipe
from vop.benchmarks import Record
from vop.benchmarks import folder as folder_benchmark
from vop.places import PlaceError, located
from vop.video.frames import read_frames

SIZE = 64


def written(folder: str, records: list[Record], *overrides: str) -> None:
    """What `prepare` does, in this process."""
    options = store_options(recipe(Path(), Path(), *overrides), SIZE)
    filesystem, inside = located(folder)
    filesystem.create_dir(f"{inside}/frames", recursive=True)
    keys = [content_key(record) for record in records]
    write_shard(tasks_of(records, keys, set(), True), folder, options)
    index_records(folder, records, keys, options)


@pytest.fixture()
def records(videos: Path) -> list[Record]:
    return folder_benchmark.records(folder_benchmark.Config(name="folder", videos=str(videos)))[:4]


@pytest.mark.parametrize(("codec", "error"), [("raw", 0), ("lz4", 0), ("zstd", 0), ("jpeg", 4)])
def test_frames_come_back_from_every_codec(
    records: list[Record], tmp_path: Path, codec: str, error: float, caplog: pytest.LogCaptureFixture
) -> None:
    written(str(tmp_path), records, f"data.codec={codec}")
    pixels, mask = read_videos(str(tmp_path), [r.video_id for r in records])
    assert pixels.dtype == np.uint8 and mask.all() and not caplog.messages
    difference = np.abs(pixels.astype(float) - np.stack([read_frames(r.path, 4, SIZE).pixels_FHWC for r in records]))
    assert difference.mean() <= error and (codec != "jpeg" or difference.mean() > 0)


def test_a_short_clip_is_stored_once_and_padded_when_read(records: list[Record], tmp_path: Path) -> None:
    total = read_frames(records[0].path, 100, SIZE)
    short = int(total.mask_F.sum())
    written(str(tmp_path), records, "frames.count=20", "data.codec=jpeg")
    pixels, mask = read_videos(str(tmp_path), [records[0].video_id])
    assert mask[0].tolist() == [k < short for k in range(20)]
    assert (pixels[0, short:] == pixels[0, short - 1]).all()


def test_windows_of_one_file_are_videos_of_their_own(records: list[Record], tmp_path: Path) -> None:
    path, windows = records[0].path, [(0.0, 0.3), (0.5, 1.0), None]
    clips = [Record(f"part {k}", path, ("a",), "train", window=window) for k, window in enumerate(windows)]
    written(str(tmp_path), clips)
    assert read_manifest(str(tmp_path)) == clips
    pixels, mask = read_videos(str(tmp_path), [clip.video_id for clip in clips])
    for clip, frames, there in zip(clips, pixels, mask, strict=True):
        expected = read_frames(path, 4, SIZE, window=clip.window)
        np.testing.assert_array_equal(frames, expected.pixels_FHWC)
        np.testing.assert_array_equal(there, expected.mask_F)


def test_videos_and_store_on_another_filesystem(records: list[Record], tmp_path: Path) -> None:
    with far_away(tmp_path):
        (tmp_path / "videos").mkdir()
        for record in records[1:]:
            (tmp_path / "videos" / record.video_id).write_bytes(Path(record.path).read_bytes())
        remote = [Record(r.video_id, f"far://videos/{r.video_id}", r.captions, r.split) for r in records]
        written("far://stores/one", remote)
        assert read_manifest("far://stores/one") == remote[1:]
        pixels, _ = read_videos("far://stores/one", [r.video_id for r in records[1:]])
        np.testing.assert_array_equal(pixels[2], read_frames(records[3].path, 4, SIZE).pixels_FHWC)
        status = read_status("far://stores/one", store_options(recipe(Path(), Path()), SIZE))
        (failed,) = [row for row in status.table.to_pylist() if not row["ok"]]
        assert not status.faults
        assert failed["error_kind"] == "missing" and failed["error"] == f"{remote[0].path}: no such file"
        assert len(shards.versions("far://stores/one")) == 1 and (tmp_path / "stores" / "one" / "manifest.parquet").exists()
        before = content_key(remote[1])
        (tmp_path / "videos" / records[1].video_id).write_bytes(b"changed")
        assert content_key(remote[1]) != before


def test_a_place_that_pyarrow_does_not_know_is_named(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(PlaceError, match=r"gopher://x.*s3://, gs://"):
        prepare(recipe(videos, tmp_path, "data.cache=gopher://x/y"), SIZE)
    with pytest.raises(StoreError, match="run vop prepare"):
        read_videos(str(tmp_path), ["a"])


def test_draws_depend_on_seed_step_and_video_alone() -> None:
    numbers = [Draw(seed, step).number(video) for seed in (0, 1) for step in (0, 1) for video in ("a", "b")]
    assert len(set(numbers)) == 8 and Draw(1, 0).number("b") == numbers[5]


def test_captions_of_frames_are_kept_and_a_store_without_them_is_as_before(records: list[Record], tmp_path: Path) -> None:
    written(str(tmp_path), records)
    assert manifest(str(tmp_path)).schema.names == MANIFEST_SCHEMA.names and read_manifest(str(tmp_path)) == records
    told = [replace(records[0], frame_captions=(("a dog", "it runs"),)), *records[1:]]
    written(str(tmp_path), told)
    assert read_manifest(str(tmp_path)) == told
    batch = next(stream(str(tmp_path), read_manifest(str(tmp_path)), [[(0, 0)]]))
    assert batch.frame_captions == [("a dog", "it runs")] == batch.part(0, 1).frame_captions
