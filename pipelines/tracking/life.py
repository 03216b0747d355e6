"""Whose a run is, and whether its process lives: an owner and a sign of life among its tags. The dead leave nothing RUNNING."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import psutil

from pipelines.tracking.journal import Journal
from vop.messages import clock

logger = logging.getLogger(__name__)
OWNER, ALIVE = "owner", "alive"  # tags: who runs it; when it was last heard of, in seconds since 1970
BEAT = 30.0  # seconds between two signs of life
SILENT = 1800.0  # seconds without one after which a process of another machine counts as dead; clocks differ by less


def signs() -> dict[str, str]:
    """The tags of a run of this process."""
    pid = os.getpid()
    return {OWNER: f"{socket.gethostname()} {_machine()} {pid} {_started(pid)}", ALIVE: f"{time.time():.0f}"}


@contextmanager
def beating(journal: Journal) -> Iterator[None]:
    """For the while, a thread gives a sign of life every BEAT seconds."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT):
            journal.beat({ALIVE: f"{time.time():.0f}"})

    threading.Thread(target=beat, daemon=True, name="signs of life").start()
    try:
        yield
    finally:
        ended.set()


def is_dead(tags: Mapping[str, str]) -> bool:
    """Whether the process that a run belongs to is gone: looked up on its machine, else by its last sign of life."""
    if len(owner := tags.get(OWNER, "").split()) != 4:
        return False  # of an earlier version: nobody knows
    host, machine, pid, started = owner
    if (host, machine) == (socket.gethostname(), _machine()):
        return _started(int(pid)) != started
    return _silence(tags) > SILENT


def whereabouts(tags: Mapping[str, str]) -> str:
    """Where a run's process is and when it was heard of: `on HOST, process 12, last sign of life 20 s ago`; "" if unknown."""
    if len(owner := tags.get(OWNER, "").split()) != 4:
        return ""
    return f"on {owner[0]}, process {owner[2]}, last sign of life {clock(max(0.0, _silence(tags)))} ago"


def _silence(tags: Mapping[str, str]) -> float:
    try:
        return time.time() - float(tags.get(ALIVE, "0"))
    except ValueError:
        return 0.0


@cache
def _machine() -> str:
    """Where a process number means the same: the machine since it was started, and in it the container."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    return sys.platform


def _started(pid: int) -> str:
    """When a process began, in the system's own units: another process of the same number has another; "" if there is none."""
    with suppress(OSError):
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        return "" if state in "ZX" else fields[18]
    if sys.platform == "linux":
        return ""
    try:
        return f"{psutil.Process(pid).create_time():.2f}"
    except psutil.Error:
        return ""
