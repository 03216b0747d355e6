"""`vop throughput stream`: what decode nodes feed a training that stores no frames, by Ray's tasks and by Ray Data.

The nodes have one CPU each and are all on this machine, whose processes share a monotonic clock. To decode a video is a wait,
so that the number of nodes decides and not the cores of this machine; so is a step of training. Tasks, objects, order and
limits are real.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import ray.data
from ray._private import ray_constants
from ray.cluster_utils import Cluster
from ray.data import DataIterator, ExecutionResources
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.cluster.connect import ROLE, closed, connected, labelled
from pipelines.data.options import StoreOptions
from pipelines.data.store import Images
from pipelines.data.streaming import stream_decoded
from pipelines.throughput.data import Measurement
from vop.benchmarks import Record
from vop.video.frames import Frames

FRAMES, SIZE = 12, 64
PAIRS, AHEAD = 4, 2  # of a worker's batch; batches ahead of training
WARM = 3  # batches that do not count
SLOW = 2  # seconds that a busy trainer takes for what two nodes decode in one
MORE = 1.6  # times the feed of one node, at least, that two give


@dataclass(frozen=True)
class Waiting(StoreOptions):
    """Decoding as a wait. A video's path is its number, which the pixels tell; the first of them tell when it began."""

    seconds: float = 0.0

    def read(self, path: str, window: Sequence[float] | None, seed: int | None = None) -> Frames:
        """Frames [FRAMES, SIZE, SIZE, 3] and a mask that is all true."""
        began = np.frombuffer(np.float64(time.monotonic()).tobytes(), np.uint8)
        time.sleep(self.seconds)
        pixels = np.full((FRAMES, SIZE, SIZE, 3), int(path) % 256, np.uint8)
        pixels.reshape(-1)[: began.size] = began
        return Frames(pixels, np.ones(FRAMES, bool), np.arange(FRAMES), np.zeros(FRAMES, np.float32), "none")


def waiting(seconds: float) -> Waiting:
    """Options of a store, whose videos take so long."""
    return Waiting(SIZE, FRAMES, FRAMES, False, "uniform", 1.0, "none", "refuse", "raw", 0, seconds=seconds)


@dataclass(frozen=True)
class Fed:
    """What came to a worker: when it got each batch; batches begun beyond the one it got, cores that were busy with feeding it,
    share of time that it waited for data.
    """

    got: list[float]
    ahead: float
    cpu: float
    waited: float


@dataclass(frozen=True)
class Case:
    """step: seconds that a step of training takes."""

    nodes: int
    workers: int
    step: float = 0.0


Way = Callable[[list[Any], int, float, Waiting], list[Fed]]
WORKERS = 2


def cases(seconds: float) -> list[Case]:
    """One node, two, two with more workers, two with a busy trainer."""
    return [Case(1, 1), Case(2, 1), Case(2, WORKERS), Case(2, 1, SLOW * PAIRS * seconds / 2)]


def rate(fed: Sequence[Fed]) -> float:
    """Videos a second of all workers, while all of them were fed."""
    start, stop = max(worker.got[WARM] for worker in fed), min(worker.got[-1] for worker in fed)
    return PAIRS * sum(start < time <= stop for worker in fed for time in worker.got) / (stop - start)


def measure(batches: int, rounds: int, seconds: float) -> list[Measurement]:
    """All ways in turn, first with one decode node, then with another one added; `batches` of each of the workers.

    seconds: that a video takes to be decoded.
    """
    ways: Mapping[str, Way] = {"tasks": by_tasks, "Ray Data in each worker": by_datasets, "Ray Data, split": by_split}
    ways, rounds = (ways, rounds) if rounds else ({"tasks": by_tasks}, 1)
    found: dict[str, dict[Case, list[list[Fed]]]] = {name: {} for name in ways}
    with cluster() as nodes:
        trainers = [ray.remote(num_cpus=1, **labelled("train"))(Trainer).remote() for _ in range(WORKERS)]
        ray.get([trainer.ready.remote() for trainer in trainers])
        for case in cases(seconds):
            while len(nodes.worker_nodes) < case.nodes:
                _add_node(nodes)
            for name in [*ways] * rounds:
                fed: list[Fed] = ways[name](trainers[: case.workers], batches, case.step, waiting(seconds))
                found[name].setdefault(case, []).append(fed)
    return [row for name, of_it in found.items() for row in _rows(name, of_it, seconds)]


