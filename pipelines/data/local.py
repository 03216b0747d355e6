"""A remote store's shards on a node's own disk: fetched while training reads from afar, and read here from then on.

They are in a folder of their own for each store below `ROOT`, of `data.local_gb` together (`cache.py`). A copy is called as its
shard and has its checksums: what is damaged in it is seen when it is read, and read from afar.
"""

from __future__ import annotations

import fcntl
import logging
import threading
from pathlib import Path

from pipelines.data import shards
from pipelines.data.cache import Kept, kept
from pipelines.data.shards import folder_of
from vop.fingerprint import fingerprint
from vop.places import PlaceError, absolute, amount, free_bytes, is_remote, join, located, sentence
from vop.whole import fetch

logger = logging.getLogger(__name__)
ROOT = "~/.cache/vop/shards"
NAME = "fetch shards"  # of the thread
SPARE = 2**30  # bytes of the disk that are left free
_NEAR: dict[str, Kept] = {}  # by store; in use as long as this process lives


def keep(store: str, gigabytes: float) -> None:
    """Begin to fetch a remote store's shards, as many as such a limit has room for; one process of a node does, in a thread."""
    if not gigabytes or not is_remote(store) or store in _NEAR:
        return
    sizes = {name: int(version.split()[0]) for name, version in shards.versions(store).items()}
    limit = gigabytes * 1e9
    needed = min(sum(sizes.values()), limit)
    try:
        _NEAR[store] = kept(Path(absolute(ROOT)), fingerprint([store]), int(needed), limit, "data.local_gb")
    except PlaceError as error:  # without it training takes longer, and is the same
        logger.warning("frames are read from %s alone: %s", store, error)
        return
    threading.Thread(name=NAME, target=_fetch, args=(store, _NEAR[store].path, sizes, needed), daemon=True).start()


def wait() -> None:
    """Until all is fetched that this process fetches."""
    for thread in threading.enumerate():
        if thread.name == NAME:
            thread.join()


def nearest(store: str, shard: str) -> str:
    """The store, on this node's disk or the one itself, in which a shard is to be read."""
    near = _NEAR.get(store)
    return str(near.path) if near and _copy(near.path, shard).exists() else store


def drop(near: str, shard: str) -> None:
    """Remove a copy that is damaged."""
    logger.warning("%s is damaged: it is read from afar", _copy(Path(near), shard))
    _copy(Path(near), shard).unlink(missing_ok=True)


def _copy(near: Path, shard: str) -> Path:
    return Path(folder_of(str(near)), shard)


def _fetch(store: str, near: Path, sizes: dict[str, int], most: float) -> None:
    """What the thread does, unless another process of this node is at it."""
    try:
        with (near / "fetching").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _fill(store, Path(folder_of(str(near))), sizes, most)
    except BlockingIOError:
        return
    except OSError as error:
        logger.warning("what is not yet on this node's disk is read from afar: %s", sentence(store, error))


def _fill(store: str, folder: Path, sizes: dict[str, int], most: float) -> None:
    """Fetch shards in order until all are here, or there is no room; what the store does not have goes. Memory: as `fetch`."""
    folder.mkdir(exist_ok=True)
    here = {path.name: path.stat().st_size for path in folder.iterdir()}
    for name in here.keys() - sizes.keys():  # also what a process left that was killed
        (folder / name).unlink()
    used = sum(here[name] for name in here.keys() & sizes.keys())
    for name in (name for name in sizes if name not in here):
        free = free_bytes(str(folder))
        if used + sizes[name] > most or (free is not None and free < sizes[name] + SPARE):
            logger.info("%s of %s are on this node's disk: there is no room for more", amount(used), store)
            return
        filesystem, inside = located(join(folder_of(store), name))
        fetch(filesystem, inside, folder / name)
        used += sizes[name]
