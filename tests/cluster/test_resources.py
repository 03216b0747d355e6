"""What trainings, trials and evaluations ask of a cluster, known before they would wait for ever. No Ray."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray._private import state as ray_state
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision
from ray.tune import PlacementGroupFactory

from pipelines.cluster import growth
from pipelines.cluster.connect import ROLE, ResourceError, free_workers, needs_of, workers_that_fit
from pipelines.score.evaluate import _room
from pipelines.sweep.fit import _resources
from pipelines.train import elastic
from pipelines.train.elastic import LEFT, ElasticPolicy
from pipelines.train.resources import check_resources
from tests.support.recipe import recipe
from vop.config import Experiment


@pytest.fixture(autouse=True)
def cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head, a node to decode, two nodes to train with a GPU each."""

    def node(name: str, role: str, **resources: float) -> dict[str, Any]:
        return {"NodeID": name, "Alive": True, "Labels": {ROLE: role} if role else {}, "Resources": resources}

    nodes = [node("head", "", CPU=16, GPU=4), node("d", "decode", CPU=32)]
    nodes += [node(name, "train", CPU=8, GPU=1) for name in ("t1", "t2")]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray_state, "available_resources_per_node", lambda: {one["NodeID"]: one["Resources"] for one in nodes})
    monkeypatch.setattr(ray_state.state, "get_draining_nodes", dict)
    monkeypatch.setattr(growth, "grows", lambda: False)


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
    assert needs == PlacementGroupFactory([{"memory": 1}], bundle_label_selector=[{ROLE: "train"}]), "all CPUs are the workers'"
    assert room == 1


def test_a_range_needs_its_fewest_and_takes_its_most() -> None:
    own = experiment("resources.num_workers=2-8")
    assert check_resources(own), "two GPUs are enough"
    assert _room(own.resources) == (2, {"CPU": 1, "GPU": 1})
    assert _resources(own)[1] == 1, "a trial takes the fewest"
    with pytest.raises(ResourceError, match="needs 3 GPU for 3 workers, the cluster has 2 for it"):
        check_resources(experiment("resources.num_workers=3-8", "resources.use_gpu=true"))
    with pytest.raises(ResourceError, match=r"is for trainings with resources\.num_workers=1"):
        check_resources(experiment("resources.num_workers=1-2", "resources.gpus_per_worker=0.5"))


def test_free_workers_are_those_on_nodes_that_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    assert free_workers({"CPU": 3}, "train") == 4, "on nodes for training; two of eight CPUs are left of each"
    assert free_workers({"CPU": 3}, "train", 1) == 4 and free_workers({"CPU": 4}, "train", 1) == 3
    assert free_workers({"CPU": 1, "GPU": 1}, "train") == 2 and free_workers({"CPU": 0.1}, "train") == 160, (
        "whatever floats say"
    )
    monkeypatch.setattr(ray_state.state, "get_draining_nodes", lambda: {"t1": 0})
    assert free_workers({"CPU": 3}, "train") == 2
    monkeypatch.setattr(ray_state.state, "get_draining_nodes", lambda: {"t1": 0, "t2": 0})
    assert not free_workers({"CPU": 3}, "train"), "none are left: others are not for training"


def test_a_cpu_is_left_to_decode_where_the_other_nodes_are_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_state, "available_resources_per_node", lambda: {"t1": {}, "t2": {"CPU": 1}})
    assert free_workers({"CPU": 1}, "train") == 1 and not free_workers({"CPU": 1}, "train", 1)


def test_a_training_grows_when_an_epoch_has_ended_that_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """And after a preemption its own workers count where they stay."""
    policy = ElasticPolicy(
        ScalingConfig(num_workers=(1, 3), resources_per_worker={"CPU": 8}, elastic_resize_monitor_interval_s=0), 0
    )
    monkeypatch.setattr(policy, "_maybe_send_resource_request", lambda: None)
    monkeypatch.setattr(policy, "_get_reserved_resources", dict)
    table = {"state": "CREATED", "bundles_to_node_id": {0: "t1"}}
    monkeypatch.setattr(elastic, "SETTLES", 0)
    monkeypatch.setattr(elastic, "placement_group_table", lambda group: table)
    monkeypatch.setattr(ray_state, "available_resources_per_node", lambda: {"t1": {"CPU": 0.0}, "t2": {"CPU": 8.0}})

    def decided(left: int | None) -> Any:
        report = None if left is None else SimpleNamespace(metrics={LEFT: left})
        handle = SimpleNamespace(placement_group=object())
        state: Any = SimpleNamespace(placement_group_handle=handle, start_time=0.0, num_workers=1)
        status: Any = SimpleNamespace(worker_statuses={0: SimpleNamespace(training_report=report)})
        return policy.make_decision_for_running_worker_group(state, status)

    assert isinstance(decided(None), NoopDecision) and isinstance(decided(0), NoopDecision)
    assert decided(2) == ResizeDecision(2, {"CPU": 8})
    monkeypatch.setattr(ray_state.state, "get_draining_nodes", lambda: {"t1": 0})
    assert policy.make_decision_for_non_running_worker_group() == ResizeDecision(1, {"CPU": 8})
    monkeypatch.setattr(ray_state.state, "get_draining_nodes", lambda: {"t1": 0, "t2": 0})
    assert isinstance(policy.make_decision_for_non_running_worker_group(), NoopDecision)
    monkeypatch.setattr(ray_state.state, "get_draining_nodes", dict)
    assert policy.make_decision_for_non_running_worker_group() == ResizeDecision(2, {"CPU": 8})
    table["state"] = "REMOVED"
    assert policy.make_decision_for_non_running_worker_group() == ResizeDecision(1, {"CPU": 8})
