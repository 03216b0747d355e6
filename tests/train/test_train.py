"""Training end to end on a local Ray, and what must hold of it whatever the number of workers."""

from __future__ import annotations

import csv
from pathlib import Path
from random import Random

import mlflow
import numpy as np
import pytest
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.train import WorkerGroupError

from pipelines.cluster.connect import ResourceError
from pipelines.data import shards
from pipelines.data.prepare import Prepared, prepare
from pipelines.data.tasks import Tasks
from pipelines.score.adapters import find_adapter, find_scored
from pipelines.score.evaluate import evaluate_adapter
from pipelines.tracking import tracked_run, tracking_uri
from pipelines.train import run as training
from pipelines.train.launch import explain
from pipelines.train.run import Result, run_experiment
from pipelines.train.training import TrainingError
from tests.support.recipe import recipe
from tests.support.stores import DAMAGE
from vop.config import ConfigError, Experiment, load_experiment
from vop.errors import AdapterError
from vop.model import backbone as loading
from vop.model.adapter import load_adapter, settings_of


def client_of(experiment: Experiment) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(tracking_uri=tracking_uri(experiment.tracking))


def test_a_training_gives_metrics_both_ways(trained: Result) -> None:
    for direction in ("t2v", "v2t"):
        assert {f"test/{direction}/{m}" for m in ("R1", "R5", "R10", "MdR", "MnR")} <= trained.metrics.keys()
        assert trained.metrics[f"test/{direction}/queries"] == 4


