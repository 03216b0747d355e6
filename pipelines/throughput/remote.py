"""`vop throughput remote`: a frame store whose every request takes a while, as on object storage (`far.py`).

What a training asks for before its first batch, by the number of shards; clips a second that a worker reads, by the number of
readers. Frames, shards and reading are real, the requests are a wait.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import psutil
import pyarrow as pa

from pipelines.data import local, shards
from pipelines.data.decode import write_shard
from pipelines.data.options import StoreOptions
from pipelines.data.prepare import prepare
from pipelines.data.reader import Pair, stream
from pipelines.data.store import read_manifest
from pipelines.throughput.clips import write_clip, write_dataset
from pipelines.throughput.data import Measurement
from pipelines.throughput.far import Far, far_away
from pipelines.train.plan import check
from vop.annotations.records import SPLITS
from vop.config import Experiment, load_experiment

READERS = (1, 8, 16, 32)
WANTED = 300  # clips a second
CLIPS, A_SHARD, PAIRS, STEPS = 128, 8, 32, 16  # of what is read
FRAMES, SIZE = 12, 224
TINY = ("ViT-toy", 64)  # the model and its pixels, where requests alone are counted


def measure(milliseconds: float, counts: Sequence[int]) -> list[Measurement]:
    """Both, with requests of so many milliseconds; counts: of shards."""
    with tempfile.TemporaryDirectory(prefix="vop-remote-") as scratch:
        folder = Path(scratch)
        found = [_before_the_first_batch(folder / str(count), count, milliseconds / 1000) for count in counts]
        rows = [
            Measurement(f"{count:,} shards: before the first batch", f"{requests} requests, {seconds:.1f} s")
            for count, (requests, seconds) in zip(counts, found, strict=True)
        ]
        requests = [of for of, _ in found]
        flat = "yes" if max(requests) <= min(requests) + max(counts) // 1000 else "no"
        rows.append(Measurement("as many at any number, but one for 1,000 files of a list", flat, "yes", flat == "yes"))
        for codec in ("raw", "jpeg"):
            rows += _clips_a_second(folder / codec, codec, milliseconds / 1000)
    return rows


def _experiment(videos: Path, *overrides: str) -> Experiment:
    tree = {"benchmark": {"name": "folder", "videos": str(videos), "shared_videos": "allow"}, "data": {"cache": "far://cache"}}
    return load_experiment(tree, overrides)


@contextmanager
def _stored(folder: Path, experiment: Experiment, clips: int, a_shard: int, size: int) -> Iterator[tuple[Far, str]]:
    """A store at far://, of so many clips in a shard; it is written without Ray."""

    def decode(tasks: pa.Table, store: str, options: StoreOptions) -> None:
        for start in range(0, len(tasks), a_shard):
            write_shard(tasks.slice(start, a_shard), store, options)

    sources = [write_clip(folder / f"{seed}.mp4", seed, 12, size=(320, 240), frames=16) for seed in range(4)]
    write_dataset(folder / "videos", sources, clips)
    names = sorted(path.name for path in (folder / "videos").glob("*.mp4"))
    rows = [f"{name},a clip,{SPLITS[number % len(SPLITS)]}" for number, name in enumerate(names)]
    (folder / "videos" / "captions.csv").write_text("\n".join(["video,caption,split", *rows]), encoding="utf-8")
    with far_away(folder) as far, mock.patch("pipelines.data.decode.decode", decode):
        yield far, prepare(experiment, size).folder


def _before_the_first_batch(folder: Path, count: int, seconds: float) -> tuple[int, float]:
    folder.mkdir()
    experiment = _experiment(folder / "videos", "frames.count=1", f"backbone.name={TINY[0]}", "backbone.pretrained=random")
    with _stored(folder, experiment, count, 1, TINY[1]) as (far, _):
        far.requests, far.seconds = 0, seconds
        started = time.monotonic()
        _, tasks = check(experiment)
        done = prepare(experiment, TINY[1], tasks)
        next(iter(stream(done.folder, read_manifest(done.folder, "train"), [[(0, 0)]], ahead=1)))
        return far.requests, time.monotonic() - started


def _clips_a_second(folder: Path, codec: str, seconds: float) -> list[Measurement]:
    folder.mkdir()
    experiment = _experiment(folder / "videos", f"frames.count={FRAMES}", f"data.codec={codec}", "data.jpeg_quality=90")
    rows = []
    with (
        _stored(folder, experiment, CLIPS, A_SHARD, SIZE) as (far, store),
        mock.patch.object(local, "ROOT", str(folder / "near")),
    ):
        far.seconds = seconds
        for readers in READERS:
            rate, memory = _rate(store, readers)
            target = (f"at least {WANTED}", rate >= WANTED) if readers == READERS[-1] else ("", None)
            rows.append(Measurement(f"{codec}, {readers} readers", f"{rate:.0f} clips/s, {memory:.0f} MiB", *target))
        local.keep(store, 100)
        local.wait()
        rate, memory = _rate(store, READERS[1])
        rows.append(Measurement(f"{codec}, {READERS[1]} readers, data.local_gb", f"{rate:.0f} clips/s, {memory:.0f} MiB"))
    return rows


def _rate(store: str, readers: int) -> tuple[float, float]:
    """Clips a second after the first batch of an epoch, and how much more memory the process takes, MiB."""
    for cached in (shards._known, shards._file):
        cached.cache_clear()
    shards._SEEN.clear()
    records = read_manifest(store)
    order = np.random.default_rng(0)
    steps: list[list[Pair]] = [[(int(v), 0) for v in order.permutation(len(records))[:PAIRS]] for _ in range(STEPS)]
    process = psutil.Process()
    before, most = process.memory_info().rss, 0
    batches = stream(store, records, steps, readers=readers)
    next(batches)
    started = time.monotonic()
    for _ in batches:
        most = max(most, process.memory_info().rss)
    return PAIRS * (STEPS - 1) / (time.monotonic() - started), (most - before) / 2**20
