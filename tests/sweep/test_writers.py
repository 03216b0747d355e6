"""Several children of a sweep log at once through one MLflow server: no metric is lost, on SQLite and on PostgreSQL."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path

import pytest

from pipelines.cluster.servers import mlflow_server
from pipelines.cluster.ui import free_port
from pipelines.tracking import PARENT, Run, logged_runs, tracked_run, tracked_sweep
from tests.support.postgresql import Postgres, why_not
from vop.config import load_experiment

CHILDREN, STEPS, METRICS = 5, 20, 10


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(CHILDREN, get_context("spawn")) as pool:
        yield pool


@pytest.fixture(params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="vop-", ignore_cleanup_errors=True) as name, ExitStack() as stack:
        if request.param == "postgresql" and why_not():
            pytest.skip(why_not())
        store = stack.enter_context(Postgres(Path(name) / "pg").running()) if request.param == "postgresql" else ""
        yield stack.enter_context(mlflow_server(Path(name) / "mlflow", free_port(), store))


def child(address: str, parent: str, number: int) -> str:
    experiment = load_experiment({"tracking": {"uri": address}, "seed": number})
    with tracked_run(experiment, {PARENT: parent}) as run:
        for step in range(STEPS):
            run.log({f"metric/{m}": number * 1000 + step * 10 + m for m in range(METRICS)}, step)
    return run.id


@pytest.mark.usefixtures("slow")
def test_five_children_at_once_lose_no_metric(server: str, pool: ProcessPoolExecutor) -> None:
    tracking = load_experiment({"tracking": {"uri": server}}).tracking
    with tracked_sweep(tracking, "many", {}) as parent:
        ids = list(pool.map(child, *zip(*[(server, parent.id, number) for number in range(CHILDREN)], strict=True)))
    runs = parent.children()
    assert {run.id for run in runs} == set(ids) and {run.status for run in runs} == {"FINISHED"}
    for run in runs:
        number = int(run.params["seed"])
        assert len(run.params) == len(load_experiment().flat())
        for m in range(METRICS):
            assert Run(server, run.id).history(f"metric/{m}") == [number * 1000 + step * 10 + m for step in range(STEPS)]
    assert {run.status for run in logged_runs(tracking)} == {"FINISHED"} and len(logged_runs(tracking)) == CHILDREN + 1
