"""Runs for tests: a database that is made once and copied, an experiment in it, what a run has logged, MLflow that is away."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import requests
from mlflow import MlflowClient

from pipelines.locations import tracking_uri
from pipelines.tracking import LoggedRun, Run, logged_runs, tracked_run
from pipelines.tracking.database import made
from vop.config import Experiment, load_experiment

DIFFERS = ("train/data_wait", "train/seconds", "train/pairs", "epoch/")  # of two runs of one training


@cache
def database() -> Path:
    """An MLflow database without runs; making one takes seconds."""
    file = Path(mkdtemp(prefix="vop-runs-")) / "mlflow.db"
    made(f"sqlite:///{file}")
    return file


def experiment_in(folder: Path, *overrides: str) -> Experiment:
    """An experiment whose runs go to a database of its own in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(database(), folder / "mlflow.db")
    return load_experiment({"tracking": {"output": str(folder)}}, list(overrides))


def the_run(experiment: Experiment) -> LoggedRun:
    (found,) = logged_runs(experiment.tracking)
    return found


def points(experiment: Experiment, found: LoggedRun | None = None) -> dict[str, list[float]]:
    """All values of the metrics that must be equal in two runs of a training; of a run, or of the only one there is."""
    found = found or the_run(experiment)
    run = Run(tracking_uri(experiment.tracking), found.id)
    return {name: run.history(name) for name in found.metrics if not name.startswith(DIFFERS)}


def train(folder: str) -> None:
    """A run of a process of its own, with a point."""
    with tracked_run(load_experiment({"tracking": {"output": folder}})) as run:
        run.log({"x": 1.0}, 1)


def die(folder: str) -> None:
    """A run whose process ends at once, as by SIGKILL."""
    with tracked_run(load_experiment({"tracking": {"output": folder}})):
        os._exit(9)


@contextmanager
def away(*methods: str) -> Iterator[None]:
    """For the while, MLflow does not answer to these methods of its client."""

    def silence(*words: object, **options: object) -> None:
        raise requests.exceptions.ConnectionError("nobody is there")

    with pytest.MonkeyPatch.context() as patch:
        for method in methods or ("log_batch", "set_terminated", "log_artifact", "log_artifacts", "log_text", "set_tag"):
            patch.setattr(MlflowClient, method, silence)
        yield
