"""Training end to end on a local Ray, and what must hold of it whatever the number of workers."""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conftest import recipe

from pipelines.cluster import ResourceError
from pipelines.data import Batch, share, share_sizes
from pipelines.evaluate import evaluate_adapter, find_adapter
from pipelines.step import average_gradients, backward
from pipelines.tracking import tracked_run, tracking_uri
from pipelines.train import Result, run_experiment
from vop.adapter import AdapterError, load_adapter
from vop.config import ConfigError, Experiment, TrainingConfig, load_experiment
from vop.model import build_model


def client_of(experiment: Experiment) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(tracking_uri=tracking_uri(experiment.tracking))


def test_a_training_gives_metrics_both_ways(trained: Result) -> None:
    for direction in ("t2v", "v2t"):
        assert {f"test/{direction}/{m}" for m in ("R1", "R5", "R10", "MdR", "MnR")} <= trained.metrics.keys()
        assert trained.metrics[f"test/{direction}/queries"] == 4


def test_mlflow_has_parameters_history_environment_and_artifacts(trained: Result) -> None:
    client = client_of(trained.experiment)
    run = client.get_run(trained.run.id)
    assert run.info.status == "FINISHED"
    assert run.data.params["video_prompt.length"] == "2"
    assert {"commit", "cpu", "seed", "version.torch", "selected_on"} <= run.data.tags.keys()
    assert [m.step for m in client.get_metric_history(trained.run.id, "val/t2v/R1")] == [1, 2]
    assert run.data.metrics["trainable_parameters"] == 12 * 2 * (64 + 64)
    assert {a.path for a in client.list_artifacts(trained.run.id)} == {"adapter", "queries.csv"}
    with (trained.adapter / "queries.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 4


def test_the_saved_adapter_alone_gives_the_same_metrics(trained: Result) -> None:
    again = evaluate_adapter(trained.adapter).metrics
    assert {f"test/{name}": value for name, value in again.items()} == trained.metrics


def test_an_adapter_is_scored_on_another_benchmark_and_a_smaller_machine(trained: Result) -> None:
    videos = trained.experiment.benchmark.videos
    again = evaluate_adapter(
        trained.adapter, ["benchmark.name=folder", f"benchmark.videos={videos}", "resources.num_workers=64"]
    )
    assert {f"test/{name}": value for name, value in again.metrics.items()} == trained.metrics
    with pytest.raises(ResourceError, match="64 CPU for a worker, the cluster has 2"):
        evaluate_adapter(trained.adapter, ["resources.cpus_per_worker=64"])
    assert find_adapter(trained.adapter, ["benchmark.name=toy"]).experiment.benchmark.videos == ""


def test_an_adapter_is_found_by_its_run_and_by_its_registered_name(trained: Result) -> None:
    output = f"tracking.output={trained.experiment.tracking.output}"
    trained.run.register("the-name", "best")
    for where in (trained.run.id[:8], "models:/the-name@best"):
        found = find_adapter(where, [output])
        assert found.notes["run"] == trained.run.id
        assert found.experiment == load_adapter(trained.adapter).experiment
    with pytest.raises(ConfigError, match="there are: the-name@best"):
        find_adapter("models:/other@best", [output])
    with pytest.raises(ConfigError, match="0 runs"):
        find_adapter("nothing", [output])
    with pytest.raises(AdapterError, match="no/such/folder is not an adapter"):
        find_adapter("no/such/folder")


def test_the_same_seed_gives_the_same_run_with_one_worker(trained: Result, videos: Path, tmp_path: Path) -> None:
    other = run_experiment(recipe(videos, tmp_path, "resources.num_workers=1"))
    histories = [
        [m.value for m in client_of(r.experiment).get_metric_history(r.run.id, "train/loss")] for r in (trained, other)
    ]
    np.testing.assert_allclose(histories[0][0], histories[1][0], rtol=1e-3)
    # AdamW makes steps out of rounding where gradients cancel, as those of a clip and its reverse do; one step is compared
    # to 1e-5 in test_two_workers_step_like_one.
    np.testing.assert_allclose(*histories, rtol=2e-2)


def test_an_error_in_a_worker_marks_the_run_failed(ray_cluster: None, videos: Path, tmp_path: Path) -> None:
    experiment = recipe(videos, tmp_path, "training.learning_rate=1e30")  # scores that are not finite
    with pytest.raises(Exception, match="finite"):
        run_experiment(experiment)
    (run,) = client_of(experiment).search_runs(["1"])
    assert run.info.status == "FAILED"
    assert "finite" in run.data.tags["error"]


def test_a_cluster_that_is_too_small_is_said_at_once(ray_cluster: None, videos: Path, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="needs 64 CPU for 2 workers, the cluster has"):
        run_experiment(recipe(videos, tmp_path, "resources.cpus_per_worker=32"))


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


def test_ctrl_c_leaves_no_ray_process_and_a_killed_run(videos: Path, tmp_path: Path) -> None:
    experiment = recipe(videos, tmp_path, "training.epochs=1000")
    flat = [f"{key}={value}" for key, value in experiment.flat().items() if value not in (None, "")]
    scratch = tempfile.TemporaryDirectory(prefix="vop-")  # sockets need short paths, tmp_path's are long
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"RAY_TMPDIR": scratch.name}
    (tmp_path / "recipe.yaml").touch()
    with (tmp_path / "log").open("w") as log:
        command = [sys.executable, "-m", "pipelines.train", str(tmp_path / "recipe.yaml"), *flat]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        deadline = time.monotonic() + 180
        while "epoch 1/1000" not in (tmp_path / "log").read_text() and time.monotonic() < deadline:
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.5)
        before = processes_below(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert any("raylet" in name for name in before.values())
    time.sleep(3)
    assert [pid for pid, name in before.items() if Path(f"/proc/{pid}").exists() and command_of(pid) == name] == []
    (run,) = client_of(experiment).search_runs(["1"])
    assert run.info.status == "KILLED"
    scratch.cleanup()


def processes_below(root: int) -> dict[int, str]:
    """All processes that descend from one, by id."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: command_of(pid) for pid in found - {root}}


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_two_workers_step_like_one(tmp_path: Path) -> None:
    """Loss to 1e-6 and gradients to 1e-5 relative; five pairs, so the workers' shares differ, in chunks of two pairs."""
    loss, gradients = one_step(0, 1)
    port = free_port()
    mp.spawn(_worker, args=(2, port, tmp_path), nprocs=2)
    for rank in (0, 1):
        other_loss, other = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(other_loss, loss, rtol=1e-6, atol=0)
        for name, gradient in gradients.items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max()))


