"""Several children of a sweep log at once through one MLflow server: no metric is lost, on SQLite and on PostgreSQL."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from pathlib import Path

import pytest

from pipelines.cluster.servers import mlflow_server
from pipelines.cluster.ui import free_port
from pipelines.tracking import PARENT, Run, logged_runs, tracked_run, tracked_sweep
from vop.config import load_experiment

CHILDREN, STEPS, METRICS = 5, 20, 10


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """A PostgreSQL of the test's own (Debian's package); skips where there is none. Gives the address of a database."""
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    binaries = found[-1] if found else Path(shutil.which("initdb") or "").parent
    if not (binaries / "initdb").is_file():
        pytest.skip("PostgreSQL is not installed")
    port, data = free_port(), folder / "data"
    folder.mkdir(parents=True)
    as_user: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres")
        for parent in folder.parents:
            if parent.owner() == "root" and parent != Path("/tmp"):
                parent.chmod(parent.stat().st_mode | 0o111)
        as_user = ["runuser", "-u", "postgres", "--"]
    subprocess.run([*as_user, binaries / "initdb", "-D", data, "-A", "trust", "-U", "vop"], check=True, capture_output=True)
    command = [*as_user, binaries / "postgres", "-D", data, "-p", str(port), "-k", folder, "-h", "127.0.0.1"]
    log = folder.parent / "postgresql.log"
    with log.open("ab") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 60
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield f"postgresql+psycopg2://vop@127.0.0.1:{port}/postgres"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(CHILDREN, get_context("spawn")) as pool:
        yield pool


@pytest.fixture(params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="vop-", ignore_cleanup_errors=True) as name, ExitStack() as stack:
        store = stack.enter_context(postgresql(Path(name) / "pg")) if request.param == "postgresql" else ""
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
