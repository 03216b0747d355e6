"""Places: a path on this machine, or a URI that pyarrow knows (file://, s3://, gs://, ...). All that tells them apart is here.

A URI may end in a query, as in `s3://bucket/frames?region=eu-west-1`: names are put before it. A path whose bytes are no text
(a name that is not UTF-8) is written `bytes:/videos/caf%E9.mp4`, so that tables, JSON and screens can hold it.
"""

from __future__ import annotations

import errno
import os
import posixpath
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

import pyarrow as pa
from pyarrow import fs

from vop.errors import VopError

LOCAL = fs.LocalFileSystem(use_mmap=True)
BYTES = "bytes:"
LOOKS = 32  # files looked at at once: on a remote filesystem each look is a round trip
FEW = 8  # files of a remote folder that are looked at one by one
# What is wrong with a machine, and not with the file that it showed at: no room, too many open files, no memory, read-only.
OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EROFS)
QUERY = re.compile(r"\?[\w.-]+=[^/?]*$")  # else a question mark belongs to a file's name


class PlaceError(VopError, RuntimeError):
    """A place that cannot be used; the message names it and says why."""


def is_remote(place: str) -> bool:
    """Whether a place is a URI and not a path of this machine."""
    return "://" in place and not place.startswith(BYTES)


def as_text(path: str) -> str:
    """A path of this machine as a place: itself, or where Python reads bytes in it that are no text, their code."""
    try:
        path.encode()
        return path
    except UnicodeEncodeError:
        return BYTES + quote(os.fsencode(path))


def readable(name: str) -> str:
    """A file's name to be shown and stored: bytes that are no text as `\\xe9`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def absolute(place: str) -> str:
    """A place that means the same wherever it is read: a URI without a slash at its end, or an absolute path."""
    if not is_remote(place):
        try:
            return str(Path(os.path.expanduser(place)).resolve())
        except (OSError, RuntimeError) as error:  # links that go round in a circle, a name that is too long
            raise PlaceError(f"{place}: {error}") from error
    base, query = _parted(place)
    return base.rstrip("/") + query


def join(place: str, *names: str) -> str:
    """What is called so below a place."""
    base, query = _parted(place) if is_remote(place) else (place, "")
    return "/".join([base.rstrip("/"), *names]) + query


def located(place: str) -> tuple[fs.FileSystem, str]:
    """The filesystem of a place, and the path in it. Raises PlaceError for a URI that pyarrow does not know."""
    if place.startswith(BYTES):
        return LOCAL, unquote_to_bytes(place.removeprefix(BYTES))  # type: ignore[return-value]  # pyarrow takes bytes too
    if not is_remote(place):
        return LOCAL, place
    base, query = _parted(place)
    parent, name = posixpath.split(base.rstrip("/"))  # the name stays as it is: a video's may hold a % or a #
    if not parent or parent.endswith(("/", ":")):
        parent, name = base, ""
    filesystem, folder = _filesystem(parent + query)
    return filesystem, posixpath.join(folder, name) if name else folder


def _parted(uri: str) -> tuple[str, str]:
    found = QUERY.search(uri)
    return (uri[: found.start()], found.group()) if found else (uri, "")


@lru_cache(maxsize=256)
def _filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    try:
        filesystem, folder = fs.FileSystem.from_uri(uri)
    except (pa.ArrowException, OSError, ImportError, ValueError) as error:  # which quotes the URI, so it is not chained
        raise PlaceError(f"{uri}: {error}; valid: a path, or a URI that pyarrow knows (file://, s3://, gs://, ...)") from None
    return (LOCAL if isinstance(filesystem, fs.LocalFileSystem) else filesystem), folder


@contextmanager
def local_copy(place: str) -> Iterator[str]:
    """A path on this machine for a file: its own, or that of a scratch copy for the while. OSError where there is none."""
    filesystem, inside = located(place)
    if isinstance(filesystem, fs.LocalFileSystem):
        yield os.fsdecode(inside)
        return
    with tempfile.TemporaryDirectory(prefix="vop-") as folder:
        copy = Path(folder) / f"file{Path(inside).suffix}"
        fs.copy_files(inside, str(copy), source_filesystem=filesystem, destination_filesystem=LOCAL)
        yield str(copy)


@contextmanager
def told(place: str) -> Iterator[None]:
    """Turns what the system says of a place into a PlaceError: a sentence with the place, what is wrong and what to do."""
    try:
        yield
    except OSError as error:
        raise PlaceError(sentence(place, error)) from error


def sentence(place: str, error: OSError) -> str:
    """What the system says of a place, with what there is of what it lacks."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            free = free_bytes(place)
            there = "" if free is None else f", {amount(free)} are free there"
            return f"{place}: no room{there}: free some, or choose another place"
        case errno.EFBIG:
            return f"{place}: a file may not grow so large here (ulimit -f, or the filesystem's limit)"
        case errno.EACCES | errno.EPERM:
            return f"{place}: no permission for it, as the user that this runs as; change it, or choose another place"
        case errno.EROFS:
            return f"{place}: on a filesystem that can only be read; choose another place"
        case errno.EMFILE | errno.ENFILE:
            return f"{place}: too many open files at once: raise the limit (ulimit -n)"
        case errno.ENAMETOOLONG:
            return f"{place}: a name too long for its filesystem; choose another place"
    said = str(error).splitlines()
    return f"{place}: {said[0] if said else type(error).__name__}"


