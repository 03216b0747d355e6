"""What can be known before work is said before work: without Ray, without a run, without a trace."""

from __future__ import annotations

import csv
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.data.prepare import FailedVideosError
from pipelines.locations import TrackingError
from pipelines.score.adapters import check_scoring
from pipelines.train import run as training
from pipelines.train.plan import check, plan
from pipelines.train.run import run_experiment
from tests.support.recipe import recipe
from vop.benchmarks import BenchmarkError
from vop.config import ConfigError, Experiment, load_experiment
from vop.errors import AdapterError, VopError
from vop.model.adapter import adapter_of
from vop.model.retrieval import build_model
from vop.places import PlaceError, amount


@pytest.fixture
def folder(videos: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(videos, tmp_path / "videos"))


def rewritten(folder: Path, change: Callable[[list[list[str]]], list[list[str]]]) -> None:
    """Give the folder other rows of captions."""
    table = folder / "captions.csv"
    with table.open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    with table.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *change(rows)])


def no_room(folder: Path, patch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    patch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=10**5))


def broken(folder: Path, patch: pytest.MonkeyPatch) -> None:
    for video in folder.glob("*.mp4"):
        video.write_bytes(video.name.encode())  # no video


def a_file(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder.parent / "file").touch()


def a_circle(folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder.parent / "circle").symlink_to(folder.parent / "circle")


def without(split: str) -> Callable[[Path, pytest.MonkeyPatch], None]:
    return lambda folder, patch: rewritten(folder, lambda rows: [row for row in rows if row[2] != split])


def nothing(folder: Path, patch: pytest.MonkeyPatch) -> None: ...


FAULTS: dict[str, tuple[Callable[[Path, pytest.MonkeyPatch], None], list[str], type[VopError], str]] = {
    "no-val": (without("val"), [], ConfigError, "has no val videos, which are needed; splits with videos: train, test"),
    "no-train": (without("train"), [], ConfigError, "has no train videos, which are needed; splits with videos: val, test"),
    "no-videos": (nothing, ["benchmark.videos=/no/such"], BenchmarkError, "/no/such"),
    "no-model": (nothing, ["backbone.name=ViT-none"], ConfigError, "ViT-none"),
    "no-such-layer": (nothing, ["video_prompt.depth=1-99"], ConfigError, "1-99"),
    "no-server": (nothing, ["tracking.uri=http://127.0.0.1:9"], TrackingError, "no MLflow server answers"),
    "runs-at-an-address": (
        nothing,
        ["tracking.output=s3://bucket/runs", "tracking.uri=''"],
        ConfigError,
        r"tracking\.output: s3://bucket/runs is no folder, where runs could be tracked in a file: say where MLflow is",
    ),
    "runs-nowhere": (nothing, ["tracking.output=nowhere://runs", "tracking.uri=sqlite:////x.db"], ConfigError, "valid: a path"),
    "no-place-for-runs": (
        a_file,
        ["tracking.output={}/file/runs"],
        PlaceError,
        "tracking.output=.*file is not a folder",
    ),
    "no-place-for-frames": (
        a_file,
        ["data.cache={}/file/cache"],
        PlaceError,
        "file is not a folder: give .* data.cache=",
    ),
    "circle-of-runs": (a_circle, ["tracking.output={}/circle/runs"], ConfigError, "tracking.output: .*circle.*[Ll]"),
    "circle-of-frames": (a_circle, ["data.cache={}/circle/cache"], PlaceError, "circle/cache: .*[Ll]"),
    "long-name": (nothing, ["tracking.output={}/" + "x" * 300], PlaceError, "tracking.output=.*x: a name too long"),
    "long-name-of-frames": (nothing, ["data.cache={}/" + "x" * 300], PlaceError, "x/frames/.*: a name too long"),
    "nobodys-home": (nothing, ["benchmark.videos=~nobody-at-all/x"], BenchmarkError, "~nobody-at-all/x does not exist"),
    "no-room": (no_room, [], PlaceError, r"12 of 12 videos are not in it yet, which take about 590 kB .*; .* are free there"),
    "no-room-for-checkpoints": (no_room, ["tuning.name=full"], PlaceError, "no room for checkpoints"),
    "nothing-decodes": (broken, [], FailedVideosError, "none of 3 videos that were tried can be read:\n  clip 0.mp4: "),
}


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_said_before_ray_and_leaves_no_run(
    fault: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, overrides, kind, words = FAULTS[fault]
    prompts = ["text_prompt.length=0", "video_prompt.length=0"] if "tuning.name=full" in overrides else []
    experiment = recipe(folder, tmp_path, *(override.format(tmp_path) for override in overrides), *prompts)
    make(folder, monkeypatch)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(training, "connected", None)
    for call in (check, plan, run_experiment):
        with pytest.raises(kind, match=words):
            call(experiment)  # type: ignore[operator]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_recipe_without_fault_leaves_no_trace_either(folder: Path, tmp_path: Path) -> None:
    experiment = recipe(folder, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    check(experiment)
    found = plan(experiment)
    assert found.videos == found.to_decode == {"train": 6, "val": 2, "test": 4}
    assert (found.room.needed, found.steps) == (12 * 4 * 64 * 64 * 3, 3)
    assert sorted(tmp_path.rglob("*")) == before


def test_reused_activations_are_in_the_room_that_a_training_takes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = ["video_prompt.depth=9-12"]
    needed = 6 * 4 * 17 * 64 * 4  # videos, frames, tokens, width, bytes
    experiment = recipe(folder, tmp_path, *prompts)
    assert plan(experiment).reused.needed == needed and "no room" not in str(plan(experiment).reused)
    little = plan(recipe(folder, tmp_path, *prompts, "data.activations_gb=0.0001")).reused
    assert "data.activations_gb allows 100 kB: no room, what is not there yet is computed anew" in str(little)
    usage, frames = shutil.disk_usage("/"), plan(experiment).room.needed
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=frames + needed - 1))
        assert f"{amount(needed - 1)} are free then" in (found := str(plan(experiment).reused)) and ": no room" in found
    for other in (["frames.sampling=random"], ["video_prompt.depth=all"], ["training.epochs=0"], ["data.store=false"]):
        assert str(plan(recipe(folder, tmp_path, *prompts, *other)).reused) == "none"


