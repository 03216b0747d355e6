"""Markers follow from fixtures, so none can be forgotten: without `ray` a test cannot start Ray."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.fixture
def through_another(own_ray: None) -> None:
    pass


def markers_of(request: pytest.FixtureRequest) -> set[str]:
    return {mark.name for mark in request.node.iter_markers()}


def test_a_test_that_starts_ray_by_another_fixture_is_marked(through_another: None, request: pytest.FixtureRequest) -> None:
    assert markers_of(request) == {"ray"}


def test_a_test_that_kills_has_both_markers(chaos: object, request: pytest.FixtureRequest) -> None:
    assert markers_of(request) == {"ray", "chaos"}


def test_an_unmarked_test_cannot_start_ray(request: pytest.FixtureRequest) -> None:
    assert markers_of(request) == set()
    code = "import ray; ray.init(address='local', num_cpus=1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode and "a test that starts Ray asks for ray_cluster or own_ray" in done.stderr
