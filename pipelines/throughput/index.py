"""`vop throughput index`: an index that grows to a million windows: what building costs, and what a query does.

The embeddings are made up as those of videos are: in 64 directions of 512, the windows of a video near each other, a little
noise. A query lies near a window. Exact search is a product of all float32 embeddings with the query, in memory, on one thread.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from pipelines.search.build import find_model
from pipelines.throughput import cpu_seconds
from pipelines.throughput.data import Measurement
from vop.fingerprint import fingerprint
from vop.index.near import extend
from vop.index.search import Index
from vop.index.table import ADAPTER, Manifest, append, read_table, write_manifest
from vop.model.adapter import save_adapter

WIDTH, LATENT, VIDEO, STEPS, BEST = 512, 64, 100, 10, 10
HOURS = 1000 * 3600 / 5  # windows of so many hours, one each 5 seconds
QUERIES = 50

Vectors = NDArray[np.float32]


class _Numbered(Index):
    """An index whose texts are the numbers of made-up queries, so that no text encoder is timed."""

    queries: Vectors = np.empty((0, WIDTH), np.float32)

    def _of_text(self, text: str) -> tuple[Vectors, None]:
        return self.queries[int(text)], None


def measure(windows: int) -> list[Measurement]:
    """Grow an index to so many windows in STEPS equal steps, then search it."""
    with tempfile.TemporaryDirectory(prefix="vop-index-") as scratch:
        folder = Path(scratch) / "random.index"
        rows = list(_grown(folder, windows))
        return rows + list(_searched(folder, windows))


def random_windows(count: int, seed: int) -> Vectors:
    """Unit embeddings [count, WIDTH] of windows, VIDEO a video."""
    directions = np.random.default_rng(0).standard_normal((LATENT, WIDTH), np.float32)
    rng = np.random.default_rng(seed)
    about = np.repeat(rng.standard_normal((count // VIDEO + 1, LATENT), np.float32), VIDEO, axis=0)[:count]
    latent = about + 0.7 * rng.standard_normal((count, LATENT), np.float32)
    return _unit(latent @ directions + 0.5 * rng.standard_normal((count, WIDTH), np.float32))


def _unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)


def _grown(folder: Path, windows: int) -> Iterator[Measurement]:
    adapter = find_model("ViT-toy", [])
    save_adapter(adapter, folder / ADAPTER)
    write_manifest(str(folder), Manifest(fingerprint([adapter.fingerprint]), 10, 5, WIDTH))
    process, costs, size = psutil.Process(), [], windows // STEPS
    before = process.memory_info().rss
    most = before
    for step in range(STEPS):
        vectors = random_windows(size, step)
        started = cpu_seconds()
        table = read_table(str(folder))
        append(table, [video_row(vectors[at : at + VIDEO], f"{step}-{at}") for at in range(0, size, VIDEO)])
        extend(table)
        costs.append(cpu_seconds() - started)
        most = max(most, process.memory_info().rss)
    written = _bytes(folder)
    ratio = sum(costs[STEPS // 2 :]) / sum(costs[: STEPS // 2])
    yield Measurement("windows", f"{STEPS * size:,} of {WIDTH} numbers, in {STEPS} steps")
    yield Measurement("building, CPU time of the second half over the first", f"{ratio:.2f}", "1.2: linear", ratio <= 1.2)
    yield Measurement("building, for 100,000 windows", f"{1e5 * sum(costs) / (STEPS * size):.1f} CPU s")
    yield Measurement("building, memory beside the program", f"{(most - before) / 2**20:.0f} MiB")
    yield Measurement("on disk, with graphs, a window", f"{written / (STEPS * size):.0f} bytes")


def video_row(vectors: Vectors, name: str) -> dict[str, Any]:
    """What an index holds of a made-up video with these windows, 10 s long, one each 5 s."""
    start = 5.0 * np.arange(len(vectors))
    return {
        **{"path": f"/nowhere/{name}.mp4", "size": 1, "mtime_ns": 0, "content": name},
        **{"start": start.tolist(), "end": (start + 10).tolist()},
        "vectors": [row.tobytes() for row in vectors.astype(np.float16)],
    }


def _searched(folder: Path, windows: int) -> Iterator[Measurement]:
    started = cpu_seconds()
    index = _Numbered(read_table(str(folder)))
    yield Measurement("opening", f"{cpu_seconds() - started:.1f} CPU s")
    rng = np.random.default_rng(STEPS)
    near = rng.integers(0, len(index), QUERIES)
    stray = rng.standard_normal((QUERIES, WIDTH), np.float32) / WIDTH**0.5
    index.queries = _unit(index.cosines.vectors[near].astype(np.float32) + 0.7 * stray)
    everything_N = np.ones(len(index), bool)
    index.cosines.of(index.queries[0], everything_N)  # graphs are opened once
    torch.set_num_threads(1)
    exact, vector_NE = [], torch.from_numpy(index.cosines.vectors.astype(np.float32))
    asked: dict[str, float] = {"exact": 0.0, "near": 0.0}
    found, seconds = [], []
    for number, query_E in enumerate(index.queries):
        started = cpu_seconds()
        score_N = (vector_NE @ torch.from_numpy(query_E)).numpy()
        exact.append(np.argpartition(-score_N, BEST)[:BEST])
        asked["exact"] += cpu_seconds() - started
        started, clock = cpu_seconds(), time.monotonic()
        index.search(str(number))
        asked["near"] += cpu_seconds() - started
        seconds.append(time.monotonic() - clock)
        near_N = index.cosines.of(query_E, everything_N)
        found.append(np.isin(exact[-1], np.argpartition(-near_N, BEST)[:BEST]).mean())
    recall, cheaper, typical = float(np.mean(found)), asked["exact"] / asked["near"], float(np.median(seconds))
    yield Measurement(f"of the {BEST} best windows of an exact search, found", f"{100 * recall:.1f}%", "99%", recall >= 0.99)
    yield Measurement("a query: exact search over ours, CPU time", f"{cheaper:.1f}", "20", cheaper >= 20)
    yield Measurement("a query, with its moments", f"{1000 * typical:.0f} ms")
    hours = typical * max(1.0, HOURS / windows)
    yield Measurement("a query in windows of 1,000 hours", f"{hours:.2f} s", "below 1 s", hours < 1)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
