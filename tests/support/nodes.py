"""A Ray of several nodes on this machine: as many as a test says, or as many as Ray's autoscaler starts."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipelines.cluster.connect import closed
from pipelines.cluster.ui import free_port
from tests.support.commands import kill_all


@contextmanager
def nodes(cpus: int) -> Iterator[Any]:
    """Ray's `Cluster`, whose head has so many CPUs; nothing is left of it afterwards."""
    from ray._private import ray_constants
    from ray.cluster_utils import Cluster

    with (
        tempfile.TemporaryDirectory(prefix="vop-", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
        closed(),
    ):
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


@contextmanager
def growing(head: dict[str, float], worker: dict[str, float], most: int, idle_minutes: float = 5) -> Iterator[str]:
    """The address of a Ray whose autoscaler starts up to `most` nodes like `worker` beside its head, by Ray's fake provider.

    Not by `ray.cluster_utils.AutoscalingCluster`: that begins and ends with `ray stop`, which ends every Ray of the machine.
    """
    from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
    from ray.autoscaler._private.monitor import BASE_READONLY_CONFIG

    port = free_port()
    fake = {"type": "fake_multinode", "gcs_address": f"127.0.0.1:{port}", "disable_node_updaters": True}
    kinds = {
        "ray.head.default": {"resources": head, "node_config": {}, "max_workers": 0},
        "worker": {"resources": worker, "node_config": {}, "min_workers": 0, "max_workers": most},
    }
    with tempfile.TemporaryDirectory(prefix="vop-", ignore_cleanup_errors=True) as folder, closed():
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)  # for what this process asks of it
        file = Path(folder) / "cluster.json"
        config = {
            **BASE_READONLY_CONFIG,
            "max_workers": most,
            "idle_timeout_minutes": idle_minutes,
            "provider": BASE_READONLY_CONFIG["provider"] | fake,
            "available_node_types": kinds,
        }
        file.write_text(json.dumps(config))
        words = ["start", "--head", "--block", f"--port={port}", "--node-ip-address=127.0.0.1", f"--num-cpus={head['CPU']}"]
        words += [f"--temp-dir={folder}/ray", f"--autoscaling-config={file}", "--dashboard-port=0", "--disable-usage-stats"]
        settings = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
        with (Path(folder) / "log").open("w") as log:
            process = psutil.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", *words],
                stdout=log,
                stderr=log,
                env={**os.environ, **settings},
                start_new_session=True,
            )
        try:
            deadline = time.monotonic() + 120
            while "Ray runtime started" not in (said := (Path(folder) / "log").read_text()):
                assert process.poll() is None and time.monotonic() < deadline, said
                time.sleep(0.2)
            yield f"127.0.0.1:{port}"
        finally:
            kill_all(process)
