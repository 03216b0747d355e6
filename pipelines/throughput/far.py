"""A filesystem that is not this machine's own, at far://: each request is counted, and takes a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pyarrow as pa
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from pyarrow import fs

from vop import places

SCHEME = "far://"


class Far(fs.FSSpecHandler):  # type: ignore[misc]
    """What lies below a folder of this machine; requests: those since they were set to 0, seconds: what each takes.

    As on object storage a list costs one request, and so does each reading of an open file; most: requests at once.
    """

    def __init__(self, root: Path, seconds: float = 0):
        super().__init__(DirFileSystem(str(root), LocalFileSystem()))
        self.seconds, self.lock = seconds, threading.Lock()
        self.requests = self.now = self.most = 0

    def ask(self) -> None:
        """A round trip."""
        with self.lock:
            self.requests, self.now = self.requests + 1, self.now + 1
            self.most = max(self.most, self.now)
        time.sleep(self.seconds)
        with self.lock:
            self.now -= 1

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        """One request each."""
        for _ in paths:
            self.ask()
        return list(super().get_file_info(paths))

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        """A list."""
        self.ask()
        return list(super().get_file_info_selector(selector))

    def open_input_file(self, path: str) -> pa.NativeFile:
        """As S3 does, with a look at the file's size."""
        self.ask()
        if not self.fs.isfile(path):
            raise FileNotFoundError(path)
        return pa.PythonFile(FarFile(self.fs.cat_file(path), self), "r")


class FarFile(threading.local):
    """An open file: a request each time that it is read. As of S3's, each thread has a place of its own in it."""

    closed = False

    def __init__(self, data: bytes, far: Far):
        self.data, self.far, self.place = data, far, 0

    def read(self, size: int = -1) -> bytes:
        """One request."""
        self.far.ask()
        start, self.place = self.place, len(self.data) if size < 0 else min(len(self.data), self.place + size)
        return self.data[start : self.place]

    def seek(self, place: int, whence: int = 0) -> None:
        """No request."""
        self.place = place + (0, self.place, len(self.data))[whence]

    def tell(self) -> int:
        """No request."""
        return self.place

    def close(self) -> None:
        """Nothing is open."""


@contextmanager
def far_away(root: Path, seconds: float = 0) -> Iterator[Far]:
    """far:// for the while."""
    far, known = Far(root, seconds), places._filesystem
    filesystem = fs.PyFileSystem(far)
    with mock.patch.object(
        places, "_filesystem", lambda uri: (filesystem, uri[6:]) if uri.startswith("far://") else known(uri)
    ):
        yield far
