"""What MLflow's pages of a sweep show as they open, in a browser without a window."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.cluster.servers import mlflow_server
from pipelines.cluster.ui import free_port
from pipelines.sweep.record import COMPARED, DESCRIPTION, Summary, description
from pipelines.sweep.space import Space, label
from pipelines.tracking import PARENT, LoggedRun, Run, logged_runs, tracked_run, tracked_sweep
from tests.support.runs import experiment_in
from vop.config import Experiment, load_experiment
from vop.paper.methods import overrides_of

CHROMIUM = shutil.which("chromium") or ""
SPACE = Space("space", (), "val/t2v/R1", "max", (), "")


@pytest.fixture
def swept(tmp_path: Path) -> tuple[Experiment, Run, list[LoggedRun], list[Summary]]:
    """A sweep of two methods by two learning rates as MLflow has it, without a training."""
    experiment, points = experiment_in(tmp_path / "runs"), []
    with tracked_sweep(experiment.tracking, "mine", {}) as parent:
        for method in ("VoP", "VoP^P"):
            for rate in ("0.01", "0.001"):
                words = [*(f"{key}={value}" for key, value in overrides_of(method).items()), f"training.learning_rate={rate}"]
                with tracked_run(load_experiment(experiment.tree(), words), {PARENT: parent.id}) as run:
                    run.params({"trainable_parameters": str(len(method) * 1000)})
                    run.log({"val/t2v/R1": 20.0 + len(points), "train/loss": 1.0}, step=1)
                points.append({"method": method, "training.learning_rate": float(rate)})
        children = [run for run in logged_runs(experiment.tracking) if run.tags.get(PARENT) == parent.id]
        done = [
            Summary("", "toy", point, [20.0 + place], [10.0 + place], ["FINISHED"], child)
            for place, (point, child) in enumerate(zip(points, children, strict=True))
        ][::-1]
        parent.tag({DESCRIPTION: description(parent, done, SPACE)})
    return experiment, parent, children, done


def test_the_description_links_the_best_runs_and_lists_them(
    swept: tuple[Experiment, Run, list[LoggedRun], list[Summary]],
) -> None:
    _, parent, children, done = swept
    text = description(parent, done, SPACE)
    assert all(child.id in text for child in children) and "#/compare-runs?runs=" in text
    assert text.splitlines()[-4:][0] == f"| {label(done[0].point)} | 23.0 | 13.0 |"
    many = description(parent, done * 100, SPACE)
    assert f"Compare {COMPARED} of 400 points" in many and len(many) < 8000, "what a tag has room for"
    both = description(parent, [replace(point, recipe=recipe) for recipe in ("didemo", "lsmdc") for point in done], SPACE)
    assert "Compare 4 of 4 points of didemo](#/" in both and both.count("#/compare-runs?runs=") == 2
    assert "Compare 0 of 1" in description(parent, [Summary("", "toy", {}, [], [], ["FAILED"], None)], SPACE)


@pytest.mark.usefixtures("slow")
@pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")
def test_mlflow_opens_on_the_method_what_was_varied_and_r1(
    swept: tuple[Experiment, Run, list[LoggedRun], list[Summary]], tmp_path: Path
) -> None:
    experiment, parent, children, _ = swept
    folder = Path(experiment.tracking.output)
    with mlflow_server(folder, free_port()) as server:
        page = opened(f"{server}/{parent.comparison([child.id for child in children])}", tmp_path)
        axes = re.findall(r'class="axis-title"[^>]*data-unformatted="([^"]*)"', page)
        assert axes == ["method", "trainable_parameters", "training.learning_rate", "val/t2v/R1"]
        own = opened(f"{server}/#/experiments/1/runs/{parent.id}", tmp_path)
        assert re.search(r'<a [^>]*href="#/compare-runs\?runs=', own) and "Compare 4 of 4 points" in own


def opened(address: str, folder: Path) -> str:
    """The page as it stands once its scripts have run."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,900", f"--user-data-dir={folder}/browser"]
    command = [CHROMIUM, *options, "--virtual-time-budget=30000", "--dump-dom", address]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
