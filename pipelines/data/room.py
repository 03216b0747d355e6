"""Is there room for what is to be decoded? Known before work, from the number of videos alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

from pipelines.data.tasks import Tasks
from vop.places import PlaceError, amount, free_bytes, located, told

# Bytes in the store for each byte of pixels: of raw frames exact, of a codec the least, to refuse nothing that may fit.
SHARES = {"raw": 1.0, "lz4": 0.3, "zstd": 0.2, "jpeg": 0.02}


@dataclass(frozen=True)
class Room:
    """What the frames of `videos` videos take that are still to be decoded, in bytes, and what is free (None: not known)."""

    videos: int
    frames: int
    frame_bytes: int
    codec: str
    free: int | None

    @property
    def needed(self) -> int:
        """Bytes in the store, at least for a codec other than raw."""
        return round(self.videos * self.frames * self.frame_bytes * SHARES[self.codec])

    def __str__(self) -> str:
        free = "" if self.free is None else f"; {amount(self.free)} are free"
        least = "" if self.codec == "raw" else f"at least {SHARES[self.codec]:.0%} of "
        each = f"{least}{self.videos} videos x {self.frames} frames x {self.frame_bytes:,} bytes"
        return f"{each} = {amount(self.needed)}{free}"


@dataclass(frozen=True)
class Reused:
    """What the activations that a training reuses take in a folder, if they are not there yet: bytes.

    free: bytes that are free there when the frames are stored (None: not known); allowed: `data.activations_gb`, in bytes.
    """

    folder: Path
    needed: int
    free: int | None
    allowed: float

    def __str__(self) -> str:
        if not self.needed:
            return "none"
        free = "" if self.free is None else f"; {amount(max(0, self.free))} are free then"
        fits = self.needed <= self.allowed and (self.free is None or self.needed <= self.free)
        else_ = "" if fits else ": no room, what is not there yet is computed anew in each epoch"
        return f"{amount(self.needed)} in {self.folder}{free}, data.activations_gb allows {amount(self.allowed)}{else_}"


def room_of(tasks: Tasks) -> Room:
    """The room that a store needs for what it lacks."""
    kept, options = tasks.table["keep"].to_pylist().count(True), tasks.options
    return Room(kept, options.stored, options.size**2 * 3, options.codec, free_bytes(tasks.folder))


def check_room(tasks: Tasks) -> None:
    """Raise PlaceError for a store that must be written and cannot be, or whose disk has no room for what it lacks."""
    filesystem, inside = located(tasks.folder)
    damaged = "".join(f", {name}: {fault}" for name, fault in list(tasks.faults.items())[:1])
    missing = f"{len(tasks.table)} of {len(tasks.records)} videos are not in it yet{damaged}"
    lacks = missing if len(tasks.table) else "its manifest does not say what it holds"
    if isinstance(filesystem, fs.LocalFileSystem):
        path = Path(os.fsdecode(inside))
        with told(tasks.folder):
            there = next(folder for folder in (path, *path.parents) if folder.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            why = "cannot be written by the user that this runs as" if there.is_dir() else "is not a folder"
            raise PlaceError(f"the store {tasks.folder}: {lacks}, and {there} {why}: give another place, data.cache=/path")
    room = room_of(tasks)
    if room.free is not None and room.needed > room.free:
        raise PlaceError(
            f"the store {tasks.folder}: {lacks}, which take about {amount(room.needed)} (data.codec={room.codec}); "
            f"{amount(room.free)} are free there: free some, give another place, data.cache=/path, or a smaller data.codec"
        )
