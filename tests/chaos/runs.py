"""Faults of what is written of runs: the database while it is made, a disk that is full, MLflow that is away. No Ray.

VOP_OUTAGE says for how many seconds the server is away.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from unittest.mock import patch

import pytest

from pipelines.cluster.servers import mlflow_server
from pipelines.cluster.ui import free_port
from pipelines.locations import TrackingError, tracking_uri
from pipelines.tracking import Run, logged_runs, tracked_run
from pipelines.train.checkpoint import epochs_of, save
from pipelines.train.on_disk import last
from pipelines.train.training import TrainingError, training_of
from tests.chaos.kind import Kind, Skipped
from tests.chaos.stores import fill, full_disk
from tests.support.postgresql import Postgres, why_not
from tests.support.runs import experiment_in, train
from vop.config import load_experiment
from vop.model.retrieval import build_model

OUTAGE = float(os.environ.get("VOP_OUTAGE", "3"))
# New processes have imported MLflow already: what is killed is their work.
FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["tests.support.runs", "mlflow.store.tracking.sqlalchemy_store"])


def started(folder: Path) -> ForkServerProcess:
    """A process that makes a database in a folder, and a run in it."""
    process = FORKS.Process(target=train, args=(str(folder),))
    process.start()
    return process


@cache
def takes() -> float:
    """Seconds that it needs for that."""
    folder, began = Path(mkdtemp(prefix="vop-chaos-runs-")), time.monotonic()
    started(folder).join()
    is_whole(folder, 1)
    return time.monotonic() - began


def is_whole(folder: Path, runs: int) -> None:
    """The folder has so many finished runs, none that is RUNNING, and nothing that is half made."""
    found = logged_runs(load_experiment({"tracking": {"output": str(folder)}}).tracking)
    assert [run.status for run in found].count("FINISHED") == runs and {run.status for run in found} <= {"FINISHED", "KILLED"}
    assert {path.name for path in folder.iterdir()} <= {"mlflow.db", "mlflow.db.lock"}


def maker_killed(rng: Random, work: Path) -> None:
    """Who makes the database is killed at a random moment; the next command makes it."""
    delay, folder = rng.uniform(0.05, 1.0) * takes(), work / "runs"
    killed = started(folder)
    time.sleep(delay)
    killed.kill()
    killed.join()
    finished = killed.exitcode == 0
    again = started(folder)
    again.join()
    assert again.exitcode == 0
    is_whole(folder, 1 + finished)


def three_makers(rng: Random, work: Path) -> None:
    """Three at once make the database of an empty folder."""
    processes = [started(work / "runs") for _ in range(3)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    is_whole(work / "runs", 3)


def server_away(rng: Random, work: Path) -> None:
    """MLflow's server is away."""
    port = free_port()
    logged_while_away(rng, work, port, lambda: mlflow_server(work / "mlflow", port))


def database_away(rng: Random, work: Path) -> None:
    """MLflow's server is there, the PostgreSQL that it keeps runs in ends at once and is started again."""
    if reason := why_not():
        raise Skipped(reason)
    port, postgres = free_port(), Postgres(work / "pg")
    with ExitStack() as mlflow:

        @contextmanager
        def there() -> Iterator[None]:
            with postgres.running() as address:
                if not (work / "mlflow").exists():
                    mlflow.enter_context(mlflow_server(work / "mlflow", port, address))
                yield

        logged_while_away(rng, work, port, there)


def logged_while_away(rng: Random, work: Path, port: int, there: Callable[[], AbstractContextManager[object]]) -> None:
    """A run says things to a server while something is not `there` for OUTAGE seconds; all of it is there in the end, once."""
    steps = iter(range(10**6))
    experiment = load_experiment({"tracking": {"uri": f"http://127.0.0.1:{port}", "output": str(work / "runs")}})

    def points(run: Run, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            run.log({"x": float(step := next(steps))}, step)
            time.sleep(rng.uniform(0, 0.2))

    # a minute and more of real waiting is left out where it is away for less
    first = 5.0 if OUTAGE > 60 else 0.1
    with patch("pipelines.tracking.journal.FIRST", first), ExitStack() as training:
        with there():
            run = training.enter_context(tracked_run(experiment))
            points(run, rng.uniform(0.5, 1))
        points(run, OUTAGE)
        assert list((work / "runs").glob(f"unsent-{run.id}-*.jsonl"))
        with there():
            points(run, rng.uniform(0, 0.5))
            training.close()
            (found,) = logged_runs(experiment.tracking)
            assert found.status == "FINISHED"
            assert run.history("x") == [float(step) for step in range(next(steps))]
    assert not list((work / "runs").iterdir())


def full_at_the_database(rng: Random, work: Path) -> None:
    """The disk of a database that is made, or written to, is full: one sentence, and then it works."""
    with full_disk(work / "new", rng.randrange(8, 400)) as disk:
        with (
            pytest.raises(TrackingError, match=r"full|No space"),
            tracked_run(load_experiment({"tracking": {"output": str(disk)}})),
        ):
            pass
        assert not list(disk.glob("*.partial*"))
    with full_disk(work / "there", 4000) as disk:
        experiment = experiment_in(disk)
        logging = FORKS.Process(target=log_until_full, args=(str(disk), rng.randrange(0, 16) * 4096))
        logging.start()
        logging.join()
        assert logging.exitcode == 0
        (disk / "filler").unlink()
        with tracked_run(experiment):
            pass
        first, second = logged_runs(experiment.tracking)
        assert first.status in ("FAILED", "KILLED") and second.status == "FINISHED"
        history = Run(tracking_uri(experiment.tracking), first.id).history("x")
        assert history == [float(step) for step in range(len(history))] and not list(disk.glob("unsent-*"))


def log_until_full(folder: str, spare: int) -> None:
    """A run, in a process of its own, whose disk fills up."""
    with (
        pytest.raises(TrackingError, match="full"),
        tracked_run(load_experiment({"tracking": {"output": folder}})) as run,
    ):
        run.log({"x": 0.0}, 0)
        fill(Path(folder), spare)
        for step in range(1, 10**5):
            run.log({"x": float(step)}, step)


def full_at_the_checkpoint(rng: Random, work: Path) -> None:
    """The disk is full when a checkpoint is written: one sentence, and the one before it is gone on from."""
    experiment = load_experiment({"backbone": {"name": "ViT-toy", "pretrained": "ViT-toy.safetensors"}})
    training = training_of(experiment, build_model(experiment), 10, "data")
    training.keep_best({"val/t2v/R1": 1.0, "val/t2v/MnR": 1.0})
    with full_disk(work / "runs", 20_000) as disk:
        first, training.epoch = save(training, disk / "run"), 1
        training.history.append({"val/t2v/R1": 1.0})
        filler = fill(disk, spare=4096 * rng.randrange(0, 20))
        with pytest.raises(TrainingError, match="the checkpoint of epoch 1 cannot be written"):
            save(training, disk / "run")
        assert last(disk / "run") == first and epochs_of(disk / "run") == []
        filler.unlink()
        assert last(disk / "run") == first != save(training, disk / "run")
        assert epochs_of(disk / "run") == training.history


KINDS: list[Kind] = [
    ("the database: its maker killed", maker_killed),
    ("the database: three make it at once", three_makers),
    ("MLflow away while a run is logged", server_away),
    ("MLflow's PostgreSQL away while a run is logged", database_away),
    ("a full disk at the database", full_at_the_database),
    ("a full disk at the checkpoint", full_at_the_checkpoint),
]