def amount(size: float) -> str:
    """So many bytes, to be read: `12.3 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"


def free_bytes(place: str) -> int | None:
    """Bytes free on the disk where a place is or will be; None where that cannot be told (URIs)."""
    filesystem, inside = located(place)
    if not isinstance(filesystem, fs.LocalFileSystem):
        return None
    path = Path(os.fsdecode(inside))
    with suppress(OSError):
        return shutil.disk_usage(next(folder for folder in (path, *path.parents) if folder.exists())).free
    return None


def listed(folder: str) -> list[fs.FileInfo]:
    """The files in a folder of any filesystem."""
    filesystem, inside = located(folder)
    with suppress(FileNotFoundError):
        return [info for info in filesystem.get_file_info(fs.FileSelector(inside)) if info.type == fs.FileType.File]
    return []


def file_infos(places: Sequence[str]) -> list[fs.FileInfo]:
    """What filesystems tell of files. A remote one is asked for the folders that hold many of them, not for each."""
    folders = defaultdict[str, dict[str, None]](dict)
    for place in places:
        folders[posixpath.dirname(_parted(place)[0]) if is_remote(place) else ""][place] = None
    with ThreadPoolExecutor(LOOKS) as pool:
        many = [list(inside) for folder, inside in folders.items() if folder and len(inside) > FEW]
        found = {place: info for infos in pool.map(_listed_infos, many) for place, info in infos.items()}
        alone = [place for place in dict.fromkeys(places) if place not in found]
        found |= zip(alone, pool.map(_info, alone), strict=True)
    return [found[place] for place in places]


def _info(place: str) -> fs.FileInfo:
    filesystem, inside = located(place)
    return _in_seconds(filesystem, filesystem.get_file_info(inside))


def _listed_infos(places: Sequence[str]) -> dict[str, fs.FileInfo]:
    """{place: what its folder's list says}, of files of one folder; {} where it may not be listed."""
    filesystem, first = located(places[0])
    with suppress(OSError):
        selector = fs.FileSelector(posixpath.dirname(first), allow_not_found=True)
        there = {info.base_name: _in_seconds(filesystem, info) for info in filesystem.get_file_info(selector)}
        names = {place: located(place)[1] for place in places}
        gone = fs.FileType.NotFound
        return {place: there.get(posixpath.basename(name)) or fs.FileInfo(name, gone) for place, name in names.items()}
    return {}


def _in_seconds(filesystem: fs.FileSystem, info: fs.FileInfo) -> fs.FileInfo:
    """S3 tells fractions of a second in a list alone."""
    if filesystem.type_name != "s3" or not info.is_file:
        return info
    return fs.FileInfo(info.path, info.type, size=info.size, mtime_ns=info.mtime_ns // 10**9 * 10**9)
