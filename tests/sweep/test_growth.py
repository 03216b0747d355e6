"""A cluster that grows (Ray's autoscaler, its fake provider), from no node at all to as many as trials ask for."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import yaml
from ray._raylet import GcsClient

from pipelines.locations import tracking_uri
from pipelines.tracking import Run, find_sweep
from tests.support.commands import command, wait_for
from tests.support.nodes import growing
from tests.support.recipe import recipe

SPACE = """
from ray import tune
SPACE = {"video_prompt.length": tune.grid_search([1, 2, 3, 4])}
METRIC, MODE = "val/t2v/R1", "max"
"""


def test_a_sweep_of_four_trials_makes_three_nodes(own_ray: None, videos: Path, tmp_path: Path) -> None:
    changes = ("training.epochs=1", "resources.num_workers=1", "resources.cpus_per_worker=1")
    experiment = recipe(videos, tmp_path, *changes)
    (tmp_path / "space.py").write_text(SPACE)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(experiment.tree() | {"tuning": {}}))
    file, log = str(tmp_path / "recipe.yaml"), tmp_path / "log"
    with command(["prepare", file], log) as process:  # which would make nodes too
        assert process.wait(240) == 0, log.read_text()
    words = ["tune", file, "--space", str(tmp_path / "space.py"), "--name", "grown"]
    with growing({"CPU": 0}, {"CPU": 1}, most=3) as address, command(words, log, RAY_ADDRESS=address) as process:
        wait = partial(wait_for, process=process, log=log)
        wait(lambda: "waiting for nodes that the cluster can start" in log.read_text())
        wait(lambda: "sweep: 4 trials, 1 at a time" in log.read_text())
        wait(lambda: len(GcsClient(address=address).get_all_node_info()) == 1 + 3)
        assert process.wait(400) == 0, log.read_text()
    sweep = find_sweep(experiment.tracking, "grown")
    assert sweep is not None
    trials = Run(tracking_uri(experiment.tracking), sweep.id).children()
    assert [trial.status for trial in trials] == ["FINISHED"] * 4, log.read_text()
