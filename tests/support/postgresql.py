"""A PostgreSQL of a test's own (Debian's package), which can be ended and started again."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.cluster.ui import free_port


def why_not() -> str:
    """What is missing for one; "" where nothing is."""
    if importlib.util.find_spec("psycopg2") is None:
        return "psycopg2 is not installed"
    return "" if (_binaries() / "initdb").is_file() else "PostgreSQL is not installed"


def _binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return found[-1] if found else Path(shutil.which("initdb") or "").parent


class Postgres:
    """A database in a new folder, that runs while `running` does. folder: its path must be short, for a socket."""

    def __init__(self, folder: Path) -> None:
        self.data, self.port, self.log = folder / "data", free_port(), folder.parent / "postgresql.log"
        self.user = None
        folder.mkdir(parents=True)
        if os.geteuid() == 0:  # it refuses to run as root
            self.user = "postgres"
            shutil.chown(folder, self.user)
            for parent in folder.parents:
                if parent.owner() == "root" and parent != Path("/tmp"):
                    parent.chmod(parent.stat().st_mode | 0o111)
        make = [_binaries() / "initdb", "-D", self.data, "-A", "trust", "-U", "vop"]
        subprocess.run(make, check=True, capture_output=True, user=self.user, cwd="/")

    @contextmanager
    def running(self) -> Iterator[str]:
        """Its address; at the end of the block it ends at once, whoever is connected."""
        command = [_binaries() / "postgres", "-D", self.data, "-p", str(self.port), "-k", self.data.parent, "-h", "127.0.0.1"]
        with self.log.open("ab") as output:
            server = subprocess.Popen(command, stdout=output, stderr=output, user=self.user, cwd="/")
        try:
            deadline = time.monotonic() + 60
            while socket.socket().connect_ex(("127.0.0.1", self.port)):
                assert server.poll() is None and time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.2)
            yield f"postgresql+psycopg2://vop@127.0.0.1:{self.port}/postgres"
        finally:
            server.send_signal(signal.SIGQUIT)
            server.wait(30)
