"""Of `make chaos`, what is done beside shards (`tests/data/test_damage.py` has those); of whole trainings only one is killed.

VOP_KILLS says how often a kind is tried in which something is killed, VOP_SEED repeats the moments.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.chaos.commands import driver_killed
from tests.chaos.kind import Skipped
from tests.chaos.runs import KINDS as RUNS
from tests.chaos.stores import KINDS as STORES

KILLS = int(os.environ.get("VOP_KILLS", "1"))


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize(("name", "do"), [kind for kind in (*STORES, *RUNS) if not kind[0].startswith("a shard")])
def test_the_next_run_gives_the_same_numbers(name: str, do: Callable[[Random, Path], None], tmp_path: Path) -> None:
    for number in range(KILLS if "killed" in name else 1):
        (tmp_path / str(number)).mkdir()
        try:
            do(Random(name), tmp_path / str(number))
        except Skipped as reason:
            pytest.skip(str(reason))


def test_a_training_whose_driver_is_killed_ends_with_the_same_numbers(chaos: Random, ray_cluster: None, tmp_path: Path) -> None:
    for number in range(KILLS):
        (tmp_path / str(number)).mkdir()
        driver_killed(chaos, tmp_path / str(number))