def _rows(name: str, found: dict[Case, list[list[Fed]]], seconds: float) -> list[Measurement]:
    def middle(case: Case, figure: Callable[[list[Fed]], float]) -> float:
        return statistics.median(figure(fed) for fed in found[case])

    one, two, shared, busy = cases(seconds)
    rates = [middle(case, rate) for case in (one, two, shared)]
    most = max(worker.ahead for rounds in found.values() for fed in rounds for worker in fed)
    cpu, waited = middle(busy, lambda fed: fed[0].cpu), middle(busy, lambda fed: fed[0].waited)
    more = rates[1] / rates[0]
    return [
        Measurement(f"{name}: videos a second, one decode node", f"{rates[0]:.1f}", f"{1 / seconds:.0f} in theory"),
        Measurement(f"{name}: the same, two nodes", f"{rates[1]:.1f}, {more:.2f}x", f"at least {MORE}x", more >= MORE),
        Measurement(f"{name}: the same, two workers", f"{rates[2]:.1f}"),
        Measurement(f"{name}: batches begun ahead, at most", f"{most:.2f}", f"data.ahead, {AHEAD}", most <= AHEAD),
        Measurement(f"{name}: a busy trainer waits for data", f"{waited:.0%}", "at most 10%", waited <= 0.1),
        Measurement(f"{name}: cores that feeding a busy trainer keeps busy", f"{cpu:.2f}"),
    ]


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A Ray with a node to train, to which nodes can be added; on 127.0.0.1, as `connected` starts one."""
    with (
        tempfile.TemporaryDirectory(prefix="vop-", ignore_cleanup_errors=True) as folder,
        mock.patch.dict(os.environ, {"RAY_TMPDIR": folder}),
        closed(),
        mock.patch.dict(os.environ, {ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}),
        mock.patch.object(ray_constants, "ENABLE_RAY_CLUSTER", False),
    ):
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "labels": {ROLE: "train"}, "dashboard_port": 0})
        try:
            with mock.patch.dict(os.environ, {"RAY_ADDRESS": nodes.address}), connected():
                yield nodes
        finally:
            nodes.shutdown()


def _add_node(nodes: Cluster) -> None:
    """One more decode node, whose process has started."""
    node = NodeAffinitySchedulingStrategy(nodes.add_node(num_cpus=1, labels={ROLE: "decode"}).node_id, soft=False)
    nodes.wait_for_nodes()
    ray.get(ray.remote(_decoded).options(num_cpus=1, scheduling_strategy=node).remote({"video": [0]}, waiting(0)))


def by_tasks(trainers: list[Any], batches: int, step: float, options: Waiting) -> list[Fed]:
    """As training does."""
    return _train(trainers, [partial(_streamed, videos, options) for videos in _videos(batches, len(trainers))], step)


def _streamed(videos: list[int], options: Waiting) -> Iterator[Images]:
    records = [Record(str(video), str(video), ("",), "train") for video in videos]
    steps = [[(video, 0) for video in range(start, start + PAIRS)] for start in range(0, len(videos), PAIRS)]
    for batch in stream_decoded(options, records, steps, ahead=AHEAD):
        assert isinstance(batch.pixels_BFHWC, np.ndarray)
        yield batch.pixels_BFHWC


def by_datasets(trainers: list[Any], batches: int, step: float, options: Waiting) -> list[Fed]:
    """A Ray Data execution in each worker, over its own rows."""
    return _train(trainers, [partial(_executed, videos, options) for videos in _videos(batches, len(trainers))], step)


def _executed(videos: list[int], options: Waiting) -> Iterator[Images]:
    return _rows_of(_dataset(videos, 1, options).iterator())


def by_split(trainers: list[Any], batches: int, step: float, options: Waiting) -> list[Fed]:
    """One Ray Data execution, whose rows go round the workers: what `TorchTrainer(datasets=...)` makes of a dataset."""
    videos = [video for row in zip(*_videos(batches, len(trainers)), strict=True) for video in row]
    parts = _dataset(videos, len(trainers), options).streaming_split(len(trainers), equal=True)
    return _train(trainers, [partial(_rows_of, part) for part in parts], step)


def _dataset(videos: list[int], workers: int, options: Waiting) -> ray.data.Dataset:
    """A block a video, in order, decoded on the decode nodes; Ray Data's limit of memory is that of `by_tasks`."""
    rows = ray.data.from_items([{"video": video} for video in videos], override_num_blocks=len(videos))
    dataset = rows.map_batches(_decoded, batch_size=None, num_cpus=1, fn_kwargs={"options": options}, **labelled("decode"))
    memory = workers * (AHEAD + 1) * PAIRS * FRAMES * SIZE**2 * 3
    dataset.context.execution_options.preserve_order = True
    dataset.context.execution_options.resource_limits = ExecutionResources.for_limits(object_store_memory=memory)
    return dataset


