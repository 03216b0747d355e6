"""A Ray of several nodes on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def nodes(cpus: int) -> Iterator[Any]:
    """Ray's `Cluster`, whose head has so many CPUs; nothing is left of it afterwards."""
    from ray._private import ray_constants
    from ray.cluster_utils import Cluster

    with (
        tempfile.TemporaryDirectory(prefix="vop-", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_TMPDIR", folder)
        # On 127.0.0.1, as any Ray of this process; who connects must not take that for the machine's address.
        patch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)
        patch.setenv(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, "0")
        head = {"num_cpus": cpus, "include_dashboard": True, "dashboard_port": 0}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            yield cluster
        finally:
            cluster.shutdown()
