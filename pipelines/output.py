"""Where the files of runs are: a folder that all machines share, or an address (s3://...), of which each machine has a copy.

What is made in a copy is sent with `push`, and what another machine has sent is seen after `pull`. Of a shared folder both do
nothing.
"""

from __future__ import annotations

import posixpath
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs

from pipelines.locations import output_folder
from vop.config import ConfigError, TrackingConfig
from vop.places import LOCAL, PlaceError, absolute, is_remote, join, located, told
from vop.whole import fetch


@dataclass(frozen=True)
class Output:
    """place: as every machine calls it; folder: on this machine, the same one or a copy of it."""

    place: str
    folder: Path

    @classmethod
    def of(cls, config: TrackingConfig) -> Output:
        """The output of runs. Raises ConfigError for a place that there cannot be."""
        folder = output_folder(config)
        if not is_remote(config.output):
            return cls(str(folder), folder)
        try:
            located(config.output)
        except PlaceError as error:
            raise ConfigError(f"tracking.output: {error}") from error
        return cls(absolute(config.output), folder)

    @property
    def is_copy(self) -> bool:
        """Whether the folder is this machine's copy of an address."""
        return is_remote(self.place)

    def named(self, path: Path) -> str:
        """What every machine calls a file or folder in `folder`."""
        return join(self.place, *path.relative_to(self.folder).parts) if self.is_copy else str(path)

    def push(self, path: Path) -> None:
        """Send a file, or a folder with all that is in it; a path that is not here is removed there. Raises PlaceError."""
        if not self.is_copy:
            return
        filesystem, inside = located(self.named(path))
        with told(self.named(path)):
            if path.exists():
                filesystem.create_dir(posixpath.dirname(inside) if path.is_file() else inside, recursive=True)
                fs.copy_files(str(path), inside, source_filesystem=LOCAL, destination_filesystem=filesystem)
                return
            match filesystem.get_file_info(inside).type:
                case fs.FileType.Directory:
                    filesystem.delete_dir(inside)
                case fs.FileType.File:
                    filesystem.delete_file(inside)

    def pull(self, folder: Path) -> None:
        """Make a folder here what it is there, file by file, each whole or as it was. Raises PlaceError.

        Several processes may do so at once. A file that was fetched has its time of there, by which it is known again.
        """
        if not self.is_copy:
            return
        filesystem, _ = located(self.place)
        with told(self.named(folder)):
            there = self._there(folder)
            for path in [path for path in folder.rglob("*") if path.is_file() and path not in there]:
                path.unlink(missing_ok=True)
            for path in [path for path in sorted(folder.rglob("*"), reverse=True) if path.is_dir()]:
                with suppress(OSError):  # it holds something
                    path.rmdir()
            for path, info in there.items():
                if not path.is_file() or (path.stat().st_size, path.stat().st_mtime_ns) != (info.size, info.mtime_ns):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    fetch(filesystem, info.path, path, info.mtime_ns)

    def names(self, folder: Path) -> set[str]:
        """What is in a folder, here or there. Raises PlaceError."""
        with told(self.named(folder)):
            there = self._there(folder) if self.is_copy else {}
        return {path.relative_to(folder).parts[0] for path in there} | {path.name for path in folder.glob("*")}

    def _there(self, folder: Path) -> dict[Path, fs.FileInfo]:
        """What this machine calls the files that the address has in a folder."""
        filesystem, inside = located(self.named(folder))
        found = filesystem.get_file_info(fs.FileSelector(inside, allow_not_found=True, recursive=True))
        return {folder / posixpath.relpath(info.path, inside): info for info in found if info.is_file}

    def remove(self, folder: Path) -> None:
        """Remove a folder, here and there."""
        shutil.rmtree(folder, ignore_errors=True)
        self.push(folder)


def storage(output: Output, folder: Path) -> dict[str, Any]:
    """The arguments of Ray's RunConfig that keep what it writes itself in a folder of the output."""
    if not output.is_copy:
        return {"storage_path": str(folder)}
    filesystem, inside = located(output.named(folder))
    return {"storage_path": inside, "storage_filesystem": filesystem}
