"""On object storage each request is a round trip: how many there are before the first batch, and what comes at once. No Ray."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.data import local, shards
from pipelines.data.decode import write_shard
from pipelines.data.options import StoreOptions
from pipelines.data.prepare import prepare
from pipelines.data.reader import stream
from pipelines.data.store import read_manifest, read_videos
from pipelines.throughput.far import Far, far_away
from pipelines.train.plan import check
from tests.support.recipe import recipe
from vop.config import Experiment

SIZE = 64
PAIRS = [(0, 0), (1, 0)]  # of a batch


def a_shard_each(tasks: pa.Table, folder: str, options: StoreOptions) -> None:
    """In place of `decode`."""
    for start in range(len(tasks)):
        write_shard(tasks.slice(start, 1), folder, options)


def stored(videos: Path, work: Path, copies: int, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """An experiment whose videos and frames are far away: so many videos, a shard each."""
    (work / "videos").mkdir(parents=True)
    for number in range(copies):
        shutil.copyfile(videos / "clip 0.mp4", work / "videos" / f"{number}.mp4")
    rows = [f"{number}.mp4,caption {number},{('train', 'val', 'test')[number % 3]}" for number in range(copies)]
    (work / "videos" / "captions.csv").write_text("\n".join(["video,caption,split", *rows]))
    monkeypatch.setattr("pipelines.data.decode.decode", a_shard_each)
    overrides = ("frames.count=1", "benchmark.shared_videos=allow", "data.cache=far://cache")
    return recipe(work / "videos", work, *overrides)


def requests(experiment: Experiment, far: Far) -> int:
    """What a training asks for before its first step."""
    far.requests = 0
    _, tasks = check(experiment)
    done = prepare(experiment, SIZE, tasks)
    assert done.decoded == 0
    train = read_manifest(done.folder, "train")
    next(iter(stream(done.folder, train, [PAIRS], ahead=1)))
    return far.requests


@pytest.mark.usefixtures("slow")
def test_a_training_on_a_ready_store_asks_little_at_any_number_of_shards(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {}
    for copies in (10, 100):
        with far_away(tmp_path / str(copies)) as far:
            experiment = stored(videos, tmp_path / str(copies), copies, monkeypatch)
            assert prepare(experiment, SIZE).decoded == copies
            counts[copies] = requests(experiment, far)
    assert counts[10] == counts[100] < 40, counts


@pytest.mark.usefixtures("slow")
def test_videos_are_read_at_once_and_come_in_order(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with far_away(tmp_path) as far:
        done = prepare(stored(videos, tmp_path, 48, monkeypatch), SIZE)
        train = read_manifest(done.folder, "train")
        steps, seconds, batches = [[(video, 0) for video in range(16)]] * 3, {}, {}
        for readers in (1, 8):
            shards._known.cache_clear()
            shards._file.cache_clear()
            shards._SEEN.clear()
            far.requests, far.most, far.seconds = 0, 0, 0.02
            started = time.monotonic()
            batches[readers] = list(stream(done.folder, train, steps, readers=readers))
            seconds[readers], far.seconds = time.monotonic() - started, 0
            assert far.most == readers
            assert far.requests <= 3 * 16 + 2 * 16 + 1, "of a shard its size and footer once, then a request a video"
    assert seconds[1] > 3 * seconds[8]
    for one, other in zip(batches[1], batches[8], strict=True):
        assert one.captions == other.captions == [record.captions[0] for record in train[:16]]
        np.testing.assert_array_equal(one.pixels_BFHWC, other.pixels_BFHWC)


def test_shards_are_fetched_once_and_read_on_this_nodes_disk(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(local, "ROOT", str(tmp_path / "near"))
    monkeypatch.setattr(local, "_NEAR", {})
    with far_away(tmp_path) as far, caplog.at_level("INFO"):
        store = prepare(stored(videos, tmp_path, 6, monkeypatch), SIZE).folder
        ids = [record.video_id for record in read_manifest(store)]
        expected = read_videos(store, ids)

        def fetched(gigabytes: float) -> list[Path]:
            """The copies that there are when such a limit has been reached."""
            local.keep(store, gigabytes)
            local.wait()
            return sorted((tmp_path / "near").rglob("*.parquet"))

        assert fetched(0) == []
        size = sum(int(version.split()[0]) for version in shards.versions(store).values())
        assert fetched(0.6 * size / 1e9) == fetched(size / 1e9) and "no room for more" in caplog.text, "once a process"
        monkeypatch.setattr(local, "_NEAR", {})
        first, second, *rest = fetched(size / 1e9)
        assert len(rest) == 4
        first.write_bytes(first.read_bytes()[:-100])
        second.with_name("gone.parquet.partial").touch()
        far.requests = 0
        for found, of in zip(read_videos(store, ids), expected, strict=True):
            np.testing.assert_array_equal(found, of)
        assert far.requests < 6, "of one shard its size, its footer and its video, and the manifest's time"
        assert f"{first} is damaged" in caplog.text and not first.exists()
        monkeypatch.setattr(local, "_NEAR", {})
        assert fetched(size / 1e9) == [first, second, *rest]
        assert not list((tmp_path / "near").rglob("*.partial"))