def _worker(rank: int, workers: int, port: int, folder: Path) -> None:
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=workers)
    torch.save(one_step(rank, workers, chunk_size=2), folder / f"{rank}.pt")
    dist.destroy_process_group()


def one_step(rank: int, workers: int, chunk_size: int | None = None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and averaged gradients of one worker's share of a fixed batch of five pairs; Full, so the scale is trained."""
    torch.set_num_threads(1)
    tree = {"backbone": {"name": "ViT-toy", "pretrained": "ViT-toy.safetensors"}, "frames": {"count": 2}}
    model = build_model(load_experiment({**tree, "tuning": {"name": "full"}}))
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 2, 64, 64, 3), dtype=np.uint8)
    captions = [f"a {color} circle" for color in ("red", "blue", "green", "white", "pink")]
    own = [video for video, _ in share([(i, 0) for i in range(5)], rank, workers)]
    batch = Batch(0, np.asarray(own), pixels[own], np.ones((len(own), 2), dtype=np.bool_), [captions[i] for i in own])
    loss = backward(model, batch, share_sizes(5, workers), rank, TrainingConfig(chunk_size=chunk_size))
    average_gradients(list(model.trainable().values()), workers)
    return loss.detach(), {name: p.grad.clone() for name, p in model.trainable().items() if p.grad is not None}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