def _decoded(rows: dict[str, Any], options: Waiting) -> dict[str, Any]:
    return {"pixels": np.stack([options.read(str(video), None).pixels_FHWC for video in rows["video"]])}


def _rows_of(rows: DataIterator) -> Iterator[Images]:
    for batch in rows.iter_batches(batch_size=PAIRS, batch_format="numpy", prefetch_batches=1):
        yield batch["pixels"]


def _videos(batches: int, workers: int) -> list[list[int]]:
    """Of each worker."""
    return [[worker * 1000 + video for video in range(batches * PAIRS)] for worker in range(workers)]


def _train(trainers: list[Any], feeds: Sequence[Callable[[], Iterator[Images]]], step: float) -> list[Fed]:
    fed = [trainer.work.remote(rank, feed, step) for rank, (trainer, feed) in enumerate(zip(trainers, feeds, strict=True))]
    return list(ray.get(fed))


class Trainer:
    """A simulated one, an actor of Ray."""

    def ready(self) -> None:
        """Returns when it is there, with all that it needs."""
        import torch  # noqa: F401  (batches are pinned where there is a GPU)

    def work(self, rank: int, feed: Callable[[], Iterator[Images]], step: float) -> Fed:
        """Take the batches of a feed, in order, and wait `step` seconds after each."""
        got, begun, waited, cpu = list[float](), list[float](), list[float](), list[dict[int, float]]()
        batches, asked = feed(), time.monotonic()
        for pixels in batches:
            got.append(time.monotonic())
            waited.append(got[-1] - asked)
            cpu.append(_cpu())
            expected = (rank * 1000 + len(begun) + np.arange(PAIRS)) % 256
            assert (pixels[:, -1, -1, -1, -1] == expected).all(), "the order of training"
            begun += [float(one.reshape(-1)[:8].copy().view(np.float64)[0]) for one in pixels]
            time.sleep(step)
            asked = time.monotonic()
        seconds = got[-1] - got[WARM]
        ahead = [sum(one < now for one in begun) / PAIRS - (place + 1) for place, now in enumerate(got)]
        busy = sum(spent - cpu[WARM].get(process, 0) for process, spent in cpu[-1].items())
        return Fed(got, max(ahead), busy / seconds, sum(waited[WARM + 1 :]) / seconds)


def _cpu() -> dict[int, float]:
    """CPU seconds by process: of this one, and of those on this node that execute a dataset for several workers."""
    import psutil

    beside = [process for process in psutil.Process(os.getppid()).children() if "SplitCoordinator" in process.name()]
    return {os.getpid(): time.process_time()} | {process.pid: sum(process.cpu_times()[:2]) for process in beside}
