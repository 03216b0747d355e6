"""Embeds the windows of videos as they are decoded, and appends them to an index, part by part."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from pipelines.search import windows
from pipelines.search.windows import End
from vop.index.rows import rule_of, window_rows
from vop.index.table import KINDS, File, Table, append
from vop.messages import Progress
from vop.model.retrieval import RetrievalModel
from vop.retriever import Retriever
from vop.video.windows import Windows

logger = logging.getLogger(__name__)
TOGETHER = 32  # windows that are embedded at once, of one video or of several
PART_BYTES = 64 * 2**20  # of embeddings; so many are in memory before they are written, beside those of unfinished videos
PART_SECONDS = 60.0


def fill(table: Table, retriever: Retriever, files: Sequence[File]) -> dict[str, str]:
    """Index files that the table lacks; {path: why it cannot be read}, each told as it is found."""
    found = _Found(table, retriever.model, {file.path: file for file in files})
    rule = rule_of(retriever, table.manifest.window, table.manifest.stride)
    with (
        Progress(logger, "indexing", len(files), "videos") as progress,
        closing(windows.stream(list(found.files), rule)) as items,
    ):
        for path, item in items:
            found.take(path, item)
            if isinstance(item, End):
                progress.add(note=f"{found.embedded} windows" + (f", {len(found.failed)} unreadable" * bool(found.failed)))
        found.embed()
        found.write()
    return found.failed


@dataclass
class _Found:
    """What was decoded and is not embedded, what was embedded and is not written."""

    table: Table
    model: RetrievalModel
    files: dict[str, File]
    failed: dict[str, str] = field(default_factory=dict)
    embedded: int = 0
    decoded: list[tuple[str, Windows | End]] = field(default_factory=list)
    begun: dict[str, dict[str, Any]] = field(default_factory=dict)  # rows of videos that are not at their end
    ended: list[dict[str, Any]] = field(default_factory=list)
    size: int = 0
    written: float = field(default_factory=time.monotonic)

    def take(self, path: str, item: Windows | End) -> None:
        """What a video's task gave next."""
        self.decoded.append((path, item))
        if sum(len(item) for _, item in self.decoded if isinstance(item, Windows)) >= TOGETHER:
            self.embed()
        if self.size >= PART_BYTES or time.monotonic() - self.written >= PART_SECONDS:
            self.embed()
            self.write()

    def embed(self) -> None:
        """Embed what is decoded, and move on the videos that are at their end."""
        parts = [item for _, item in self.decoded if isinstance(item, Windows)]
        numbers = self._numbers(parts) if parts else {}
        first = 0
        for path, item in self.decoded:
            row = self.begun.setdefault(path, {name: [] for name in ("start", "end", *KINDS)})
            if isinstance(item, End):
                self._end(path, item, self.begun.pop(path))
                continue
            row["start"] += item.start_W.tolist()
            row["end"] += item.end_W.tolist()
            for name, found in numbers.items():
                row[name] += found[first : first + len(item)]
            first += len(item)
        self.embedded += first
        self.decoded.clear()

    def _numbers(self, parts: Sequence[Windows]) -> dict[str, list[bytes]]:
        """The columns of numbers of all windows."""
        pixels, masks = (np.concatenate(each) for each in zip(*((p.frames(), p.mask_WF) for p in parts), strict=True))
        vectors, rows = window_rows(self.model, torch.from_numpy(pixels), torch.from_numpy(masks))
        found = {"vectors": vectors.half().numpy(), **({} if rows is None else {"rows": rows.numpy()})}
        return {name: [row.tobytes() for row in array] for name, array in found.items()}

    def _end(self, path: str, end: End, row: dict[str, Any]) -> None:
        if end.error:
            self.failed[path] = end.error
            logger.warning("%s", end.error)
            row = {}
        self.ended.append({**asdict(self.files[path]), **asdict(end), **row})
        self.size += sum(len(number) for name in KINDS for number in row.get(name, []))

    def write(self) -> None:
        """Append a part of the videos that are at their end, if there are any."""
        if self.ended:
            append(self.table, self.ended)
        self.ended, self.size, self.written = [], 0, time.monotonic()
