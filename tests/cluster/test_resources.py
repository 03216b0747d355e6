"""What trainings, trials and evaluations ask of a cluster, known before they would wait for ever. No Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray
from ray.tune import PlacementGroupFactory

from pipelines.cluster.connect import ROLE, ResourceError, needs_of, workers_that_fit
from pipelines.score.evaluate import _room
from pipelines.sweep.fit import _resources
from pipelines.train.run import check_resources
from tests.support.recipe import recipe
from vop.config import Experiment


@pytest.fixture(autouse=True)
def cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head, a node to decode, two nodes to train with a GPU each."""

    def node(role: str, **resources: float) -> dict[str, Any]:
        return {"Alive": True, "Labels": {ROLE: role} if role else {}, "Resources": resources}

    train = node("train", CPU=8, GPU=1)
    monkeypatch.setattr(ray, "nodes", lambda: [node("", CPU=16, GPU=4), node("decode", CPU=32), train, train])


def experiment(*overrides: str) -> Experiment:
    return recipe(Path("videos"), Path("work"), "resources.cpus_per_worker=1", "resources.num_workers=1", *overrides)


@pytest.mark.parametrize(("share", "trials"), [(1, 2), (0.5, 4), (0.4, 4), (0.25, 8), (0.1, 16)])
def test_trials_share_gpus_but_none_takes_parts_of_two(share: float, trials: int) -> None:
    own = experiment(f"resources.gpus_per_worker={share}")
    assert workers_that_fit(needs_of(own.resources)) == trials
    needs, room = _resources(own)
    selector = [{ROLE: "train"}]
    assert needs == PlacementGroupFactory([{"CPU": 1, "GPU": share}], bundle_label_selector=selector) and room == trials
    assert _room(own.resources.model_copy(update={"num_workers": 99})) == (trials, {"CPU": 1, "GPU": share})


def test_workers_of_one_training_share_no_gpu() -> None:
    with pytest.raises(ResourceError, match=r"resources\.gpus_per_worker=0\.5 is for trainings with resources\.num_workers=1"):
        check_resources(experiment("resources.gpus_per_worker=0.5", "resources.num_workers=2"))
    assert not check_resources(
        experiment("resources.gpus_per_worker=0.5", "resources.num_workers=2", "resources.use_gpu=false")
    )


def test_gpus_that_are_left_alone_are_named(caplog: pytest.LogCaptureFixture) -> None:
    assert not check_resources(experiment("resources.num_workers=3"))
    assert "each of resources.num_workers=3 wants a GPU, the cluster has 2; resources.num_workers=2 trains on" in caplog.text
    caplog.clear()
    assert check_resources(experiment("resources.num_workers=2"))
    assert not check_resources(experiment("resources.num_workers=3", "resources.use_gpu=false")) and not caplog.text


def test_only_nodes_for_training_count() -> None:
    with pytest.raises(ResourceError, match="needs 3 GPU for 3 workers, the cluster has 2 for it"):
        check_resources(experiment("resources.num_workers=3", "resources.use_gpu=true"))
    assert not check_resources(experiment("resources.num_workers=3")), "on CPUs, where there are not as many GPUs"
    needs, room = _resources(experiment("resources.num_workers=2"))
    assert needs == PlacementGroupFactory([{"CPU": 0.01}], bundle_label_selector=[{ROLE: "train"}]) and room == 1
