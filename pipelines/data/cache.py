"""Folders of large files that can be made again: together never larger than a limit, the longest unused go first.

Who uses a folder holds a shared lock in it. It is a sign of life that ends with its process: such a folder is never removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vop.places import PlaceError, amount, free_bytes, told

LOCK = "in-use"


@dataclass(frozen=True)
class Kept:
    """A folder that is not removed while this object lives: it holds the open file of its lock."""

    path: Path
    lock: Any

    def discard(self) -> None:
        """Give the folder up, and remove it unless somebody else uses it."""
        self.lock.close()
        _removed(self.path)


def kept(root: Path, name: str, needed: int, limit: float, setting: str) -> Kept:
    """The folder of a name below `root`, in use from now on; others go, the longest unused first, until it fits the limit.

    needed: bytes that it will hold; setting: the limit's name. Raises PlaceError where it does not fit or cannot be written.
    """
    allowed = f"{root}: {amount(needed)} are needed, {setting} allows {limit / 1e9:g} GB"
    if needed > limit:
        raise PlaceError(allowed)
    folder = root / name
    with told(str(folder)):
        root.mkdir(parents=True, exist_ok=True)
        new = not folder.exists()
        found = Kept(folder, _used(folder))
        others = sorted((path for path in root.iterdir() if path.is_dir() and path != folder), key=_age)
        sizes = {path: size_of(path) for path in others}
        for other in others:
            if needed + sum(sizes.values()) > limit and _removed(other):
                del sizes[other]
        if needed + sum(sizes.values()) > limit:
            if new:
                found.discard()
            raise PlaceError(f"{allowed}, and {amount(sum(sizes.values()))} are in use")
        os.utime(folder)
    return found


def _used(folder: Path) -> Any:
    """The open file of a folder's lock, shared."""
    while True:
        folder.mkdir(exist_ok=True)
        file = (folder / LOCK).open("a")
        with suppress(OSError):  # a filesystem without locks, where nothing is ever removed
            fcntl.flock(file, fcntl.LOCK_SH)
        try:
            if os.path.samestat(os.fstat(file.fileno()), os.stat(folder / LOCK)):
                return file
        except FileNotFoundError:  # somebody removed it just now
            pass
        file.close()


def _removed(folder: Path) -> bool:
    """Remove a folder that nobody uses."""
    try:
        with (folder / LOCK).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
            return True
    except OSError:
        return False


def _age(folder: Path) -> float:
    return folder.stat().st_mtime


def size_of(folder: Path) -> int:
    """Bytes on disk of all files in a folder."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def mapped(path: Path, kind: type, shape: tuple[int, ...]) -> NDArray[Any]:
    """An array in a file, zeros where nothing was written; who comes first makes the file.

    Its room is taken now: on a full disk a page of a sparse file has none when it is written, which kills the process. Raises
    PlaceError.
    """
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    with told(str(path)), path.open("a+b") as file:
        status = os.fstat(file.fileno())
        free = free_bytes(str(path))
        if free is not None and size - status.st_blocks * 512 > free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if status.st_size != size:
            os.ftruncate(file.fileno(), size)
        if status.st_blocks * 512 < size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        return np.memmap(path, kind, "r+", shape=shape)
