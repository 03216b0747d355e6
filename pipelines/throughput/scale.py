"""`vop throughput data --scale N`: N tiny clips, one in a hundred of them spoilt, in one `prepare`; memory all along."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import ray  # noqa: F401  (brings psutil)

from pipelines.data.prepare import prepare
from pipelines.data.store import opened
from pipelines.throughput.clips import write_clip, write_dataset
from pipelines.throughput.data import Measurement
from vop.config import load_experiment

SIZE, FRAMES = 64, 12
EVERY_S = 2.0


@dataclass
class Memory:
    """Resident memory in MiB over time of this process and of the Ray workers that it started, shared pages left out."""

    driver: list[float] = field(default_factory=list)
    worker: list[float] = field(default_factory=list)  # the largest one
    done: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Look every EVERY_S seconds until `done`."""
        import psutil

        def own(process: psutil.Process) -> float:
            seen = process.memory_info()
            return float(seen.rss - getattr(seen, "shared", 0)) / 2**20

        while not self.done.wait(EVERY_S):
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
        watch = threading.Thread(target=memory.watch, daemon=True)
        watch.start()
        started = time.monotonic()
        done = prepare(load_experiment(tree), SIZE)
        minutes = (time.monotonic() - started) / 60
        memory.done.set()
        watch.join()
        stored, found = len(opened(done.folder).places), dict(Counter(row["error_kind"] for row in done.failed))
    good = clips - sum(causes.values())
    return [
        Measurement("clips stored", f"{stored} in {minutes:.1f} min", f"{good}, all the good ones", stored == good),
        Measurement("clips listed as unreadable, by cause", _counted(found), _counted(causes), found == causes),
        _flat("driver", memory.driver),
        _flat("largest worker", memory.worker),
    ]


def _counted(causes: dict[str, int]) -> str:
    return ", ".join(f"{count} {cause}" for cause, count in sorted(causes.items())) or "none"


def _flat(whose: str, seen: list[float]) -> Measurement:
    """Its peak, and its growth from the first quarter of the run, when all is loaded, to the last."""
    quarters = [max(seen[len(seen) * k // 4 : len(seen) * (k + 1) // 4] or [0]) for k in range(4)]
    growth = quarters[3] - quarters[0]
    value = f"peak {max(seen, default=0):.0f} MiB; by quarters of the run {', '.join(f'{q:.0f}' for q in quarters)}"
    return Measurement(f"memory of the {whose}", value, "grows less than 100 MiB", growth < 100)
