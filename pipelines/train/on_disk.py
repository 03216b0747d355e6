"""Checkpoints on disk: one folder an epoch, there whole or not at all; the last is kept."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from contextlib import suppress
from pathlib import Path

from pipelines.output import Output
from vop.places import PlaceError

logger = logging.getLogger(__name__)
SUMS = "sha256.json"
EPOCH, PARTIAL = "epoch-", "partial"
ERRORS = "error.log"  # beside the checkpoints: the full text of what stopped the training


def remove(output: Output, folder: Path, kept: bool = False) -> None:
    """Remove what a training has below `folder`; kept: unless there is something to go on from, or to read."""
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)  # of a worker that was killed
    if kept and _holds_something(output, folder):
        return
    output.remove(folder)
    with suppress(OSError):  # of other runs there is more
        folder.parent.rmdir()


def last(folder: Path) -> Path | None:
    """The last checkpoint below `folder`, if there is one. One whose bytes have changed is said and left out."""
    for found in sorted(folder.glob(f"{EPOCH}*"), reverse=True):
        if damaged := _damaged(found):
            logger.warning("checkpoint %s is damaged (%s) and is not used", found, damaged)
        else:
            return found
    return None


def sum_of(file: Path) -> str:
    """The SHA-256 of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _holds_something(output: Output, folder: Path) -> bool:
    try:
        return any(name == ERRORS or name.startswith(EPOCH) for name in output.names(folder))
    except PlaceError:  # an address that does not answer now
        return True


def _damaged(checkpoint: Path) -> str:
    """The first file that is not as it was written, else ''."""
    try:
        sums = json.loads((checkpoint / SUMS).read_text(encoding="utf-8"))
        return next((name for name, known in sums.items() if sum_of(checkpoint / name) != known), "")
    except (OSError, ValueError, AttributeError):
        return SUMS
