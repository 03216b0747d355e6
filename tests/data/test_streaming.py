"""Training that decodes as it goes (data.store=false): the same training as from the store."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import mlflow
import numpy as np
import pytest

from pipelines.cluster.connect import ResourceError
from pipelines.data.streaming import stream_decoded
from pipelines.throughput.stream import Waiting, waiting
from pipelines.tracking import tracking_uri
from pipelines.train.run import Result, run_experiment
from tests.support.recipe import recipe
from vop.benchmarks import Record
from vop.video.frames import Frames


def test_a_training_without_a_store_is_the_same_training(trained: Result, videos: Path, tmp_path: Path) -> None:
    losses = []
    for result in (trained, run_experiment(recipe(videos, tmp_path, "data.store=false"))):
        client = mlflow.MlflowClient(tracking_uri=tracking_uri(result.experiment.tracking))
        losses.append([m.value for m in client.get_metric_history(result.run.id, "train/loss")])
        assert "train/data_wait_fraction" in client.get_run(result.run.id).data.metrics
    assert len(losses[0]) == 2
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def test_workers_that_leave_no_cpu_to_decode_are_refused(ray_cluster: None, videos: Path, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"for 2 workers and 1 to decode, the cluster has"):
        run_experiment(recipe(videos, tmp_path, "data.store=false", "resources.cpus_per_worker=32"))


@dataclass(frozen=True)
class Dying(Waiting):
    """Decoding whose process is killed once, if there is a file."""

    file: str = ""

    def read(self, path: str, window: Sequence[float] | None, seed: int | None = None) -> Frames:
        if path == "1" and Path(self.file).exists():
            Path(self.file).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(path, window, seed)


def test_a_video_whose_decoding_is_killed_is_decoded_again(ray_cluster: None, tmp_path: Path) -> None:
    (tmp_path / "kill").touch()
    records = [Record(str(video), str(video), ("",), "train") for video in range(4)]
    steps = [[(0, 0), (1, 0)], [(2, 0), (3, 0)]]
    batches = list(stream_decoded(Dying(**asdict(waiting(0)), file=str(tmp_path / "kill")), records, steps))
    assert not (tmp_path / "kill").exists()
    assert [[int(pixels[-1, -1, -1, -1]) for pixels in batch.pixels_BFHWC] for batch in batches] == [[0, 1], [2, 3]]
