"""Approximate search, for indexes that are too large for an exact one: graphs of usearch (HNSW), 8 bits a number.

A graph is a file near/graph-FIRST-LAST-CRC.usearch over the windows of the parts FIRST to LAST, written once and read as a map.
What it names is scored exactly. Windows of later parts are all scored exactly, until they are enough for another graph.
"""

from __future__ import annotations

import logging
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from mmap import ACCESS_READ, mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vop.index.table import Held, Table, read_numbers
from vop.messages import Progress
from vop.places import join, told

logger = logging.getLogger(__name__)
NEAR = "near"
NAME = re.compile(r"graph-(\d{6})-(\d{6})-([0-9a-f]{8})\.usearch")
EXACT = 200_000  # windows that are searched exactly
FEW = EXACT // 4  # windows that are not worth a graph
CANDIDATES = 64  # windows that each graph is asked for
SAMPLE = 100  # windows that recall is measured with
ADDED = 4096  # windows between two looks at progress
LIBRARY = "usearch (pip install 'vop[index]')"

Keys = NDArray[np.uint64]


@dataclass(frozen=True)
class Graph:
    """A graph's file, and the numbers of the first and the last part that it covers."""

    place: str
    first: int
    last: int

    def check(self) -> None:
        """Raises ValueError for other bytes than were written."""
        if crc_of(self.place) != self.place[-16:-8]:
            raise ValueError("its bytes are not those that were written")

    @cached_property
    def opened(self) -> Any:
        """usearch's index, as a map of the file. Raises as `check` does."""
        self.check()
        return library().Index.restore(self.place, view=True)

    def covers(self, held: Held) -> bool:
        """Whether it has the windows of a row."""
        return self.first <= held.number <= self.last

    def nearest(self, vector_E: NDArray[np.float32], count: int) -> Keys:
        """The keys of the windows nearest to a query, some of which may be another's."""
        self.opened.expansion_search = max(count, 64)
        return np.asarray(self.opened.search(vector_E, count, threads=1).keys, np.uint64)


def library() -> Any:
    """The module usearch.index, or None where it is not installed."""
    try:
        import usearch.index
    except ImportError:
        return None
    return usearch.index


def keys_of(held: Held) -> Keys:
    """What graphs call the windows of a row: part, row and place in it, in rising order."""
    return np.uint64((held.number << 40) + (held.row << 20)) + np.arange(len(held.end_N), dtype=np.uint64)


def graphs_of(folder: str) -> list[Graph]:
    """The graphs of an index."""
    place = join(folder, NEAR)
    names = sorted(os.listdir(place)) if os.path.isdir(place) else []
    found = [(name, NAME.fullmatch(name)) for name in names]
    return [Graph(join(place, name), int(match[1]), int(match[2])) for name, match in found if match]


def crc_of(path: str) -> str:
    """The CRC-32 of a file, 8 hexadecimal digits."""
    with open(path, "rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        return f"{zlib.crc32(data):08x}"


def extend(table: Table) -> None:
    """Write graphs over what no graph covers, if an index of more than EXACT windows has at least FEW of them.

    Says how many of the ten best windows a graph finds of those that an exact search finds, on a sample; or that usearch is
    missing.
    """
    graphs = _sound(graphs_of(table.folder))
    held = {content: held for content, held in table.held.items() if not any(graph.covers(held) for graph in graphs)}
    if sum(len(each.end_N) for each in table.held.values()) <= EXACT or sum(len(each.end_N) for each in held.values()) < FEW:
        return
    if library() is None:
        logger.info("all windows are compared with each query, %d are many for that: install %s", EXACT, LIBRARY)
        return
    size, part = 0, dict[str, Held]()
    for content, each in held.items():  # in the order of parts
        if size >= EXACT and each.number != next(reversed(part.values())).number:
            break
        part[content] = each
        size += len(each.end_N)
    _write(table, part)
    extend(table)


def _sound(graphs: Sequence[Graph]) -> list[Graph]:
    """Those whose bytes are as they were written; the others are removed."""
    sound = []
    for graph in graphs:
        try:
            graph.check()
            sound.append(graph)
        except (OSError, ValueError) as error:
            logger.warning("%s is damaged (%s): made anew", graph.place, error)
            os.unlink(graph.place)
    return sound


def _write(table: Table, held: Mapping[str, Held]) -> None:
    """A graph over the windows of some rows, and its recall."""
    vectors = read_numbers(table, "vectors", held)
    key_N = np.concatenate([keys_of(held[content]) for content in vectors])
    vector_NE = np.concatenate(list(vectors.values())).astype(np.float32)
    made = library().Index(ndim=table.manifest.width, metric="cos", dtype="i8", connectivity=16, expansion_add=64)
    with Progress(logger, "preparing approximate search", len(key_N), "windows") as progress:
        for start in range(0, len(key_N), ADDED):
            part = slice(start, start + ADDED)
            made.add(key_N[part], vector_NE[part])
            progress.add(len(key_N[part]))
    numbers, folder = [each.number for each in held.values()], join(table.folder, NEAR)
    partial = join(folder, f"graph.{os.getpid()}.partial")
    with told(partial):
        os.makedirs(folder, exist_ok=True)
        made.save(partial)
        place = join(folder, f"graph-{min(numbers):06}-{max(numbers):06}-{crc_of(partial)}.usearch")
        os.replace(partial, place)
    words = "approximate search over %d windows finds %.1f%% of the ten best that an exact one finds, on a sample of them"
    logger.info(words, len(key_N), 100 * recall(Graph(place, min(numbers), max(numbers)), key_N, vector_NE, CANDIDATES))


def recall(graph: Graph, key_N: Keys, vector_NE: NDArray[np.float32], count: int, best: int = 10) -> float:
    """The share of the `best` windows nearest to each of a sample that are among the `count` that a graph names."""
    shares = []
    for vector_E in vector_NE[np.linspace(0, len(vector_NE) - 1, min(SAMPLE, len(vector_NE))).astype(int)]:
        exact = key_N[np.argsort(-(vector_NE @ vector_E), kind="stable")[:best]]
        shares.append(float(np.isin(exact, graph.nearest(vector_E, count)).mean()))
    return float(np.mean(shares))
