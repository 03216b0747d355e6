"""Training that decodes as it goes (data.store=false): the same training as from the store."""

from __future__ import annotations

from pathlib import Path

import mlflow
import numpy as np
import pytest

from pipelines.cluster.connect import ResourceError
from pipelines.tracking import tracking_uri
from pipelines.train.run import Result, run_experiment
from tests.support.recipe import recipe


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
