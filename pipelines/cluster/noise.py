"""What Ray says on standard error and is no error: that actors which may restart have arguments in its object store."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

NOISE = r"core_worker\.cc:\d+: Actor with class name: .* has constructor arguments in the object store"


@contextmanager
def without_noise() -> Iterator[None]:
    """For the while, what this process writes to standard error passes, but for such lines of Ray's C++ part.

    It has no other switch than its log level, which would silence its log files too.
    """
    sys.stderr.flush()
    reader, writer = os.pipe()
    original = os.dup(2)
    thread = threading.Thread(target=_pass_on, args=(reader, original), daemon=True)
    thread.start()
    os.dup2(writer, 2, inheritable=True)
    try:
        yield
    finally:
        sys.stderr.flush()
        if os.path.sameopenfile(2, writer):  # else somebody has put another one in its place, as pytest does
            os.dup2(original, 2, inheritable=True)
        os.close(writer)
        thread.join(5)  # longer only if a process that was started meanwhile still has the pipe


def _pass_on(reader: int, original: int) -> None:
    noise = re.compile(NOISE.encode())
    with os.fdopen(reader, "rb") as lines, os.fdopen(original, "wb", buffering=0) as out:
        for line in lines:
            if not noise.search(line):
                out.write(line)