def test_a_shard_that_is_damaged_meanwhile_is_stored_again(
    trained: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(experiment: Experiment, size: int, tasks: Tasks | None) -> Prepared:
        done = prepare(experiment, size, tasks)
        for shard in (Path(done.folder) / "frames").glob("*.parquet"):
            DAMAGE["a bit of a page"](shard, Random(0))
        return done

    monkeypatch.setattr(training, "prepare", spoiled)
    result = run_experiment(recipe(Path(trained.experiment.benchmark.videos), tmp_path))
    assert result.metrics == trained.metrics
    frames = Path(result.prepared.folder) / "frames"
    assert prepare(result.experiment, 64).decoded == 0
    assert not any(shards.body_fault(result.prepared.folder, path.name) for path in frames.glob("*.parquet"))
    assert list(frames.glob("*.damaged"))


def test_mlflow_has_parameters_history_environment_and_artifacts(trained: Result) -> None:
    client = client_of(trained.experiment)
    run = client.get_run(trained.run.id)
    assert run.info.status == "FINISHED"
    assert run.data.params["video_prompt.length"] == "2"
    assert {"commit", "cpu", "seed", "version.torch", "selected_on"} <= run.data.tags.keys()
    assert [m.step for m in client.get_metric_history(trained.run.id, "val/t2v/R1")] == [1, 2]
    assert run.data.params["trainable_parameters"] == str(12 * 2 * (64 + 64)) and run.data.params["method"] == "VoP"
    assert {a.path for a in client.list_artifacts(trained.run.id)} == {"adapter", "queries.csv"}
    with (trained.adapter / "queries.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 4


def test_the_saved_adapter_alone_gives_the_same_metrics(trained: Result) -> None:
    again = evaluate_adapter(trained.adapter, [f"tracking.output={trained.experiment.tracking.output}"]).metrics
    assert {f"test/{name}": value for name, value in again.items()} == trained.metrics


def test_an_adapter_is_scored_on_another_benchmark_and_a_smaller_machine(trained: Result) -> None:
    videos, cache = trained.experiment.benchmark.videos, trained.experiment.data.cache
    again = evaluate_adapter(
        trained.adapter,
        ["benchmark.name=folder", f"benchmark.videos={videos}", f"data.cache={cache}", "resources.num_workers=64"],
    )
    assert {f"test/{name}": value for name, value in again.metrics.items()} == trained.metrics
    with pytest.raises(ResourceError, match="64 CPU for a worker, the cluster has 2"):
        output = f"tracking.output={trained.experiment.tracking.output}"
        evaluate_adapter(trained.adapter, ["resources.cpus_per_worker=64", output])


def test_an_adapter_is_found_by_its_run_and_by_its_registered_name(trained: Result) -> None:
    output = f"tracking.output={trained.experiment.tracking.output}"
    trained.run.register("the-name", "best")
    for where in (trained.run.id[:8], "models:/the-name@best"):
        found = find_adapter(where, [output])
        assert found.notes["run"] == trained.run.id
        assert settings_of(found.experiment) == settings_of(load_adapter(trained.adapter).experiment)
        assert find_scored(where, [output]).experiment.benchmark == trained.experiment.benchmark
    with pytest.raises(ConfigError, match="there are: the-name@best"):
        find_adapter("models:/other@best", [output])
    with pytest.raises(ConfigError, match="0 runs"):
        find_adapter("nothing", [output])
    with pytest.raises(AdapterError, match="no/such/folder is not an adapter"):
        find_adapter("no/such/folder")


def test_the_same_seed_gives_the_same_run_with_one_worker(
    trained: Result, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading._SHARED.clear()
    monkeypatch.setattr(loading, "load_backbone", None)  # in the driver, which needs no weights
    other = run_experiment(recipe(videos, tmp_path, "resources.num_workers=1"))
    histories = [
        [m.value for m in client_of(r.experiment).get_metric_history(r.run.id, "train/loss")] for r in (trained, other)
    ]
    np.testing.assert_allclose(histories[0][0], histories[1][0], rtol=1e-3)
    # AdamW makes steps out of rounding where gradients cancel, as those of a clip and its reverse do; one step is compared
    # to 1e-5 in test_two_workers_step_like_one.
    np.testing.assert_allclose(*histories, rtol=2e-2)


def test_a_loss_that_is_not_finite_stops_there_and_marks_the_run_failed(
    ray_cluster: None, videos: Path, tmp_path: Path
) -> None:
    experiment = recipe(videos, tmp_path, "training.learning_rate=1e30", "training.warmup=0")
    words = r"^step 2 \(epoch 1\): the loss is nan at learning rate \S+: .*: clip \d\.mp4(, clip \d\.mp4)*$"
    with pytest.raises(TrainingError, match=words):
        run_experiment(experiment)
    (run,) = client_of(experiment).search_runs(["1"])
    assert run.info.status == "FAILED"
    assert "the loss is nan" in run.data.tags["error"]


def test_an_error_in_a_worker_is_a_sentence_with_its_full_text_in_a_file(tmp_path: Path) -> None:
    whole = "Traceback (most recent call last):\n" + 100 * "  File x.py\n" + "ValueError: bad"
    failures = {0: ValueError("\x1b[31mbad\x1b[0m\nmore"), 1: RuntimeError("connection reset")}
    explained = explain(WorkerGroupError(whole, failures), tmp_path / "0123")
    file = tmp_path / "0123" / "error.log"
    assert str(explained) == f"a worker of the training failed: ValueError: bad; the full text is in {file}"
    assert whole in file.read_text(encoding="utf-8")
    lost = explain(WorkerGroupError(whole, {0: RuntimeError("connection reset"), 1: RayActorError()}), tmp_path / "0123")
    assert str(lost).startswith("a worker of the training failed: RayActorError: The actor")
    own = ConfigError("what the user can mend")
    assert explain(WorkerGroupError(whole, {0: RuntimeError("reset"), 1: own}), tmp_path / "0123") is own
    short = explain(WorkerGroupError(whole, {0: OutOfMemoryError("Task was killed\nmore")}), tmp_path / "0123")
    assert "OutOfMemoryError: Task was killed; lower training.batch_size" in str(short)
    assert "RayActorError: The actor" in str(explain(RayActorError(), tmp_path / "0123"))
    (tmp_path / "taken").touch()
    assert str(explain(ValueError("x"), tmp_path / "taken" / "0")) == "a worker of the training failed: ValueError: x"


def test_what_a_worker_says_to_the_user_is_what_the_user_gets(ray_cluster: None, videos: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_text("no weights")
    with pytest.raises(ConfigError, match=r"weights\.pt is not a file of weights") as caught:
        run_experiment(recipe(videos, tmp_path, f"backbone.pretrained={tmp_path}/weights.pt"))
    assert "Traceback" not in str(caught.value)


def test_a_cluster_that_is_too_small_is_said_at_once(ray_cluster: None, videos: Path, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="needs 64 CPU for 2 workers, the cluster has"):
        run_experiment(recipe(videos, tmp_path, "resources.cpus_per_worker=32"))


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, "KILLED"), (ValueError, "FAILED"), (None, "FINISHED")])
def test_a_run_says_how_it_ended(tmp_path: Path, error: type[BaseException] | None, status: str) -> None:
    experiment = load_experiment({"tracking": {"output": str(tmp_path)}, "benchmark": {"name": "folder"}})
    try:
        with tracked_run(experiment) as run:
            if error:
                raise error
    except (KeyboardInterrupt, ValueError):
        pass
    assert client_of(experiment).get_run(run.id).info.status == status
