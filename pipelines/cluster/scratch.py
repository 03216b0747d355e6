"""Where a Ray that is started here puts its logs and sockets, and that there is room for them."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from vop.errors import VopError

SOCKET = "/ray/session_2026-01-01_00-00-00_000000_1000000/sockets/plasma_store"  # below its temporary folder
SOCKET_BYTES = 107  # that a path of a socket may have
ROOM_MIB = 100  # of logs, for a short run
FULL_MIB = 1
LOOK = 2.0  # seconds between two looks at the room
HINT = "set RAY_TMPDIR to another folder"


class ResourceError(VopError, RuntimeError):
    """The cluster is short of something; the message says what is asked for and what there is."""


def folder() -> str:
    """Ray's temporary folder."""
    return os.environ.get("RAY_TMPDIR") or (os.environ.get("TMPDIR") if sys.platform == "linux" else "") or "/tmp"


def check_room() -> None:
    """Raises ResourceError where Ray could not put its sockets and logs."""
    place = folder()
    if not os.path.isdir(place) or not os.access(place, os.W_OK | os.X_OK):
        raise ResourceError(f"Ray's files go to {place}, which is not a folder that can be written to: {HINT}")
    longest = len(os.fsencode(place)) + len(SOCKET)
    if longest > SOCKET_BYTES:
        raise ResourceError(f"Ray's sockets go below {place}, a path that is {longest - SOCKET_BYTES} bytes too long: {HINT}")
    free = shutil.disk_usage(place).free
    if free < ROOM_MIB * 2**20:
        raise ResourceError(f"Ray's files go to {place}, where {free / 2**20:.0f} MiB are free; it needs {ROOM_MIB}: {HINT}")


@contextmanager
def with_room() -> Iterator[None]:
    """For the while, a disk that fills up below Ray's files stops the program with a ResourceError.

    Ray itself would wait for ever: its processes cannot write their logs, die, and are started again. Nothing is watched
    outside of the main thread, which alone can be stopped.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    place, full, done = folder(), threading.Event(), threading.Event()

    def watch() -> None:
        while not done.wait(LOOK):
            if shutil.disk_usage(place).free < FULL_MIB * 2**20:
                full.set()
                os.kill(os.getpid(), signal.SIGTERM)  # unwinds the main thread, as a stop does
                return

    threading.Thread(target=watch, name="room for Ray", daemon=True).start()
    try:
        yield
    except KeyboardInterrupt:  # Ray makes a bare one of Stopped, in calls that wait
        if not full.is_set():
            raise
        raise ResourceError(f"Ray's files go to {place}, whose disk is full: make room there, or {HINT}") from None
    finally:
        done.set()
