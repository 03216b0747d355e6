"""cluster.yaml, and that decoding and training go to the nodes that are labelled for them."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray._private.label_utils import validate_label_key, validate_label_value
from ray.autoscaler._private.util import prepare_config, validate_config

from pipelines.cluster.connect import ROLE, ResourceError, cluster_has, connected, labelled
from pipelines.cluster.probe import look_at_nodes
from pipelines.data.verify import verify
from pipelines.sweep.fit import _resources
from pipelines.train.run import run_experiment
from tests.support.nodes import nodes
from tests.support.recipe import recipe

CLUSTER = Path(__file__).parents[2] / "cluster.yaml"
# What Ray's AWS provider reads (ray/autoscaler/_private/aws); its schema lets anything pass.
PROVIDER = {"type", "region", "availability_zone", "cache_stopped_nodes", "use_internal_ips", "key_pair", "security_group"}


def check(config: dict[str, Any]) -> dict[str, Any]:
    """Ray's own validation, without a cloud, and what it misses; returns the filled-out file."""
    full = prepare_config(config)
    validate_config(full)
    unknown = set(config["provider"]) - PROVIDER
    assert not unknown, f"unknown in provider: {unknown}"
    workers = {name: kind for name, kind in full["available_node_types"].items() if name != full["head_node_type"]}
    for name, kind in workers.items():
        assert kind.get("min_workers", 0) <= kind["max_workers"] <= full["max_workers"], f"max_workers of {name}"
        assert (kind.get("labels") or {}).keys() <= {ROLE}, f"labels of {name}"
    for key, value in [label for kind in workers.values() for label in kind.get("labels", {}).items()]:
        assert validate_label_key(key) is None and validate_label_value(value) is None
    for name, kind in full["available_node_types"].items():
        assert {"InstanceType", "ImageId"} <= kind["node_config"].keys(), name
    return full


def test_cluster_yaml_is_valid() -> None:
    full = check(yaml.safe_load(CLUSTER.read_text(encoding="utf-8")))
    kinds = full["available_node_types"]
    labels = {kind["labels"][ROLE]: kind for kind in kinds.values() if kind.get("labels")}
    assert labels.keys() == {"decode", "train"}, "the labels that pipelines asks for"
    assert all(kind["min_workers"] >= 1 for kind in labels.values()), "a label counts where a node has it"
    assert full["max_workers"] >= sum(kind["max_workers"] for kind in labels.values())
    assert all(local.startswith("~") for local in full["file_mounts"].values()), "the program is in the image"
    head = "\n".join(full["head_start_ray_commands"])
    assert "MLFLOW_TRACKING_URI" in head and "mlflow server" in head
    assert "--allowed-hosts" in head and "--cors-allowed-origins" in head, "for workers, and for browsers"
    for commands in (full["head_start_ray_commands"], full["worker_start_ray_commands"]):
        assert any("ray start" in command and "RAY_AUTH_MODE=token" in command for command in commands)


@pytest.mark.parametrize(
    "mistake",
    [
        {"provider": {"type": "aws", "region": "us-west-2", "regoin": "x"}},
        {"max_workers": 1},
        {"head_node_type": "boss"},
        {"setup_command": []},
    ],
)
def test_a_mistake_in_cluster_yaml_is_found(mistake: dict[str, Any]) -> None:
    config = yaml.safe_load(CLUSTER.read_text(encoding="utf-8"))
    with pytest.raises((AssertionError, ValueError, jsonschema.ValidationError)):
        check({**config, **mistake})


def test_without_labels_nothing_is_asked_for(ray_cluster: None) -> None:
    assert labelled("decode") == {} and labelled("train") == {}
    assert cluster_has("CPU", "decode") == cluster_has("CPU") == ray.cluster_resources()["CPU"]


def test_work_goes_to_labelled_nodes(own_ray: None, videos: Path, tmp_path: Path) -> None:
    """A head with CPUs to spare and no label, where everything would go first; a node to decode, a node to train."""
    with nodes(4) as cluster:
        by_role = {role: cluster.add_node(num_cpus=2, labels={ROLE: role}).node_id for role in ("decode", "train")}
        cluster.wait_for_nodes()
        environment = {**os.environ, "RAY_ADDRESS": cluster.address, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-c", "from tests.cluster.test_cluster import work; work()", str(videos), str(tmp_path)]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
    placed = json.loads(done.stdout.splitlines()[-1])
    assert placed["decoded"] == placed["probed"] == [by_role["decode"]]
    assert placed["prepared"] == [by_role["decode"]]
    assert placed["trained"] == placed["embedded"] == placed["trial"] == [by_role["train"]]
    assert placed["nodes"] == [["", ""], ["decode", ""], ["train", ""]], "each looked at, none with a fault"
    assert placed["refused"] == "the training needs 3 CPU for 3 workers, the cluster has 2 for it", "not the whole cluster's 8"


def work() -> None:
    """Everything that asks for a label, on the cluster of RAY_ADDRESS; prints {what: the nodes where it ran}."""
    from ray.util import placement_group_table
    from ray.util.state import list_actors, list_tasks

    logging.disable(logging.WARNING)
    changes = ("data.store=false", "training.epochs=1", "resources.num_workers=1", "resources.cpus_per_worker=1")
    folder, output = Path(sys.argv[1]), Path(sys.argv[2])
    experiment = recipe(folder, output, *changes)
    with connected():
        verify(experiment, output / "verify.parquet")
        run_experiment(experiment)
        try:
            run_experiment(recipe(folder, output, *changes[:-2], "resources.num_workers=3", "resources.cpus_per_worker=1"))
        except ResourceError as error:
            refused = str(error).partition(":")[0]
        tasks = {task.task_id: task for task in list_tasks(detail=True, limit=1000) if task.node_id}
        actors = list_actors(detail=True, limit=1000)
        group = _resources(experiment)[0].to_placement_group()
        ray.get(group.ready(), timeout=60)
        trial = placement_group_table(group)["bundles_to_node_id"]
        seen = look_at_nodes(experiment, os.environ["RAY_ADDRESS"])
    where = {"prepared": "MapBatches(_write_shard_or_say)", "probed": "MapBatches(block)", "decoded": "decoded"}
    placed = {what: sorted({task.node_id for task in tasks.values() if task.name == name}) for what, name in where.items()}
    placed |= {
        what: sorted({actor.node_id for actor in actors if kind in actor.class_name})
        for what, kind in (("trained", "TrainWorker"), ("embedded", "Embedder"))
    }
    placed["trial"] = sorted(trial.values())
    placed["nodes"] = sorted([node.found.partition(f"{ROLE}=")[2].partition(",")[0], node.wrong] for node in seen)
    print(json.dumps({**placed, "refused": refused, "names": sorted({task.name for task in tasks.values()})}))
