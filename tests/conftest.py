"""What the tests share: one Ray cluster, a small folder of real videos, a training of it, a CLIP of real size.

Markers are set here, by what a test asks for, itself or through another fixture: `ray` for one that asks for `ray_cluster` or
`own_ray`, `chaos` and `slow` for one that asks for these. A test without the first cannot start Ray.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.recipe import recipe
from tests.support.videos import write_clips
from vop.config import BackboneConfig

if TYPE_CHECKING:
    from pipelines.train.run import Result
    from vop.model.backbone import Backbone

MARKED_BY = {"ray": {"ray_cluster", "own_ray"}, "chaos": {"chaos"}, "slow": {"slow"}}
# Ray makes its files below RAY_TMPDIR: nothing can be made here, and the error names the folder.
NO_RAY = "/dev/null/a test that starts Ray asks for ray_cluster or own_ray"


def pytest_configure(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # each takes a core; torch would take them all
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for marker, fixtures in MARKED_BY.items():
            if fixtures & set(getattr(item, "fixturenames", ())):
                item.add_marker(marker)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")  # of our tables, whichever test makes the first
        if not item.get_closest_marker("ray"):
            patch.setenv("RAY_TMPDIR", NO_RAY)
        return (yield)


@pytest.fixture(scope="session")
def slow() -> None:
    """Asked for by what takes more than two seconds of a processor: `make check` leaves it to `make test`."""


@pytest.fixture(scope="session")
def own_ray() -> None:
    """Asked for by what starts a Ray of its own, in another process or with settings of its own."""


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A Ray of this process's tests, started once."""
    from pipelines.cluster.connect import connected

    with (
        tempfile.TemporaryDirectory(prefix="vop-ray-", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_TMPDIR", folder)
        patch.delenv("RAY_ADDRESS", raising=False)
        with connected():
            yield


@pytest.fixture
def chaos(own_ray: None) -> random.Random:
    """Decides what is killed and when. Its seed is printed, and taken from VOP_SEED."""
    seed = int(os.environ.get("VOP_SEED") or time.time_ns() % 10**9)
    print(f"VOP_SEED={seed}")
    return random.Random(seed)


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve toy clips, two of them with two captions, and their captions.csv (6 train, 2 val, 4 test)."""
    return write_clips(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="session")
def trained(ray_cluster: None, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A finished training of `recipe`."""
    from pipelines.train.run import run_experiment

    return run_experiment(recipe(videos, tmp_path_factory.mktemp("trained")))


@pytest.fixture(scope="session")
def vit_b_32() -> Backbone:
    """CLIP ViT-B/32 with random weights and OpenAI's activation, to be left as it is."""
    from vop.model.backbone import load_backbone

    return load_backbone(BackboneConfig(name="ViT-B-32", pretrained="random", quick_gelu=True))
