"""One command at a time fills a folder; the others wait for it and find its work done.

In a folder the claim is a lock of the operating system, which goes with its owner however that dies. Where there is none
(object storage, some network filesystems) it is a file that its owner renews: an owner is dead once its file has not changed
for DEAD seconds of the watcher's clock, so clocks need not agree. Two that claim such a place within SETTLE seconds may both
get it: then they do the same work twice, and nothing is lost, since files appear whole.
"""

from __future__ import annotations

import fcntl
import getpass
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pyarrow import fs

from vop.places import PlaceError, join, located, told

logger = logging.getLogger(__name__)
CLAIM = ".claim"
LOOK, BEAT, SETTLE, DEAD = 0.5, 5.0, 2.0, 60.0  # seconds


@contextmanager
def claimed(folder: str, wait: bool = True) -> Iterator[bool]:
    """While it lasts nobody else has a folder. False: somebody else has it, and was not waited for.

    Raises PlaceError for a folder that cannot be written. Nothing is left of it afterwards but the folder.
    """
    filesystem, inside = located(folder)
    with told(folder):
        filesystem.create_dir(inside, recursive=True)
    file = _locked(folder, inside, wait) if isinstance(filesystem, fs.LocalFileSystem) else None
    if file is None:
        with _renewed(folder, wait) as mine:
            yield mine
        return
    try:
        yield file >= 0
    finally:
        if file >= 0:
            with suppress(OSError):
                os.unlink(os.path.join(inside, CLAIM))
            os.close(file)  # and the lock goes


def _locked(folder: str, inside: str, wait: bool) -> int | None:
    """The open file of the lock; -1 where somebody else has it and is not waited for; None on a filesystem without locks."""
    path, told_of = os.path.join(inside, CLAIM), ""
    while True:
        with told(folder):
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            with suppress(OSError):  # who may write into the folder may claim it
                os.fchmod(file, os.stat(inside).st_mode & 0o666)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(path, file):  # else its last owner removed it just now
                with suppress(OSError):  # a full disk: then who waits is not told for whom
                    os.truncate(file, 0)
                    os.pwrite(file, _owner().encode(), 0)
                return file
        except BlockingIOError:
            if not wait:
                os.close(file)
                return -1
            told_of = _say(folder, os.pread(file, 1000, 0).decode(errors="replace"), told_of)
            time.sleep(LOOK)
        except OSError as error:
            logger.debug("%s has no locks: %s", folder, error)
            os.close(file)
            return None
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _is(path: str, file: int) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _say(folder: str, owner: str, told_of: str) -> str:
    """Say who is waited for, once of each; returns the owner that was said."""
    if owner and owner != told_of:
        logger.info("%s is being filled by %s: waiting for it, to share its work", folder, owner)
    return owner or told_of


def _owner() -> str:
    with suppress(OSError, KeyError):
        return f"process {os.getpid()} of {getpass.getuser()} on {socket.gethostname()}"
    return f"process {os.getpid()} on {socket.gethostname()}"


@contextmanager
def _renewed(folder: str, wait: bool) -> Iterator[bool]:
    """A claim where there are no locks."""
    place, owner = join(folder, CLAIM), f"{_owner()}, {time.time_ns()}"
    if not _won(place, folder, owner, wait):
        yield False
        return
    ended = threading.Event()

    def renew() -> None:
        beat = 0
        while not ended.wait(BEAT):
            beat += 1
            with suppress(OSError, PlaceError):
                _put(place, f"{owner}\n{beat}")

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield True
    finally:
        ended.set()
        thread.join()
        with suppress(OSError):
            filesystem, inside = located(place)
            filesystem.delete_file(inside)


def _won(place: str, folder: str, owner: str, wait: bool) -> bool:
    told_of, seen, since = "", "", time.monotonic()
    while True:
        there = _get(place)
        if not there or (there == seen and time.monotonic() - since > DEAD):
            _put(place, owner)
            time.sleep(SETTLE)  # who else wrote meanwhile
            if _get(place) == owner:
                return True
        elif there != seen:
            seen, since = there, time.monotonic()
        if not wait:
            return False
        told_of = _say(folder, there.partition("\n")[0], told_of)
        time.sleep(LOOK)


def _get(place: str) -> str:
    filesystem, inside = located(place)
    with suppress(FileNotFoundError), filesystem.open_input_file(inside) as file:
        return str(file.read().decode(errors="replace"))
    return ""


def _put(place: str, text: str) -> None:
    filesystem, inside = located(place)
    aside = f"{inside}.{uuid.uuid4().hex[:8]}.partial" if isinstance(filesystem, fs.LocalFileSystem) else inside
    with told(place):
        with filesystem.open_output_stream(aside) as file:
            file.write(text.encode())
        if aside != inside:  # never shorter while it is read: who reads it has it in memory, as a map
            filesystem.move(aside, inside)
