"""A training whose number of workers is a range: nodes go and come, and it ends as one that nothing has disturbed."""

from __future__ import annotations

import csv
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
import psutil
import yaml
from ray._raylet import GcsClient
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from pipelines.locations import tracking_uri
from pipelines.tracking import Run
from tests.support.commands import command, wait_for
from tests.support.nodes import nodes
from tests.support.recipe import recipe
from tests.support.runs import points, the_run
from vop.config import Experiment

EPOCHS = 60  # enough for nodes to come and go while they are trained
CAPTIONS = 3  # of each video


def test_nodes_go_and_come_in_a_training(own_ray: None, videos: Path, tmp_path: Path) -> None:
    clips = with_captions(videos, tmp_path / "clips")
    elastic, undisturbed = experiment(clips, tmp_path / "elastic", "1-2"), experiment(clips, tmp_path / "undisturbed", "1")
    checkpoints, log = tmp_path / "elastic" / "runs" / "checkpoints", tmp_path / "log"
    with nodes(1) as cluster:
        second = cluster.add_node(num_cpus=1)
        with training(elastic, cluster.address, log) as process:
            wait = partial(wait_for, process=process, log=log)
            wait(lambda: epoch_of(checkpoints) >= 2)
            cluster.remove_node(second, allow_graceful=False)
            wait(lambda: epoch_of(checkpoints) >= 3)
            third = cluster.add_node(num_cpus=1)
            wait(lambda: "workers: 2" in log.read_text(), seconds=400)
            grown = epoch_of(checkpoints)
            wait(lambda: epoch_of(checkpoints) > grown)
            announce(cluster.address, third.node_id, seconds=3)
            assert process.wait(400) == 0, log.read_text()
        with training(undisturbed, cluster.address, log) as process:
            assert process.wait(400) == 0, log.read_text()
    workers = Run(tracking_uri(elastic.tracking), the_run(elastic).id).history("epoch/workers")
    assert [number for number, _ in groupby(workers)] == [2, 1, 2, 1] and len(workers) == EPOCHS, log.read_text()
    found, expected = points(elastic), points(undisturbed)
    assert found.keys() == expected.keys()
    for name in expected:  # AdamW makes steps out of rounding, in dozens of epochs
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-3 if name == "train/loss" else 0, err_msg=name)


def experiment(clips: Path, work: Path, workers: str) -> Experiment:
    resources = (f"resources.num_workers={workers}", "resources.cpus_per_worker=1")
    return recipe(clips, work, f"training.epochs={EPOCHS}", f"data.cache={clips.parent}/cache", *resources)


@contextmanager
def training(experiment: Experiment, address: str, log: Path) -> Iterator[psutil.Popen]:
    """`vop train` on a cluster."""
    file = log.parent / "recipe.yaml"
    file.write_text(yaml.safe_dump(experiment.tree() | {"tuning": {}}))
    with command(["train", str(file)], log, RAY_ADDRESS=address, RAY_TMPDIR=os.environ["RAY_TMPDIR"]) as process:
        yield process


def announce(address: str, node: str, seconds: int) -> None:
    """Say that a node will be taken away so many seconds from now, as `ray drain-node` does."""
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    assert GcsClient(address=address).drain_node(node, reason, "a test", int(1000 * (time.time() + seconds)))[0]


def epoch_of(checkpoints: Path) -> int:
    """Of the last checkpoint of the only run."""
    return max((int(found.name[-6:]) for found in checkpoints.glob("*/epoch-*")), default=0)


def with_captions(videos: Path, folder: Path) -> Path:
    """The same videos, those for training with many captions each."""
    shutil.copytree(videos, folder)
    with (folder / "captions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        for row in rows:
            several = range(CAPTIONS if row["split"] == "train" else 1)
            writer.writerows({**row, "caption": f"{row['caption']}{' indeed' * place}"} for place in several)
    return folder
