"""`vop throughput serve`: how long queries take at 1, 8 and 32 clients at once, over HTTP, from a server in another process.

Without an index of the user's own, one is made of random windows, with a CLIP ViT-B/32 of random weights: what is timed is
tokens, text encoder, a product with all windows, moments, and JSON. Each client asks again as soon as it has its answer.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import numpy as np

from pipelines.cluster.servers import ServerError
from pipelines.cluster.ui import HOST, free_port
from pipelines.search.build import find_model
from pipelines.throughput.data import Measurement
from pipelines.throughput.index import video_row
from vop.fingerprint import fingerprint
from vop.index.table import ADAPTER, Manifest, append, read_table, write_manifest
from vop.model.adapter import save_adapter

CLIENTS = (1, 8, 32)
VIDEO = 100  # windows of a video that is made up
WORDS = ("a dog", "a child", "two cooks", "somebody", "jumps over", "paints", "a fence", "at night", "in the rain", "on a boat")
SECONDS = 120  # to start


def measure(index: str, windows: int, queries: int) -> list[Measurement]:
    """p50 and p95 of so many queries for each number of clients, in ms, and queries a second.

    index: a folder, or "" for one of so many random windows.
    """
    with tempfile.TemporaryDirectory(prefix="vop-serve-") as scratch:
        folder = index or made(Path(scratch) / "random.index", windows)
        with _running(folder, Path(scratch) / "log") as port:
            return [row for clients in CLIENTS for row in _rows(port, clients, queries)]


def made(folder: Path, windows: int) -> str:
    """An index of random unit embeddings, VIDEO windows a video."""
    adapter = find_model("ViT-B-32/openai", ["backbone.pretrained=random", "backbone.quick_gelu=true"])
    save_adapter(adapter, folder / ADAPTER)
    width = 512
    write_manifest(str(folder), Manifest(fingerprint([adapter.fingerprint]), 10, 5, width))
    table, rng = read_table(str(folder)), np.random.default_rng(0)
    append(table, list(_videos(windows, width, rng)))
    return str(folder)


def _videos(windows: int, width: int, rng: np.random.Generator) -> Iterator[dict[str, object]]:
    for number, first in enumerate(range(0, windows, VIDEO)):
        count = min(VIDEO, windows - first)
        vector_NE = rng.standard_normal((count, width), np.float32)
        vector_NE /= np.linalg.norm(vector_NE, axis=1, keepdims=True)
        yield video_row(vector_NE, f"{number:064x}")


@contextmanager
def _running(folder: str, log: Path) -> Iterator[int]:
    """A server of an index, in a process of its own; its port."""
    port = free_port()
    command = [sys.executable, "-m", "pipelines", "serve", folder, f"--port={port}", "--rate=0"]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            deadline = time.monotonic() + SECONDS
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise ServerError(f"vop serve did not start:\n{log.read_text(errors='replace')[-2000:]}")
                time.sleep(0.2)
            yield port
        finally:
            process.terminate()


def _answers(port: int) -> bool:
    try:
        _ask(http.client.HTTPConnection(HOST, port, timeout=5), "/api/health")
    except OSError:
        return False
    return True


def _ask(connection: http.client.HTTPConnection, place: str) -> float:
    """Seconds from a question to its whole answer. Raises ServerError for one that is none."""
    started = time.perf_counter()
    connection.request("GET", place)
    answer = connection.getresponse()
    body = answer.read()
    took = time.perf_counter() - started
    if answer.status != 200:
        raise ServerError(f"{place}: {answer.status} {json.loads(body)['error']}")
    return took


def _rows(port: int, clients: int, queries: int) -> list[Measurement]:
    """Of one number of clients."""
    shares = [range(number, queries, clients) for number in range(clients)]
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        took = [each for part in pool.map(lambda share: _client(port, share), shares) for each in part]
    seconds = time.perf_counter() - started
    p50, p95 = np.percentile(took, [50, 95]) * 1000
    what = f"{clients} client{'s' if clients > 1 else ''}"
    return [
        Measurement(f"{what}: p50, ms", f"{p50:.0f}"),
        Measurement(f"{what}: p95, ms", f"{p95:.0f}"),
        Measurement(f"{what}: queries a second", f"{len(took) / seconds:.0f}"),
    ]


def _client(port: int, numbers: Sequence[int]) -> list[float]:
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    try:
        return [_ask(connection, f"/api/search?{urlencode({'q': query(number)})}") for number in numbers]
    finally:
        connection.close()


def query(number: int) -> str:
    """Words that differ from query to query."""
    rng = np.random.default_rng(number)
    return " ".join(rng.choice(WORDS, 4))
