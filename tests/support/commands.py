"""vop commands as processes with a Ray of their own: started, waited for, killed with all that they have started."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil


@contextmanager
def command(words: list[str], log: Path, **settings: str) -> Iterator[psutil.Popen]:
    """A command at work, which writes to a log; nothing is left of it afterwards. settings: of its environment."""
    with tempfile.TemporaryDirectory(prefix="vop-", ignore_cleanup_errors=True) as scratch, log.open("ab") as output:
        kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        process = psutil.Popen(
            [sys.executable, "-m", "pipelines", *words],
            stdout=output,
            stderr=output,
            env={**kept, "RAY_TMPDIR": scratch, **settings},
            start_new_session=True,
        )
        try:
            yield process
        finally:
            kill_all(process)


def kill_all(process: psutil.Popen) -> None:
    """SIGKILL for a process and all that it has started."""
    with suppress(psutil.NoSuchProcess):
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGKILL)
    process.wait(60)


def wait_for(condition: Callable[[], object], process: psutil.Popen, log: Path, seconds: float = 240) -> None:
    """Wait until a condition holds, while a process is at work."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
