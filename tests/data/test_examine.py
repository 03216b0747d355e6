"""`vop doctor --store`: every kind of damage is a line that names the file, and is mended by the next prepare."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from random import Random

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.data.prepare import prepare
from pipelines.data.status import write_status
from pipelines.data.tasks import find_tasks
from tests.support.recipe import recipe
from tests.support.stores import DAMAGE, decode_here, flip
from vop.config import Experiment

SIZE = 64


@pytest.fixture
def experiment(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    monkeypatch.setattr("pipelines.data.decode.decode", decode_here)
    experiment = recipe(videos, tmp_path)
    prepare(experiment, SIZE)
    return experiment


def doctor(experiment: Experiment) -> tuple[int, list[str]]:
    flat = [f"{key}={value}" for key, value in experiment.flat().items() if value not in (None, "")]
    done = CliRunner().invoke(app, ["doctor", "--store", "folder", *flat], env={"COLUMNS": "500"})
    return done.exit_code, [line for line in done.output.splitlines() if line]


def test_a_whole_store_is_whole_and_left_alone(experiment: Experiment) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(experiment.data.cache).rglob("*")}
    code, lines = doctor(experiment)
    assert code == 0 and lines[-1] == "whole" and "12 videos in 4 shards" in lines[-2]
    assert {path: path.stat().st_mtime_ns for path in Path(experiment.data.cache).rglob("*")} == before


def test_every_fault_is_a_line_and_the_next_prepare_mends_all(experiment: Experiment, tmp_path: Path) -> None:
    folder = Path(prepare(experiment, SIZE).folder)
    right = {path.name: path.read_bytes() for path in (folder / "frames").iterdir()}
    first, second, third, fourth = sorted((folder / "frames").glob("*.parquet"))
    DAMAGE["a bit of a page"](first, Random(0))
    DAMAGE["empty"](second, Random(0))
    DAMAGE["gone"](third, Random(0))
    DAMAGE["twice"](fourth, Random(0))
    (folder / "frames" / "x.parquet.0123abcd.partial").touch()
    (folder / "index-0.parquet").write_text("no index")
    (folder / "failed.csv").write_text("video_id\nnone")
    code, lines = doctor(experiment)
    assert code == 1 and lines[-1] == "not whole"
    for words in (
        f"{first.name}: its bytes are not those that were written; now called {first.name}.",
        "the next vop prepare decodes 3 videos again",
        f"{second.name}: it is empty; now called {second.name}.",
        f"{'0' * 24}{fourth.name[24:]}: its name is not that of its videos",
        "6 of 12 videos are not in the store (clip",
        "index-0.parquet: it cannot be read",
        "1 partial files are left of a command that was killed",
    ):
        assert sum(words in line for line in lines) == 1, (words, lines)
    assert prepare(experiment, SIZE).decoded == 9
    assert {name: (folder / "frames" / name).read_bytes() for name in right} == right
    (folder / "index-0.parquet").unlink()
    code, lines = doctor(experiment)
    assert code == 0 and "3 damaged shards are set aside" in lines[-2], lines


def test_lists_that_do_not_fit_are_said(experiment: Experiment, tmp_path: Path) -> None:
    folder = Path(prepare(experiment, SIZE).folder)
    flip(folder / "manifest.parquet", 400)
    code, lines = doctor(experiment)
    assert code == 1 and any("manifest.parquet or failed.csv do not say what the shards hold" in line for line in lines)
    shutil.rmtree(folder)
    code, lines = doctor(experiment)
    assert code == 1 and any("12 of 12 videos are not in the store" in line for line in lines) and not folder.exists()


def test_what_is_remembered_of_shards_is_not_believed(experiment: Experiment) -> None:
    tasks = find_tasks(experiment, SIZE)
    wrong = tasks.status.set_column(3, "ok", pa.array([False] * len(tasks.status)))
    write_status(tasks.folder, tasks.options, wrong)
    code, lines = doctor(experiment)
    assert code == 1 and any(line.startswith("shards.parquet does not say what the shards hold") for line in lines)
    assert not prepare(experiment, SIZE).failed and doctor(experiment)[0] == 0


def test_a_shard_that_rots_without_a_new_time_is_found(experiment: Experiment) -> None:
    folder = Path(find_tasks(experiment, SIZE).folder)
    shard = min((folder / "frames").glob("*.parquet"))
    before = shard.stat()
    DAMAGE["a bit of the footer"](shard, Random(0))
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not find_tasks(experiment, SIZE).faults, "it is not opened"
    code, lines = doctor(experiment)
    assert code == 1 and any(line.startswith(f"{shard.name}: its footer is not the one") for line in lines)
    assert prepare(experiment, SIZE).decoded == 3
