"""A sweep whose trial is killed, whose MLflow server stops for a while and whose driver is killed ends complete.

VOP_OUTAGE says for how many seconds the server is away.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import ray  # noqa: F401  (brings psutil)
import yaml
from conftest import recipe
from psutil import NoSuchProcess, Process

from pipelines.servers import free_port, mlflow_server
from pipelines.tracking import LoggedRun, Run, find_sweep
from vop.config import Experiment

OUTAGE = float(os.environ.get("VOP_OUTAGE", "3"))
EPOCHS, POINTS = 15, 6
SPACE = f"""
from ray import tune
SPACE = {{"video_prompt.length": tune.grid_search(list(range(1, {POINTS + 1})))}}
METRIC, MODE = "val/t2v/R1", "max"
"""


def test_a_sweep_outlives_a_trial_a_server_and_its_driver(videos: Path, tmp_path: Path) -> None:
    port = free_port()
    address = f"tracking.uri=http://127.0.0.1:{port}"
    experiment = recipe(
        videos, tmp_path, "resources.num_workers=1", "resources.cpus_per_worker=1", f"training.epochs={EPOCHS}", address
    )
    (tmp_path / "space.py").write_text(SPACE)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(experiment.tree() | {"tuning": {}}))
    start = ["--space", str(tmp_path / "space.py"), "--name", "tough"]
    with tempfile.TemporaryDirectory(prefix="vop-", ignore_cleanup_errors=True) as scratch:
        with mlflow_server(tmp_path / "mlflow", port):
            driver = started(tmp_path, scratch, *start)
            wait(driver, tmp_path, lambda: trials_of(driver) and any("val/t2v/R1" in r.metrics for r in children(experiment)))
            trials_of(driver)[0].send_signal(signal.SIGKILL)
            wait(driver, tmp_path, lambda: any(run.status == "FINISHED" for run in children(experiment)))
        time.sleep(OUTAGE)
        with mlflow_server(tmp_path / "mlflow", port):
            wait(driver, tmp_path, lambda: sum(run.status == "FINISHED" for run in children(experiment)) >= 2)
            for one in (Process(driver.pid), *Process(driver.pid).children(recursive=True)):
                with suppress(NoSuchProcess):
                    one.send_signal(signal.SIGKILL)
            assert driver.wait(60) == -signal.SIGKILL, "it was still at work"
            before = {run.id for run in children(experiment) if run.status == "FINISHED"}
            assert 2 <= len(before) < POINTS
            resumed = started(tmp_path, scratch, "--resume", "tough")
            assert resumed.wait(240) == 0, (tmp_path / "log").read_text()
            runs = children(experiment)
            assert len(runs) == POINTS and {run.status for run in runs} == {"FINISHED"}, [run.status for run in runs]
            assert {run.params["video_prompt.length"] for run in runs} == {str(n) for n in range(1, POINTS + 1)}
            assert before <= {run.id for run in runs}, "what was finished is not run again"
            for run in runs:
                assert len(Run(experiment.tracking.uri, run.id).history("val/t2v/R1")) == EPOCHS
            parent = find_sweep(experiment.tracking, "tough")
            assert parent is not None and parent.status == "FINISHED" and parent.metrics["trials/finished"] == POINTS


def started(work: Path, scratch: str, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"RAY_TMPDIR": scratch}
    command = [sys.executable, "-m", "pipelines.cli", "tune", str(work / "recipe.yaml"), *arguments]
    with (work / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


def trials_of(driver: subprocess.Popen[bytes]) -> list[Process]:
    found = []
    for process in Process(driver.pid).children(recursive=True):
        with suppress(NoSuchProcess):
            if "ImplicitFunc" in " ".join(process.cmdline()):
                found.append(process)
    return found


def children(experiment: Experiment) -> list[LoggedRun]:
    parent = find_sweep(experiment.tracking, "tough")
    return Run(experiment.tracking.uri, parent.id).children() if parent else []


def wait(driver: subprocess.Popen[bytes], work: Path, condition: Callable[[], object], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert driver.poll() is None and time.monotonic() < deadline, (work / "log").read_text()
        time.sleep(0.2)
