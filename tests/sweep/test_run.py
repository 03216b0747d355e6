"""Sweeps on a local Ray: every trial once in MLflow with its true status, the best point registered, clear refusals."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import mlflow
import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.cluster.connect import ResourceError
from pipelines.locations import TrackingError
from pipelines.sweep import run as sweeps
from pipelines.sweep.record import Settings, best_rates
from pipelines.tracking import LoggedRun, logged_runs
from tests.support.recipe import recipe
from vop.config import ConfigError, Tree, validated

HEAD = "from ray import tune\nMETRIC, MODE = 'val/t2v/R1', 'max'\n"


def settings(videos: Path, work: Path, space: str, **more: Any) -> Settings:
    """A sweep whose trials take a second or two."""
    tree = recipe(videos, work, "resources.num_workers=1", "training.epochs=3").tree()
    (work / "space.py").write_text(HEAD + space)
    return Settings({"": raw(tree)}, str(work / "space.py"), **more)


def raw(tree: Tree) -> Tree:
    """Without the fields of a kind that a point may change."""
    return tree | {"video_prompt": {"length": 2}, "tuning": {}}


def children(work: Path, swept: sweeps.Swept) -> list[LoggedRun]:
    tracking = validated({"tracking": {"output": str(work / "runs")}}).tracking
    return [run for run in logged_runs(tracking) if run.tags.get("mlflow.parentRunId") == swept.run.id]


@pytest.fixture(scope="module")
def grid(ray_cluster: None, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Settings, sweeps.Swept]:
    """Two methods with two seeds, and a point that fails when its model is built."""
    work = tmp_path_factory.mktemp("grid")
    space = (
        "SPACE = [{'method': tune.grid_search(['VoP', 'Bias']), 'training.learning_rate': tune.grid_search([1e-3, 1e-4])},\n"
    )
    space += "         {'video_prompt.depth': tune.grid_search(['11-13'])}]"
    wanted = settings(videos, work, space, seeds=2)
    return work, wanted, sweeps.start("grid", wanted)


def test_each_point_and_seed_is_one_child_run(grid: tuple[Path, Settings, sweeps.Swept]) -> None:
    work, _, swept = grid
    runs = children(work, swept)
    assert len(runs) == 10
    assert len({run.tags["trial"] for run in runs}) == 10
    good = [run for run in runs if run.status == "FINISHED"]
    assert len(good) == 8
    assert {(run.params["tuning.name"], run.params["training.learning_rate"], run.params["seed"]) for run in good} == {
        (name, rate, seed) for name in ("prompts", "bias") for rate in ("0.001", "0.0001") for seed in ("0", "1")
    }
    assert all("best/val/t2v/R1" in run.metrics and "test/t2v/R1" in run.metrics for run in good)
    assert {run.name for run in good} >= {"VoP, training.learning_rate=0.001, seed 0"}


def test_a_trial_that_fails_is_recorded_and_ends_nothing(grid: tuple[Path, Settings, sweeps.Swept]) -> None:
    work, _, swept = grid
    failed = [run for run in children(work, swept) if run.status == "FAILED"]
    assert len(failed) == 2
    assert all("video_prompt.depth: '11-13' is not within 1-12" in run.tags["error"] for run in failed)
    assert [point.statuses for point in swept.points][-1] == ["FAILED", "FAILED"]


def test_the_best_point_is_that_of_the_best_mean_on_validation(grid: tuple[Path, Settings, sweeps.Swept]) -> None:
    work, _, swept = grid
    means: dict[str, list[float]] = {}
    for run in children(work, swept):
        if run.status == "FINISHED":
            means.setdefault(run.tags["point"], []).append(run.metrics["best/val/t2v/R1"])
    best = max(sum(scores) / 2 for scores in means.values())
    assert swept.points[0].mean == best == pytest.approx(sum(means[json.dumps(swept.points[0].point)]) / 2)
    client = mlflow.MlflowClient(swept.run.uri)
    version = client.get_model_version_by_alias("grid", "best")
    assert swept.points[0].best is not None and version.run_id == swept.points[0].best.id
    assert (Path(version.source.removeprefix("file://")) / "adapter.safetensors").is_file()
    assert client.get_run(swept.run.id).data.metrics["best/val/t2v/R1"] == best


def test_the_parent_holds_the_points_as_csv(grid: tuple[Path, Settings, sweeps.Swept]) -> None:
    _, _, swept = grid
    client = mlflow.MlflowClient(swept.run.uri)
    assert client.get_run(swept.run.id).info.status == "FINISHED"
    text = Path(client.download_artifacts(swept.run.id, "points.csv")).read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["seeds"] for row in rows] == ["2", "2", "2", "2", "0"]
    assert rows[-1]["trials"] == "FAILED FAILED"


def test_clips_are_decoded_once_for_the_sweep(grid: tuple[Path, Settings, sweeps.Swept]) -> None:
    import pyarrow.parquet as pq

    work, _, _ = grid
    shards = list((work / "cache" / "frames").glob("*/frames/*.parquet"))
    keys = [key for shard in shards for key in pq.read_table(shard, columns=["key"])["key"].to_pylist()]
    assert len(keys) == len(set(keys)) == 12


def test_resuming_a_finished_sweep_runs_only_what_failed(grid: tuple[Path, Settings, sweeps.Swept]) -> None:
    work, wanted, swept = grid
    before = {run.id for run in children(work, swept) if run.status == "FINISHED"}
    again = sweeps.resume("grid", validated(wanted.first).tracking)
    assert again.run.id == swept.run.id
    runs = children(work, again)
    assert {run.id for run in runs if run.status == "FINISHED"} == before
    assert [run.status for run in runs].count("FAILED") == 2 and len(runs) == 10


def test_the_best_rates_are_read_by_method(grid: tuple[Path, Settings, sweeps.Swept]) -> None:
    _, wanted, swept = grid
    rates = best_rates("grid", validated(wanted.first).tracking)[""]
    assert set(rates) == {"VoP", "Bias"}
    for method, rate in rates.items():
        means = {p.point["training.learning_rate"]: p.mean for p in swept.points if p.point.get("method") == method}
        assert means[rate] == max(mean for mean in means.values() if mean is not None)


def test_a_name_in_use_is_refused_with_the_way_out(grid: tuple[Path, Settings, sweeps.Swept]) -> None:
    _, wanted, _ = grid
    with pytest.raises(ConfigError, match="finish it with --resume grid, or give --name another"):
        sweeps.start("grid", wanted)


def test_a_changed_space_is_not_resumed(grid: tuple[Path, Settings, sweeps.Swept]) -> None:
    work, wanted, _ = grid
    text = (work / "space.py").read_text()
    (work / "space.py").write_text(text + "\n# changed")
    try:
        with pytest.raises(ConfigError, match="is not the one that it was started with"):
            sweeps.resume("grid", validated(wanted.first).tracking)
    finally:
        (work / "space.py").write_text(text)


def test_asha_stops_weak_trials_and_says_so(ray_cluster: None, videos: Path, tmp_path: Path) -> None:
    with (videos / "captions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    copies = tmp_path / "copies"  # validation on copies of the training clips: an epoch's training shows at once
    for split in ("train", "val", "test"):
        shutil.copytree(videos, copies / split)
    with (copies / "captions.csv").open("w", newline="") as file:
        table = [[f"{split}/{row['video']}", row["caption"], split] for split in ("train", "val", "test") for row in rows]
        csv.writer(file).writerows([["video", "caption", "split"], *table])
    space = "SPACE = {'training.learning_rate': tune.grid_search([1e-2, 1e-9, 2e-9, 3e-9])}\n"
    wanted = settings(videos, tmp_path, space + "METRIC, MODE = 'val/t2v/MnR', 'min'", asha=True)
    wanted.first["benchmark"] |= {"videos": str(copies), "shared_videos": "allow"}
    wanted.first["resources"]["cpus_per_worker"] = 1
    swept = sweeps.start("asha", wanted)
    runs = children(tmp_path, swept)
    pruned = [run for run in runs if "pruned" in run.tags]
    assert len(runs) == 4 and {run.status for run in runs} == {"FINISHED", "KILLED"}
    assert pruned and all(run.status == "KILLED" and "test/t2v/R1" not in run.metrics for run in pruned)
    assert all(run.status == "FINISHED" for run in runs if run not in pruned)
    # Who comes first to one of ASHA's looks passes it, be it the weakest.
    assert {run.tags["pruned"] for run in pruned} <= {"by ASHA after epoch 1", "by ASHA after epoch 3"}


def test_tpe_starts_with_the_papers_points_and_repeats_seeds(ray_cluster: None, videos: Path, tmp_path: Path) -> None:
    """Also where the space has two parts, of which a point has one."""
    space = (
        "SPACE = [{'training.learning_rate': tune.loguniform(1e-6, 1e-2), 'video_prompt.length': tune.grid_search([1, 2])},\n"
    )
    space += "         {'text_prompt.length': tune.grid_search([1, 2, 3])}]\n"
    space += "FIRST = [{'training.learning_rate': 5e-3, 'video_prompt.length': 2}]"
    wanted = settings(videos, tmp_path, space, sampler="tpe", samples=2, seeds=2)
    swept = sweeps.start("tpe", wanted)
    runs = children(tmp_path, swept)
    assert sorted(run.params["seed"] for run in runs) == ["0", "0", "1", "1"]
    assert len(swept.points) == 2 and {run.status for run in runs} == {"FINISHED"}
    assert {"training.learning_rate": 5e-3, "video_prompt.length": 2} in [point.point for point in swept.points]
    again = sweeps.resume("tpe", validated(wanted.first).tracking)
    assert {run.id for run in children(tmp_path, again)} == {run.id for run in runs}


def test_what_does_not_fit_the_cluster_is_said_before_anything_runs(ray_cluster: None, videos: Path, tmp_path: Path) -> None:
    wanted = settings(videos, tmp_path, "SPACE = {'video_prompt.length': tune.grid_search([1])}")
    wanted.first["resources"] = {"num_workers": 1, "cpus_per_worker": 999}
    with pytest.raises(ResourceError, match="needs 999 CPU for 1 workers, the cluster has"):
        sweeps.start("big", wanted)


def test_an_mlflow_server_that_does_not_answer_is_named(videos: Path, tmp_path: Path) -> None:
    wanted = settings(videos, tmp_path, "SPACE = {'video_prompt.length': tune.grid_search([1])}")
    wanted.first["tracking"] = {"uri": "http://user:secret@127.0.0.1:9"}
    with pytest.raises(TrackingError, match=r"tracking.uri: no MLflow server answers at http://127.0.0.1:9 \("):
        sweeps.start("away", wanted)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--space", "prompt_lenght"], "there is no 'prompt_lenght'"),
        (["--space", "prompt_length", "--sampler", "best"], "--sampler: there is no 'best'"),
        ([], "vop tune needs --space NAME, or --resume SWEEP"),
        (["--resume", "nothing"], "has no such sweep"),
        (["--space", "prompt_length", "training.epoch=3"], "training.epoch: unknown key"),
    ],
)
def test_mistakes_on_the_command_line_are_one_sentence(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["tune", f"tracking.output={tmp_path}", *arguments])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_a_ray_address_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.cluster import connect as cluster

    with pytest.raises(ResourceError, match=r"RAY_ADDRESS: no Ray cluster answers at 127.0.0.1:9 \("):
        cluster._check_answers("127.0.0.1:9")
