"""`vop throughput data --scale N`, `--verify N`: N tiny clips in one `prepare` or `verify`; memory all along."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import ray  # noqa: F401  (brings psutil)

from pipelines.cluster.connect import connected
from pipelines.data.prepare import prepare
from pipelines.data.store import opened
from pipelines.data.verify import look_at, verify
from pipelines.throughput import TreeTimes
from pipelines.throughput.clips import write_clip, write_dataset
from pipelines.throughput.data import Measurement
from vop.config import load_experiment

SIZE, FRAMES = 64, 12
TOY = ["backbone.name=ViT-toy", "frames.count=12"]  # whose tokenizer cuts texts


class Memory:
    """Resident memory in MiB over time of this process and of the Ray workers that it started, shared pages left out."""

    def __init__(self, every_s: float = 2.0):
        self.driver, self.worker = list[float](), list[float]()  # worker: the largest one
        self.every_s, self.done = every_s, threading.Event()
        self.watcher = threading.Thread(target=self._watch, daemon=True)
        self.watcher.start()

    def stop(self) -> Memory:
        """No more looks."""
        self.done.set()
        self.watcher.join()
        return self

    def _watch(self) -> None:
        import psutil

        def own(process: psutil.Process) -> float:
            seen = process.memory_info()
            return float(seen.rss - getattr(seen, "shared", 0)) / 2**20

        while not self.done.wait(self.every_s):
            workers = []
            for process in psutil.Process().children(recursive=True):
                try:
                    if process.name().startswith("ray::"):
                        workers.append(own(process))
                except psutil.Error:
                    continue
            self.driver.append(own(psutil.Process()))
            self.worker.append(max(workers, default=0))


def measure_scale(clips: int, bad: float = 0.01) -> list[Measurement]:
    """Prepare so many clips; all good ones must be stored, all spoilt ones listed by cause, and memory must stay flat."""
    with tempfile.TemporaryDirectory(prefix="vop-scale-") as scratch:
        folder = Path(scratch)
        sources = [write_clip(folder / f"{seed}.mp4", seed, 12, size=(96, 72), frames=16) for seed in range(4)]
        causes = write_dataset(folder / "videos", sources, clips, bad)
        tree = {
            "benchmark": {"name": "folder", "videos": str(folder / "videos")},
            "data": {"cache": str(folder / "cache")},
            "frames": {"count": FRAMES},
        }
        memory = Memory()
        started = time.monotonic()
        done = prepare(load_experiment(tree), SIZE)
        minutes = (time.monotonic() - started) / 60
        memory.stop()
        stored, found = len(opened(done.folder).places), dict(Counter(row["error_kind"] for row in done.failed))
    good = clips - sum(causes.values())
    return [
        Measurement("clips stored", f"{stored} in {minutes:.1f} min", f"{good}, all the good ones", stored == good),
        Measurement("clips listed as unreadable, by cause", _counted(found), _counted(causes), found == causes),
        _flat("driver", memory.driver),
        _flat("largest worker", memory.worker),
    ]


def measure_verify(files: int) -> list[Measurement]:
    """Verify a tenth of so many tiny clips, then all, on a cluster that is up; and look at them one by one, alone."""
    with tempfile.TemporaryDirectory(prefix="vop-verify-") as scratch, connected():
        peaks, whole = [], True
        for count in (files // 10, files):
            folder = Path(scratch) / str(count)
            sources = [write_clip(Path(scratch) / f"{seed}.mp4", seed, 12, size=(96, 72), frames=16) for seed in range(4)]
            write_dataset(folder, sources, count, apart=True)
            memory, spent = Memory(every_s=1), TreeTimes(every_s=10)  # looking costs time too
            found = verify(load_experiment("folder", [f"benchmark.videos={folder}", *TOY]), Path(scratch) / "report.parquet")
            cpu = sum(spent.stop().values())
            peaks.append(max(memory.stop().driver))
            whole = whole and not found.faults() and len(found.rows) == count
        alone = TreeTimes(every_s=10)
        for path in sorted(folder.glob("*.mp4")):
            look_at(str(path))
        ratio = cpu / alone.stop()["root"]
    growth = peaks[1] - peaks[0]
    return [
        Measurement("files verified", f"{files:,}, {'all' if whole else 'not all'} whole", "all whole", whole),
        Measurement("memory of the driver", f"{peaks[1]:.0f} MiB, with a tenth of the files {peaks[0]:.0f}", *_less(growth)),
        Measurement("CPU time over that of the looks at the files alone", f"{ratio:.2f}", "at most 1.20", ratio <= 1.2),
    ]


def _less(growth: float) -> tuple[str, bool]:
    return "grows less than 100 MiB", growth < 100


def _counted(causes: dict[str, int]) -> str:
    return ", ".join(f"{count} {cause}" for cause, count in sorted(causes.items())) or "none"


def _flat(whose: str, seen: list[float]) -> Measurement:
    """Its peak, and its growth from the first quarter of the run, when all is loaded, to the last."""
    quarters = [max(seen[len(seen) * k // 4 : len(seen) * (k + 1) // 4] or [0]) for k in range(4)]
    growth = quarters[3] - quarters[0]
    value = f"peak {max(seen, default=0):.0f} MiB; by quarters of the run {', '.join(f'{q:.0f}' for q in quarters)}"
    return Measurement(f"memory of the {whose}", value, *_less(growth))
