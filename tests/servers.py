"""Servers that tests start and end themselves: MLflow on SQLite or PostgreSQL."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path, seconds: float = 90) -> None:
    """Until something listens on a port of this machine."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(f"nothing listens on {port}:\n{log.read_text()}")


@contextmanager
def mlflow_server(folder: Path, port: int, store: str = "") -> Iterator[str]:
    """An MLflow server for the while, on an SQLite file of `folder` or another store; gives its address."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        store or f"sqlite:///{folder}/server.db",
        "--artifacts-destination",
        str(folder / "kept"),
    ]
    log = folder / "server.log"
    with log.open("ab") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, env=_quiet())
    try:
        wait_for(port, server, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def _quiet() -> dict[str, str]:
    unwanted = ("MLFLOW_TRACKING_URI", "PYTHONPATH")
    return {key: value for key, value in os.environ.items() if key not in unwanted} | {"MLFLOW_DISABLE_TELEMETRY": "true"}


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """A PostgreSQL of the test's own (Debian's package); skips where there is none. Gives the address of a database."""
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    binaries = found[-1] if found else Path(shutil.which("initdb") or "").parent
    if not (binaries / "initdb").is_file():
        pytest.skip("PostgreSQL is not installed")
    port, data = free_port(), folder / "data"
    folder.mkdir(parents=True)
    as_user: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres")
        for parent in folder.parents:
            if parent.owner() == "root" and parent != Path("/tmp"):
                parent.chmod(parent.stat().st_mode | 0o111)
        as_user = ["runuser", "-u", "postgres", "--"]
    subprocess.run([*as_user, binaries / "initdb", "-D", data, "-A", "trust", "-U", "vop"], check=True, capture_output=True)
    command = [*as_user, binaries / "postgres", "-D", data, "-p", str(port), "-k", folder, "-h", "127.0.0.1"]
    log = folder.parent / "postgresql.log"
    with log.open("ab") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        wait_for(port, server, log)
        yield f"postgresql+psycopg2://vop@127.0.0.1:{port}/postgres"
    finally:
        server.terminate()
        server.wait(30)
