"""How a folder of videos differs from an index, known without torch and Ray: what is new, changed, renamed or gone."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pyarrow import fs

from vop.annotations.copies import hash_all
from vop.benchmarks import BenchmarkError, video_files
from vop.index.table import File, Table
from vop.places import as_text, file_infos, is_remote, located


@dataclass
class Changes:
    """found: the paths of all videos below the folder; todo: files whose windows are to be embedded.

    gone, again: rows for files that are missing, and for those whose content the index holds under another path or date.
    """

    found: list[str]
    todo: list[File] = field(default_factory=list)
    gone: list[dict[str, Any]] = field(default_factory=list)
    again: list[dict[str, Any]] = field(default_factory=list)


def find_changes(table: Table, folder: str) -> Changes:
    """Compare path, size and time of modification; a file that is new by these and as long as a known one also by its bytes.

    Raises BenchmarkError for a folder that has no videos, and of which the index knows none.
    """
    changes = Changes([as_text(path) for path in video_files(folder)])
    known = {path for path in table.files if _is_below(path, folder)}
    if not changes.found and not known:
        raise BenchmarkError(f"no file below {folder} has the extension of a video (.mp4, .avi, .mkv, ...)")
    sizes = {held.size for held in table.held.values()}
    for path, info in zip(changes.found, file_infos(changes.found), strict=True):
        now = File(path, info.size or 0, info.mtime_ns or 0)
        if not _is_known(table, now):
            content = str(hash_all(path)["digest"]) if now.size in sizes else ""
            if content in table.held:
                changes.again.append({**vars(now), "content": content})
            else:
                changes.todo.append(now)
    changes.gone = _gone(table, known - set(changes.found), {row["content"] for row in changes.again})
    return changes


def _is_known(table: Table, now: File) -> bool:
    """Whether a file is as the index knows it, be it unreadable."""
    then = table.files.get(now.path)
    same = then is not None and (then.size, then.mtime_ns) == (now.size, now.mtime_ns)
    return then is not None and same and (bool(then.error) or then.content in table.held)


def _gone(table: Table, missing: Iterable[str], renamed: set[str]) -> list[dict[str, Any]]:
    """Rows of files that are missing, and of those elsewhere that left for a new path: their content is found again."""
    elsewhere = [file.path for content, files in table.found.items() if content in renamed for file in files]
    there = file_infos(elsewhere)
    left = [path for path, info in zip(elsewhere, there, strict=True) if info.type == fs.FileType.NotFound]
    return [{"path": path, "gone": True} for path in sorted({*missing, *left})]


def _is_below(path: str, folder: str) -> bool:
    """Whether a file's place is below a folder's, be its name bytes that are no text."""
    inside = path if is_remote(path) else os.fsdecode(located(path)[1])
    return inside.startswith(f"{folder.rstrip('/')}/")