def test_a_training_without_tests_and_a_scoring_without_training_are_legal(folder: Path, tmp_path: Path) -> None:
    without("test")(folder, pytest.MonkeyPatch())
    check(recipe(folder, tmp_path))
    without("train")(folder, pytest.MonkeyPatch())
    check(recipe(folder, tmp_path, "training.epochs=0"))


def test_one_video_that_cannot_be_read_is_not_all(folder: Path, tmp_path: Path) -> None:
    (folder / "clip 0.mp4").write_bytes(b"no video")
    check(recipe(folder, tmp_path))


def test_captions_that_pile_up_are_said(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rewritten(folder, lambda rows: [*rows, *(["clip 3.mp4", f"caption {number}", "train"] for number in range(100))])
    with caplog.at_level(logging.WARNING):
        check(recipe(folder, tmp_path, "training.captions_per_video=2"))
        assert not caplog.records
        check(recipe(folder, tmp_path))
    assert "of the 101 steps of an epoch hold less than half of 4 pairs" in caplog.text
    assert "clip 3.mp4 has 101 captions, half of the videos at most 1" in caplog.text


def test_toy_is_not_written_to_be_looked_at(tmp_path: Path) -> None:
    check(load_experiment("toy", [f"benchmark.videos={tmp_path}/toy", f"tracking.output={tmp_path}/runs"]))
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_is_held_against_its_model_and_its_videos(folder: Path, tmp_path: Path) -> None:
    experiment = recipe(folder, tmp_path)
    adapter = adapter_of(build_model(experiment), experiment)
    check_scoring(adapter, ["test"])
    with pytest.raises(ConfigError, match="no train videos"):
        without("train")(folder, pytest.MonkeyPatch())
        check_scoring(adapter, ["train"])
    longer = Experiment.model_validate(experiment.tree() | {"text_prompt": {"length": 3}})
    with pytest.raises(AdapterError, match="expected shape"):
        check_scoring(type(adapter)(longer, adapter.backbone, adapter.tensors))


def test_captions_of_frames_are_there_before_work_for_what_learns_from_them(folder: Path, tmp_path: Path) -> None:
    disco = "tuning.name=discovla", "head.name=discovla", "frames.count=2", "text_prompt.length=0", "video_prompt.length=0"
    with pytest.raises(ConfigError, match="benchmark folder has none: give a table with the column frame_captions"):
        check(recipe(folder, tmp_path, *disco))
    check(recipe(folder, tmp_path, *disco, "head.alignment=0", "head.distillation=0"))
    head, *rows = (folder / "captions.csv").read_text(encoding="utf-8").splitlines()
    (folder / "captions.csv").write_text("\n".join([f"{head},frame_captions", *(f"{row},a dog|it runs" for row in rows)]))
    check(recipe(folder, tmp_path, *disco))
    with pytest.raises(ConfigError, match=r"has 2 of them for a caption, head\.name=discovla needs as many as frames\.count=4"):
        check(recipe(folder, tmp_path, *disco, "frames.count=4"))
    with pytest.raises(ConfigError, match=r"frames\.sampling: random"):
        check(recipe(folder, tmp_path, *disco, "frames.sampling=random"))
