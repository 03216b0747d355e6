"""Which files are served: those of the indexes, by their content, and only as they were when they were indexed."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from mimetypes import guess_type

from vop.errors import VopError
from vop.index.search import Index
from vop.index.table import File
from vop.messages import visible
from vop.places import is_remote, located, readable


class AwayError(VopError):
    """A video that cannot be shown as it was indexed; `status` is HTTP's word for why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Video:
    """A video that can be shown: its path on this machine, its bytes and when they were last changed."""

    path: str
    size: int
    mtime_ns: int

    @property
    def media_type(self) -> str:
        """What a browser is told that it is: a video's type, whatever else its name says."""
        kind = guess_type(self.path)[0] or ""
        return kind if kind.startswith("video/") else "application/octet-stream"


class Shelf:
    """The videos of indexes by their content. names: {content: how its files are called}, below what all have in common."""

    def __init__(self, indexes: Iterable[Index]) -> None:
        self.files: dict[str, list[File]] = {}
        for index in indexes:
            for content, files in index.table.found.items():
                known = self.files.setdefault(content, [])
                known += [file for file in files if file not in known]
        self._common = _common([_local(file.path) for files in self.files.values() for file in files])
        self._content = {file.path: content for content, files in self.files.items() for file in files}

    def content(self, path: str) -> str:
        """The content of a file of an index."""
        return self._content[path]

    def name(self, path: str) -> str:
        """How a file is called on the page: from the last folder on that all files share, in letters that can be shown."""
        return visible(readable(_local(path)[len(self._common) :]))

    def pattern(self, words: str) -> str:
        """What a path must match, as `Index.search` takes it, for a part of a name or a pattern of it; "" is any.

        It tells nothing of the folder that all videos lie in.
        """
        words = words.strip()
        if not any(sign in words for sign in "*?["):
            words = f"*{words}*"
        return glob.escape(self._common.rstrip("/")) + (words if words.startswith("*") or not self._common else f"/{words}")

    def find(self, content: str) -> Video:
        """A file with a content, as it was indexed.

        Raises AwayError: 404 for what is in no index, 410 for what has gone, 409 for what has changed, 501 for what lies on
        another machine.
        """
        files = self.files.get(content)
        if not files:
            raise AwayError(404, f"no index has a video {content[:80]!r}")
        reasons = []
        for file in files:
            found = self._as_indexed(file)
            if isinstance(found, Video):
                return found
            reasons.append(found)
        raise min(reasons, key=lambda reason: reason.status)  # changed before gone before elsewhere

    def _as_indexed(self, file: File) -> Video | AwayError:
        name = self.name(file.path)
        if is_remote(file.path):
            return AwayError(501, f"{name} is not on this machine: it can be found, and not shown")
        path = _local(file.path)
        try:
            now = os.stat(path)
        except OSError:
            return AwayError(410, f"{name} has gone since it was indexed: run vop index again")
        if (now.st_size, now.st_mtime_ns) != (file.size, file.mtime_ns):
            return AwayError(409, f"{name} has changed since it was indexed: run vop index again")
        return Video(path, file.size, file.mtime_ns)


def _local(path: str) -> str:
    """A path of an index as this machine has it; a URI as it is."""
    return path if is_remote(path) else os.fsdecode(located(path)[1])


def _common(paths: Sequence[str]) -> str:
    """The folder that all paths lie in, with its slash; "" for none."""
    folders = {os.path.dirname(path) for path in paths}
    if not folders or any(map(is_remote, folders)):
        return ""
    return os.path.join(os.path.commonpath(sorted(folders)), "")
