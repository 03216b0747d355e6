"""MLflow's server on this machine: how it is started, and in this process' place for `vop ui`."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from pipelines.locations import artifact_folder, tracking_uri
from vop.config import TrackingConfig
from vop.errors import VopError

HOST = "127.0.0.1"
# Without it the server has eight more processes, 1.3 GiB, for jobs that this project does not have.
ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


class PortError(VopError, RuntimeError):
    """A port that somebody else listens on; the message has a free one."""


def server_command(store: str, artifacts: Path, port: int) -> list[str]:
    """The command of a server that keeps runs in `store` and their files in `artifacts`; run it with ENVIRONMENT."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    return [*command, "--backend-store-uri", store, "--artifacts-destination", str(artifacts)]


def serve(tracking: TrackingConfig, port: int) -> None:
    """Become MLflow's server on an experiment's runs."""
    command = server_command(tracking_uri(tracking), artifact_folder(tracking), port)
    os.execve(command[0], command, {**os.environ, **ENVIRONMENT})


def check_port(port: int) -> None:
    """Raise PortError where a server could not listen."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise PortError(f"port {port} of {HOST} cannot be used ({error}); a free one: --port {free_port()}") from error


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
