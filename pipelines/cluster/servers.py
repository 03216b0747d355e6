"""Servers on this machine, each with ports and folders of its own, ended with all that they started: Ray's head, MLflow."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import ray  # noqa: F401  (brings psutil)
from psutil import NoSuchProcess, Process, wait_procs

from pipelines.cluster.dashboard import status
from pipelines.cluster.ui import ENVIRONMENT, free_port, server_command
from vop.errors import VopError

RAY_PORTS = (
    *("port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port"),
    *("metrics-export-port", "ray-client-server-port", "runtime-env-agent-port"),
)
SECONDS = 120  # to start; less than 10 where nothing else runs


class ServerError(VopError, RuntimeError):
    """A server that did not start; the message has its last words."""


@contextmanager
def ray_head(environment: Mapping[str, str], *options: str) -> Iterator[str]:
    """A Ray head for the while, on 127.0.0.1 alone; the address of its dashboard, where jobs are submitted.

    environment: its own, with RAY_AUTH_MODE and RAY_AUTH_TOKEN, which who connects needs too; options: of `ray start`.
    """
    with tempfile.TemporaryDirectory(prefix="vop-", ignore_cleanup_errors=True) as folder:  # Ray's sockets need a short path
        ports = {name: free_port() for name in RAY_PORTS}
        address = f"http://127.0.0.1:{ports['dashboard-port']}"
        command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--temp-dir={folder}"]
        command += [
            "--node-ip-address=127.0.0.1",
            "--disable-usage-stats",
            *(f"--{name}={port}" for name, port in ports.items()),
            *options,
        ]

        def is_up() -> bool:
            with suppress(OSError, ValueError):
                return status(address, {}) in (200, 401, 403)
            return False

        # Ray's own switch for machines that are no part of a cluster: else it takes the machine's address for 127.0.0.1
        with _running(command, {**environment, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}, Path(folder) / "ray.log", is_up):
            yield address


@contextmanager
def mlflow_server(folder: Path, port: int, store: str = "") -> Iterator[str]:
    """An MLflow server for the while, its address: runs in an SQLite file of `folder` or in `store`, files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    command = server_command(store or f"sqlite:///{folder}/mlflow.db", folder / "artifacts", port)
    environment = {key: value for key, value in os.environ.items() if key not in ("MLFLOW_TRACKING_URI", "PYTHONPATH")}

    def is_up() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    with _running(command, environment | ENVIRONMENT, folder / "server.log", is_up):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _running(command: list[str], environment: Mapping[str, str], log: Path, is_up: Callable[[], bool]) -> Iterator[None]:
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        deadline = time.monotonic() + SECONDS
        while not is_up():
            if process.poll() is not None or time.monotonic() > deadline:
                words = log.read_text(encoding="utf-8", errors="replace")[-2000:]
                raise ServerError(f"{' '.join(command[:4])} did not start:\n{words}")
            time.sleep(0.2)
        yield
    finally:
        with suppress(NoSuchProcess):  # Ray does not end its own at a SIGTERM
            ended = [*Process(process.pid).children(recursive=True), Process(process.pid)]
            for one in ended:
                with suppress(NoSuchProcess):
                    one.kill()
            wait_procs(ended, 30)  # else one that still holds the port looks like the next server
        process.wait(30)
