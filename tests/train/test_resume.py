"""What was trained is not lost: it is kept before it is scored, and a training that died goes on to the same numbers."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch

from pipelines.cluster.stop import Stopped
from pipelines.locations import checkpoint_folder
from pipelines.score.evaluate import evaluate_adapter
from pipelines.tracking import PARENT, SWEEP, log_report, tracked_run
from pipelines.train import run as training
from pipelines.train.checkpoint import STATE, save, state_of
from pipelines.train.on_disk import last
from pipelines.train.resume import resume, run_id
from pipelines.train.run import Result, run_experiment
from pipelines.train.training import Training, TrainingError, training_of
from tests.support.recipe import recipe
from tests.support.runs import points, the_run
from vop.config import ConfigError, Experiment, load_experiment
from vop.model.adapter import load_adapter
from vop.model.retrieval import build_model

EPOCHS = 20  # long enough for something to happen after one of them


@pytest.fixture(scope="session")
def undisturbed(ray_cluster: None, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return run_experiment(experiment_of(videos, tmp_path_factory.mktemp("undisturbed")))


def experiment_of(videos: Path, work: Path, *overrides: str) -> Experiment:
    return recipe(videos, work, f"training.epochs={EPOCHS}", "resources.num_workers=1", *overrides)


def assert_same(experiment: Experiment, result: Result, undisturbed: Result) -> None:
    assert result.metrics == undisturbed.metrics and result.validation == undisturbed.validation
    assert the_run(experiment).status == "FINISHED" and not (result.adapter.parent / "checkpoints").exists()
    assert len(points(experiment)["val/t2v/R1"]) == EPOCHS
    assert points(experiment) == points(undisturbed.experiment)


@contextmanager
def once_checkpointed(experiment: Experiment, then: Callable[[], None]) -> Iterator[None]:
    """For the while, something happens as soon as there is a checkpoint."""
    folder, ended = Path(experiment.tracking.output) / "checkpoints", threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            if list(folder.glob("*/epoch-*")):
                then()
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_a_stopped_training_goes_on_in_its_run(undisturbed: Result, videos: Path, tmp_path: Path) -> None:
    experiment = experiment_of(videos, tmp_path)
    handlers = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    with (
        once_checkpointed(experiment, lambda: os.kill(os.getpid(), signal.SIGTERM)),
        pytest.raises(Stopped),
    ):
        run_experiment(experiment)
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == handlers
    run = the_run(experiment)
    done = len(points(experiment)["train/loss"])
    assert run.status == "KILLED" and 0 < done < EPOCHS and last(checkpoint_folder(experiment.tracking, run.id))
    result = resume(run.id[:8], experiment.tracking)
    assert result.run.id == run.id
    assert_same(experiment, result, undisturbed)
    with pytest.raises(ConfigError, match="has FINISHED"):
        resume(str(result.adapter), experiment.tracking)


def test_a_killed_worker_goes_on_by_itself(
    undisturbed: Result, videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    experiment = experiment_of(videos, tmp_path)

    def kill() -> None:
        for process in psutil.process_iter(["cmdline", "username"]):
            named = " ".join(process.info["cmdline"] or [])
            if "RayTrainWorker" in named and raylet in process.parents():
                process.send_signal(signal.SIGKILL)

    raylet = next(one for one in psutil.Process().children(recursive=True) if "raylet" in one.name())
    with once_checkpointed(experiment, kill), caplog.at_level(logging.WARNING):
        result = run_experiment(experiment)
    assert "going on after epoch" in caplog.text and "restarts left: 2" in caplog.text
    assert_same(experiment, result, undisturbed)


def test_what_fails_after_the_training_leaves_the_adapter(
    undisturbed: Result, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = experiment_of(videos, tmp_path)

    def broken(*arguments: object, **options: object) -> None:
        raise ValueError("no scores\nof any kind")

    with monkeypatch.context() as patch, pytest.raises(TrainingError) as caught:
        patch.setattr(training, "evaluate", broken)
        run_experiment(experiment)
    folder = tmp_path / "runs" / f"test-{the_run(experiment).id[:8]}"
    assert f"kept in {folder}" in str(caught.value) and "ValueError: no scores" in str(caught.value)
    assert the_run(experiment).status == "FAILED"
    assert {
        f"test/{name}": value
        for name, value in evaluate_adapter(folder, [f"tracking.output={experiment.tracking.output}"]).metrics.items()
    } == undisturbed.metrics
    assert load_adapter(folder).notes["run"] == the_run(experiment).id
    monkeypatch.setattr(training, "train_on_workers", broken)  # nothing is trained a second time
    result = resume(str(folder), experiment.tracking)
    assert_same(experiment, result, undisturbed)
    assert "error" not in the_run(experiment).tags


def test_no_test_split_ends_with_validation_metrics(
    ray_cluster: None, videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(videos, tmp_path / "videos")
    lines = (videos / "captions.csv").read_text(encoding="utf-8").splitlines()
    rest = [line for line in lines if not line.endswith(",test")]
    (tmp_path / "videos" / "captions.csv").write_text("\n".join(rest) + "\n", encoding="utf-8")
    experiment = recipe(tmp_path / "videos", tmp_path, "training.epochs=1", "resources.num_workers=1")
    with caplog.at_level(logging.WARNING):
        result = run_experiment(experiment)
    assert result.metrics == {} and result.validation["val/t2v/queries"] == 2
    assert "no readable test videos" in caplog.text
    assert the_run(experiment).status == "FINISHED" and the_run(experiment).metrics["best/val/t2v/R1"] >= 0
    runs = [f"tracking.output={experiment.tracking.output}"]
    with pytest.raises(ConfigError, match="no test videos, which are needed; splits with videos: train, val"):
        evaluate_adapter(result.adapter, runs)
    assert evaluate_adapter(result.adapter, runs, split="val").metrics["t2v/queries"] == 2


@pytest.mark.usefixtures("slow")
def test_runs_that_cannot_go_on_are_told_apart(videos: Path, tmp_path: Path) -> None:
    experiment = experiment_of(videos, tmp_path)
    with tracked_run(experiment) as alive, pytest.raises(ConfigError, match="is still at work: ") as caught:
        resume(alive.id, experiment.tracking)
    assert alive.id in str(caught.value) and str(os.getpid()) in str(caught.value)
    with pytest.raises(ZeroDivisionError), tracked_run(experiment, {PARENT: alive.id}) as child:
        _ = 1 / 0
    with pytest.raises(ZeroDivisionError), tracked_run(experiment, {SWEEP: "mine"}) as sweep:
        _ = 1 / 0
    with pytest.raises(ZeroDivisionError), tracked_run(experiment) as secret:
        _ = 1 / 0
    cached = {"data.cache": "s3://***@bucket/cache"}  # as masked
    with pytest.raises(ConfigError, match=r"data.cache: run \w+ keeps no secrets: give it again, data.cache=\.\.\."):
        resume(secret.id, experiment.tracking, cached)
    report = log_report(experiment.tracking, "report", {}, [])
    for run, words in (
        (alive.id, "has FINISHED"),
        (child.id, "a trial of the sweep"),
        (sweep.id, "vop tune --resume mine"),
        (report.id, "is no training"),
        ("nothing", "0 runs"),
        ("toy-01234567", "run 01234567: 0 runs"),
    ):
        with pytest.raises(ConfigError, match=words):
            resume(run, experiment.tracking)


@pytest.mark.parametrize(
    ("said", "id"),
    [("0123abcd", "0123abcd"), ("toy-vop-0123abcd", "0123abcd"), ("runs/toy-vop-0123abcd/", "0123abcd"), ("my-run", "my-run")],
)
def test_what_a_run_is_called(said: str, id: str) -> None:
    assert run_id(said) == id


@pytest.fixture
def state() -> Training:
    experiment = load_experiment({"backbone": {"name": "ViT-toy", "pretrained": "ViT-toy.safetensors"}})
    made = training_of(experiment, build_model(experiment), 10, "data")
    made.keep_best({"val/t2v/R1": 1.0, "val/t2v/MnR": 1.0})
    return made


def test_a_damaged_checkpoint_is_not_used(state: Training, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = save(state, tmp_path)
    assert last(tmp_path) == checkpoint and state_of(checkpoint)["epoch"] == 0
    data = bytearray((checkpoint / STATE).read_bytes())
    data[len(data) // 2] ^= 1
    (checkpoint / STATE).write_bytes(data)
    assert last(tmp_path) is None and f"{checkpoint} is damaged ({STATE})" in caplog.text


def test_a_full_disk_leaves_the_last_checkpoint(state: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before, state.epoch = save(state, tmp_path), 1
    with monkeypatch.context() as patch, pytest.raises(TrainingError, match=r"epoch 1 cannot .*No space.*GB are free"):
        patch.setattr(torch, "save", full)
        save(state, tmp_path)
    assert list(tmp_path.iterdir()) == [before] and last(tmp_path) == before
    after = save(state, tmp_path)
    assert list(tmp_path.iterdir()) == [after] and last(tmp_path) == after != before
