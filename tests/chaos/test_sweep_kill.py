"""A sweep whose trial is killed, whose MLflow server stops for a while and whose driver is killed ends complete.

VOP_OUTAGE says for how many seconds the server is away, VOP_SEED repeats what was killed when.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from random import Random

import yaml
from psutil import NoSuchProcess, Popen, Process

from pipelines.cluster.servers import mlflow_server
from pipelines.cluster.ui import free_port
from pipelines.tracking import LoggedRun, Run, find_sweep
from tests.support.commands import command, kill_all, wait_for
from tests.support.recipe import recipe
from vop.config import Experiment

OUTAGE = float(os.environ.get("VOP_OUTAGE", "3"))
EPOCHS, POINTS = 15, 6
SPACE = f"""
from ray import tune
SPACE = {{"video_prompt.length": tune.grid_search(list(range(1, {POINTS + 1})))}}
METRIC, MODE = "val/t2v/R1", "max"
"""


def test_a_sweep_outlives_a_trial_a_server_and_its_driver(chaos: Random, videos: Path, tmp_path: Path) -> None:
    port = free_port()
    address = f"tracking.uri=http://127.0.0.1:{port}"
    experiment = recipe(
        videos, tmp_path, "resources.num_workers=1", "resources.cpus_per_worker=1", f"training.epochs={EPOCHS}", address
    )
    (tmp_path / "space.py").write_text(SPACE)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(experiment.tree() | {"tuning": {}}))
    words, log = ["tune", str(tmp_path / "recipe.yaml")], tmp_path / "log"
    with ExitStack() as stack:
        with mlflow_server(tmp_path / "mlflow", port):
            start = ["--space", str(tmp_path / "space.py"), "--name", "tough"]
            driver = stack.enter_context(command([*words, *start], log))
            wait = partial(wait_for, process=driver, log=log)
            wait(lambda: trials_of(driver) and any("val/t2v/R1" in r.metrics for r in children(experiment)))
            time.sleep(chaos.uniform(0, 0.5))
            chaos.choice(trials_of(driver)).send_signal(signal.SIGKILL)
            wait(lambda: any(run.status == "FINISHED" for run in children(experiment)))
        time.sleep(OUTAGE)
        with mlflow_server(tmp_path / "mlflow", port):
            wait(lambda: sum(run.status == "FINISHED" for run in children(experiment)) >= 2)
            kill_all(driver)
            assert driver.wait() == -signal.SIGKILL, "it was still at work"
            before = {run.id for run in children(experiment) if run.status == "FINISHED"}
            assert 2 <= len(before) < POINTS
            resumed = stack.enter_context(command([*words, "--resume", "tough"], log))
            assert resumed.wait(240) == 0, log.read_text()
            runs = children(experiment)
            assert len(runs) == POINTS and {run.status for run in runs} == {"FINISHED"}, [run.status for run in runs]
            assert {run.params["video_prompt.length"] for run in runs} == {str(n) for n in range(1, POINTS + 1)}
            assert before <= {run.id for run in runs}, "what was finished is not run again"
            for run in runs:
                assert len(Run(experiment.tracking.uri, run.id).history("val/t2v/R1")) == EPOCHS
            parent = find_sweep(experiment.tracking, "tough")
            assert parent is not None and parent.status == "FINISHED" and parent.metrics["trials/finished"] == POINTS


def trials_of(driver: Popen) -> list[Process]:
    found = []
    for process in driver.children(recursive=True):
        with suppress(NoSuchProcess):
            if "ImplicitFunc" in " ".join(process.cmdline()):
                found.append(process)
    return found


def children(experiment: Experiment) -> list[LoggedRun]:
    parent = find_sweep(experiment.tracking, "tough")
    return Run(experiment.tracking.uri, parent.id).children() if parent else []
