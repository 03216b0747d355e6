"""Whatever happens to a shard is seen, named and mended; nothing wrong is ever read. No Ray."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.data import decode as decoding
from pipelines.data import prepare as preparing
from pipelines.data import shards
from pipelines.data.prepare import Prepared, mend, prepare
from pipelines.data.status import SHARDS, remembered, write_status
from pipelines.data.store import MANIFEST, StoreError, manifest, read_manifest, read_videos
from pipelines.data.tasks import find_tasks
from tests.support.recipe import recipe
from tests.support.stores import DAMAGE, decode_here
from vop.config import Experiment
from vop.places import PlaceError
from vop.whole import set_aside

SIZE = 64
Prepare = Callable[[Experiment], Prepared]


@pytest.fixture(scope="module")
def whole(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of twelve clips in four shards."""
    work = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.data.decode.decode", decode_here)
        prepare(recipe(videos, work), SIZE)
    return work


@pytest.fixture
def experiment(whole: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """An experiment with a copy of that store."""
    monkeypatch.setattr("pipelines.data.decode.decode", decode_here)
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    return recipe(videos, tmp_path)


def files(folder: str | Path) -> dict[str, tuple[int, str]]:
    """All files below a folder: time of modification and content."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths}


def frames_of(done: Prepared) -> np.ndarray:
    return read_videos(done.folder, [record.video_id for record in read_manifest(done.folder)])[0]


def test_a_store_that_lacks_nothing_is_only_read(experiment: Experiment) -> None:
    before = files(experiment.data.cache)
    assert prepare(experiment, SIZE).decoded == 0
    assert files(experiment.data.cache) == before


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("seed", [0, 1])
def test_damage_is_seen_by_who_reads_every_byte_and_mended(
    experiment: Experiment, whole: Path, videos: Path, kind: str, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    right = frames_of(prepare(recipe(videos, whole), SIZE))
    tasks, rng = find_tasks(experiment, SIZE), Random(seed)
    folder = Path(tasks.folder) / "frames"
    shard = rng.choice(sorted(folder.glob("*.parquet")))
    DAMAGE[kind](shard, rng)
    seen = find_tasks(experiment, SIZE)
    unseen = {name: shards.body_fault(tasks.folder, name) for name in set(shards.versions(tasks.folder)) - seen.faults.keys()}
    faults = seen.faults | {name: fault for name, fault in unseen.items() if fault}
    assert kind == "gone" or len(faults) == 1, faults
    for name in set(faults) - set(seen.faults):  # what only who reads every byte can see
        set_aside(shards.folder_of(tasks.folder), name)
    done = prepare(experiment, SIZE)
    assert done.decoded == (0 if kind == "twice" else 3)
    np.testing.assert_array_equal(frames_of(done), right)
    assert all(name in caplog.text for name in seen.faults)
    assert len(list(folder.glob("*.damaged"))) == len(faults) and not list(folder.glob("*.partial"))
    before = files(experiment.data.cache)
    assert prepare(experiment, SIZE).decoded == 0 and files(experiment.data.cache) == before, "and then it is whole"


@pytest.mark.parametrize("kind", sorted(set(DAMAGE) - {"twice"}))
def test_damage_after_prepare_is_never_read(
    experiment: Experiment, whole: Path, videos: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    right = frames_of(prepare(recipe(videos, whole), SIZE))
    folder = find_tasks(experiment, SIZE).folder
    done = Prepared(folder, 12, 0, [])
    for shard in sorted((Path(folder) / "frames").glob("*.parquet")):
        if kind != "another shard under its name" or shard != min((Path(folder) / "frames").glob("*.parquet")):
            DAMAGE[kind](shard, Random(0))
    for _ in range(2):
        np.testing.assert_array_equal(frames_of(done), right)
    for line in caplog.messages:
        assert " is damaged (" in line and "its videos are decoded from their files now" in line and "\n" not in line
    assert len(set(caplog.messages)) == len(caplog.messages) <= 4, "each shard is told of once"
    assert caplog.messages or kind in (
        "gone",
        "a bit of the magic at its beginning",
        "a bit of a page's header",
        "of other frames",
    )
    if caplog.messages:
        assert prepare(experiment, SIZE).decoded, "what was found is mended by the next command"


def test_what_was_set_aside_is_stored_again(
    experiment: Experiment, whole: Path, videos: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right, done = frames_of(prepare(recipe(videos, whole), SIZE)), prepare(experiment, SIZE)
    before = files(experiment.data.cache)
    mend(experiment, SIZE)
    assert files(experiment.data.cache) == before, "nothing was"
    for shard in sorted((Path(done.folder) / "frames").glob("*.parquet"))[:2]:
        DAMAGE["a bit of a page"](shard, Random(0))
    frames_of(done)
    with monkeypatch.context() as patch:
        patch.setattr(preparing, "check_room", lambda tasks: (_ for _ in ()).throw(PlaceError("no room")))
        mend(experiment, SIZE)
    assert caplog.messages[-1] == f"{done.folder} is not mended yet, the next vop prepare does it: no room"
    mend(experiment, SIZE)
    assert prepare(experiment, SIZE).decoded == 0 and len(list((Path(done.folder) / "frames").glob("*.damaged"))) == 2
    np.testing.assert_array_equal(frames_of(done), right)


@pytest.mark.parametrize("codec", ["lz4", "zstd", "jpeg"])
def test_every_codec_is_checked_and_decoded_again_to_the_same_frames(
    experiment: Experiment, videos: Path, tmp_path: Path, codec: str, caplog: pytest.LogCaptureFixture
) -> None:
    done = prepare(recipe(videos, tmp_path, f"data.codec={codec}"), SIZE)
    right = frames_of(done)
    assert not caplog.messages, "they are read, not decoded again"
    for shard in (Path(done.folder) / "frames").glob("*.parquet"):
        DAMAGE["a bit of a page"](shard, Random(1))
    np.testing.assert_array_equal(frames_of(done), right)
    assert len(caplog.messages) == 4


def test_damage_between_two_readings_in_one_process_is_seen(experiment: Experiment, whole: Path) -> None:
    done = prepare(experiment, SIZE)
    right = frames_of(done)
    for shard in (Path(done.folder) / "frames").glob("*.parquet"):
        with shard.open("r+b") as file:
            file.truncate(1000)  # under the map of the reader that has it open
    np.testing.assert_array_equal(frames_of(done), right)


def test_damage_of_a_video_that_cannot_be_decoded_again_is_one_sentence(experiment: Experiment, tmp_path: Path) -> None:
    folder = shutil.copytree(experiment.benchmark.videos, tmp_path / "videos")
    done = prepare(recipe(folder, tmp_path), SIZE)
    for shard in (Path(done.folder) / "frames").glob("*.parquet"):
        DAMAGE["zeros in the middle"](shard, Random(0))
        DAMAGE["its end is missing"](shard, Random(0))
    os.utime(folder / "clip 0.mp4", (1, 1))
    with pytest.raises(StoreError, match=r"frames/.*\.parquet is damaged \(.*clip 0\.mp4 is no longer .*: run vop prepare"):
        read_videos(done.folder, ["clip 0.mp4"])


def test_a_shard_of_before_has_no_checksums_and_is_read(experiment: Experiment) -> None:
    """As version 0.2 wrote them."""
    done = prepare(experiment, SIZE)
    right = frames_of(done)
    for shard in (Path(done.folder) / "frames").glob("*.parquet"):
        table = pq.read_table(shard).replace_schema_metadata()
        pq.write_table(table, shard.with_name(f"{shard.name[:24]}.parquet"), row_group_size=1, compression="none")
        shard.unlink()
    assert prepare(experiment, SIZE).decoded == 0
    np.testing.assert_array_equal(frames_of(done), right)
    assert not any(shards.body_fault(done.folder, name) for name in shards.versions(done.folder))


@pytest.mark.parametrize("how", ["gone", "empty", "text", "a folder", "another table"])
def test_a_damaged_manifest_is_said_and_written_anew(experiment: Experiment, how: str) -> None:
    done = prepare(experiment, SIZE)
    right, path = manifest(done.folder), Path(done.folder) / MANIFEST
    path.unlink()
    if how == "a folder":
        path.mkdir()
    elif how == "another table":
        pq.write_table(pa.table({"video_id": ["a"]}), path)
    elif how != "gone":
        path.write_text("" if how == "empty" else "not a manifest")
    with pytest.raises(StoreError, match="run vop prepare"):
        read_manifest(done.folder)
    assert prepare(experiment, SIZE).decoded == 0 and manifest(done.folder).equals(right, check_metadata=True)


@pytest.mark.parametrize("how", ["gone", "text", "a folder", "another table", "of another store"])
def test_what_is_remembered_of_shards_is_written_anew(experiment: Experiment, how: str) -> None:
    tasks = find_tasks(experiment, SIZE)
    path = Path(tasks.folder) / SHARDS
    assert tasks.remembered and path.is_file()
    path.unlink()
    if how == "text":
        path.write_text("nothing that is known")
    elif how == "a folder":
        path.mkdir()
    elif how == "another table":
        pq.write_table(pa.table({"video_id": ["a"]}), path)
    elif how == "of another store":
        write_status(tasks.folder, replace(tasks.options, codec="lz4"), tasks.status.slice(1))
    found = find_tasks(experiment, SIZE)
    assert not found.remembered and found.status.equals(tasks.status)
    assert prepare(experiment, SIZE).decoded == 0 and find_tasks(experiment, SIZE).remembered


def test_every_bit_of_what_is_remembered_is_right_or_forgotten(experiment: Experiment) -> None:
    tasks, rng = find_tasks(experiment, SIZE), Random(0)
    path = Path(tasks.folder) / SHARDS
    content = path.read_bytes()
    for _ in range(200):
        data = bytearray(content)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        found = remembered(tasks.folder, tasks.options)
        assert found.equals(tasks.status) or not len(found)


def test_every_bit_of_a_manifest_is_right_or_said(experiment: Experiment, tmp_path: Path) -> None:
    done = prepare(experiment, SIZE)
    path = Path(done.folder) / MANIFEST
    right, content = manifest(done.folder), path.read_bytes()
    rng = Random(0)
    for _ in range(300):
        data = bytearray(content)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            found = manifest(done.folder)
        except StoreError:
            continue
        assert found.equals(right)


def test_what_is_wrong_with_the_machine_is_no_fault_of_the_video(
    experiment: Experiment, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(24, "Too many open files")

    options = find_tasks(experiment, SIZE).options
    monkeypatch.setattr("pipelines.data.options.read_frames", full)
    tasks = find_tasks(recipe(videos, tmp_path / "new"), SIZE)
    Path(tasks.folder, "frames").mkdir(parents=True)
    found = decoding._write_shard_or_say(tasks.table, tasks.folder, options)
    assert found["error_kind"].to_pylist() == [decoding.MACHINE]
    assert "clip 0.mp4: too many open files at once" in found["error"].to_pylist()[0]
    assert not list(Path(tasks.folder, "frames").iterdir())
    assert isinstance(found, pa.Table)
