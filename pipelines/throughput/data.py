"""`vop throughput data`: the reader of videos, the data engine against a bare pool of decoders, and its store.

All ways take turns in one run (`interleaved`). CPU time is that of this process with its threads; `prepare` and the pool are
compared by the clock, because their work is done by other processes: run it on a quiet machine.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from itertools import count as numbers
from pathlib import Path

import numpy as np
import ray

from pipelines.cluster.connect import cluster_has, connected
from pipelines.data.decode import write_shard
from pipelines.data.lists import index_records
from pipelines.data.options import store_options
from pipelines.data.prepare import prepare
from pipelines.data.store import read_videos
from pipelines.data.tasks import content_key, tasks_of
from pipelines.throughput import Cost, interleaved, median_ratio, readers
from pipelines.throughput.clips import frame_a_second, fresh, seek_each_frame, write_clip, write_dataset
from vop.benchmarks import Record
from vop.config import Experiment, load_experiment
from vop.video.frames import read_frames

FRAMES, SIZE = 12, 224
GOPS = (250, 12)
READS = 10  # of a store, for one decoding of the same clips
MANY = 360  # clips through prepare
CODECS = ("raw", "lz4", "zstd", "jpeg")


@dataclass(frozen=True)
class Measurement:
    """A line of the table: what was measured, its value as text, the target ("" for none), whether it is met."""

    what: str
    value: str
    target: str = ""
    met: bool | None = None


def measure(clips: int, rounds: int) -> list[Measurement]:
    """All measurements; `clips` go through `prepare` and the pool in each round. Writes only below a scratch folder."""
    with tempfile.TemporaryDirectory(prefix="vop-data-") as scratch:
        folder = Path(scratch)
        sources = [write_clip(folder / f"gop{gop}-{seed}.mp4", seed, gop) for gop in GOPS for seed in (0, 1)]
        against = [Measurement(*row) for row in readers.rows(readers.compare(readers.write_clips(folder), rounds))]
        return [*against, *_readers(sources, folder, rounds), *_engine(sources, folder, clips, rounds)]


def _experiment(videos: Path, cache: Path, *overrides: str) -> Experiment:
    tree = {"benchmark": {"name": "folder", "videos": str(videos)}, "data": {"cache": str(cache)}, "frames": {"count": FRAMES}}
    return load_experiment(tree, overrides)


def _readers(sources: list[Path], folder: Path, rounds: int) -> list[Measurement]:
    """One process: our decoding against the peers', and against reading the store."""
    by_gop = {gop: [str(path) for path in sources if f"gop{gop}-" in path.name] for gop in GOPS}
    ways: dict[str, Callable[[], object]] = {}
    peers = {"seek per frame": seek_each_frame, "a frame a second": frame_a_second}
    if importlib.util.find_spec("cv2") is None:
        peers = {}
    for gop, paths in by_gop.items():
        ways[f"ours {gop}"] = partial(_each, read_frames, paths)
        for name, reader in peers.items():
            ways[f"{name} {gop}"] = partial(_each, reader, paths)
    stores = {codec: _store(sources, folder / codec, codec) for codec in CODECS}
    for codec, store in stores.items():
        ways[codec] = partial(_read, store, [path.name for path in sources])
    costs = interleaved(ways, rounds)
    rows = [_against_peer(name, gop, costs) for gop in GOPS for name in peers]
    if not peers:
        rows.append(Measurement("peers' readers", "not run: opencv-python-headless is not installed", "at least 2", False))
    ours = [Cost(sum(c.cpu for c in all_gops), 0) for all_gops in zip(*(costs[f"ours {gop}"] for gop in GOPS), strict=True)]
    exact = read_videos(stores["raw"], [path.name for path in sources])[0].astype(float)
    for codec, store in stores.items():
        times = READS * median_ratio(ours, costs[codec])
        error = np.abs(read_videos(store, [path.name for path in sources])[0] - exact).mean()
        size = sum(path.stat().st_size for path in Path(store).rglob("frames/*.parquet")) / len(sources) / 2**20
        what = f"decoding, CPU, over reading the store ({codec}, {size:.2f} MiB a clip, mean pixel error {error:.2f})"
        rows.append(
            Measurement(what, f"{times:.0f}x", "at least 30" if codec == "raw" else "", times >= 30 if codec == "raw" else None)
        )
    return rows


def _against_peer(name: str, gop: int, costs: dict[str, list[Cost]]) -> Measurement:
    ratio = median_ratio(costs[f"{name} {gop}"], costs[f"ours {gop}"])
    return Measurement(f"{name} (OpenCV), CPU, over ours, GOP {gop}", f"{ratio:.1f}x", "at least 2", ratio >= 2)


def _each(reader: Callable[[str, int, int], object], paths: list[str]) -> None:
    for path in paths:
        reader(path, FRAMES, SIZE)


def _store(sources: list[Path], folder: Path, codec: str) -> str:
    """A store of the clips, written by `prepare`'s own functions in this process."""
    (folder / "frames").mkdir(parents=True)
    options = store_options(_experiment(folder, folder, f"data.codec={codec}"), SIZE)
    records = [Record(path.name, str(path), ("a clip",), "train") for path in sources]
    keys = [content_key(record) for record in records]
    write_shard(tasks_of(records, keys, set(), keep_all=True), str(folder), options)
    index_records(str(folder), records, keys, options)
    return str(folder)


def _read(store: str, names: list[str]) -> None:
    for _ in range(READS):
        for name in names:
            read_videos(store, [name])


def _engine(sources: list[Path], folder: Path, clips: int, rounds: int) -> list[Measurement]:
    """`prepare` end to end on a cluster that is up, against a pool of processes that is up and only decodes."""
    write_dataset(folder / "videos", sources, clips)
    paths = sorted(str(path) for path in (folder / "videos").glob("*.mp4"))
    tries = numbers()
    with connected():
        cpus = max(1, int(cluster_has("CPU")))
        nice = ray.get(ray.remote(niceness).remote())  # Ray's workers give way to others, so the pool must too
        with multiprocessing.get_context("spawn").Pool(cpus, initializer=os.nice, initargs=(nice,)) as pool:
            costs = interleaved(
                {
                    "pool": lambda: sum(pool.imap_unordered(decode, paths, chunksize=1)),
                    "prepare": lambda: _prepare(folder, next(tries)),
                },
                rounds,
            )
    ratio = median_ratio(costs["pool"], costs["prepare"], "wall")
    what = f"rate of prepare over a pool of {cpus} processes that only decode ({clips} clips, 640x360, GOP 250 and 12)"
    wanted = 0.95 if clips >= MANY else 0.9  # what Ray needs to start weighs more with few
    return [Measurement(what, f"{ratio:.2f}", f"at least {wanted:.2f}", ratio >= wanted)]


def niceness() -> int:
    """How far this process gives way to others."""
    return os.nice(0)


def decode(path: str) -> int:
    """Decode one clip as `prepare` does, and drop it; how many frames there were."""
    return len(read_frames(path, FRAMES, SIZE).pixels_FHWC)


def _prepare(folder: Path, number: int) -> None:
    with redirect_stdout(StringIO()):
        prepare(_experiment(folder / "videos", folder / "cache" / str(number)), SIZE)
    fresh(folder / "cache" / str(number))
