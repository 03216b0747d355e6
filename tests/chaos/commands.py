"""Faults of whole trainings: a `vop train` with a Ray of its own, from an empty folder, is killed.

The next command runs in this process. What it must end with are the numbers of a training that nothing has disturbed.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from random import Random
from tempfile import mkdtemp

import psutil
import yaml

from pipelines.data.examine import examine
from pipelines.tracking import LoggedRun, logged_runs
from pipelines.train.resume import resume
from pipelines.train.run import run_experiment
from tests.chaos.kind import Kind
from tests.chaos.stores import SIZE, fill, full_disk, videos
from tests.support.commands import command, wait_for
from tests.support.recipe import recipe
from tests.support.runs import points
from vop.config import ConfigError, Experiment

EPOCHS = 8
EVENTS = (  # what appears, in this order, until a training has ended
    "log",
    "runs/mlflow.db.lock",
    "runs/mlflow.db",
    "cache/frames/*/frames",
    "cache/frames/*/frames/*.parquet",
    "cache/frames/*/manifest.parquet",
    "runs/checkpoints/*",
    "runs/checkpoints/*/epoch-*",
    "runs/test-*/adapter.safetensors",
    "runs/test-*/queries.csv",
)
MORE = 2.0  # seconds at most between what is waited for and the harm; a quarter of them may lie in the next stage
LEAVE = 120.0  # seconds that the processes of a driver that was killed have to end: Ray's agents look for its head for 60


def a_training(work: Path, *overrides: str) -> tuple[Experiment, list[str]]:
    """A small training below a folder, and the command for it."""
    own = (f"training.epochs={EPOCHS}", "resources.num_workers=1", *overrides)
    experiment = recipe(videos(), work, *own)
    (work / "recipe.yaml").write_text(yaml.safe_dump(experiment.tree()), encoding="utf-8")
    return experiment, ["train", str(work / "recipe.yaml")]


@cache
def right() -> dict[str, list[float]]:
    """All values of all metrics of a training that nothing has disturbed."""
    experiment, _ = a_training(Path(mkdtemp(prefix="vop-chaos-right-")))
    run_experiment(experiment)
    return points(experiment)


def ends_right(experiment: Experiment, work: Path) -> None:
    """After the next command the numbers are right, nothing is RUNNING, and nothing partial is left."""
    runs: list[LoggedRun] = []
    with suppress(ConfigError):  # there is no database yet
        runs = logged_runs(experiment.tracking)
    ended = [run.status for run in runs] == ["FINISHED"]
    if not runs:
        run_experiment(experiment)
    elif not ended:
        resume(runs[0].id, experiment.tracking)
    (run,) = logged_runs(experiment.tracking)
    assert run.status == "FINISHED" and points(experiment) == right()
    assert ended or not list(work.glob("runs/checkpoints")), "killed after the end of its run, a driver leaves its checkpoints"
    is_clean(experiment, work)


def three_commands(rng: Random, work: Path) -> None:
    """Three identical commands at once in an empty folder: each trains, and each has the right numbers."""
    right()
    (experiment, words), logs = a_training(work), [work / f"log{number}" for number in range(3)]
    with ExitStack() as commands:
        processes = [commands.enter_context(command(words, log)) for log in logs]
        for process, log in zip(processes, logs, strict=True):
            assert process.wait(600) == 0, log.read_text()
    runs = logged_runs(experiment.tracking)
    assert [run.status for run in runs] == ["FINISHED"] * 3
    assert [points(experiment, run) for run in runs] == [right()] * 3
    is_clean(experiment, work)


def full_at_rays_folder(rng: Random, work: Path) -> None:
    """The disk of Ray's own files fills up while a training is at work: it ends well, or it fails and is gone on with."""
    right()
    (experiment, words), log = a_training(work), work / "log"
    event, more = rng.choice(EVENTS), rng.uniform(0, MORE)
    with full_disk(work / "ray", 120_000) as disk, command(words, log, RAY_TMPDIR=str(disk)) as process:
        wait_for(lambda: list(work.glob(event)), process, log)
        time.sleep(more)
        fill(disk)
        assert process.wait(600) in (0, 1, 2), log.read_text()
    ends_right(experiment, work)


def is_clean(experiment: Experiment, work: Path) -> None:
    """Nothing partial, unsent or claimed is left, and the store is whole."""
    left = [path for pattern in ("*partial*", "unsent-*", ".claim") for path in work.rglob(pattern)]
    assert not left and not examine(experiment, SIZE).faults, left


def driver_killed(rng: Random, work: Path) -> None:
    """SIGKILL of the driver alone, at a random moment; the processes that it had started end by themselves."""
    right()
    (experiment, words), log = a_training(work), work / "log"
    event, more = rng.choice(EVENTS), rng.uniform(0, MORE)
    with command(words, log) as process:
        wait_for(lambda: list(work.glob(event)), process, log)
        time.sleep(more)
        family = process.children(recursive=True)
        process.kill()
        process.wait(60)
        try:
            ends_right(experiment, work)
        finally:
            alive = [left for left in psutil.wait_procs(family, timeout=LEAVE)[1] if left.status() != psutil.STATUS_ZOMBIE]
            for left in alive:
                left.kill()
        assert not alive, f"{alive} outlived the driver"


KINDS: list[Kind] = [
    ("a training: its driver killed", driver_killed),
    ("a training: three commands at once", three_commands),
    ("a training: a full disk at Ray's folder", full_at_rays_folder),
]
