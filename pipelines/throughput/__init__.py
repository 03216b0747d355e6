"""The measurements that the README quotes: ways of doing the same work, taken in turn in one run."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """What one round of a way took: CPU seconds of this process and its ended children, seconds on the clock."""

    cpu: float
    wall: float


def interleaved(ways: Mapping[str, Callable[[], object]], rounds: int, warm_up: bool = True) -> dict[str, list[Cost]]:
    """The cost of each way in each round. All ways run once in every round, after one warm-up round that is not kept.

    Shared machines drift: figures of one run, side by side, can be compared; figures of two runs cannot.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    for number in range(0 if warm_up else 1, rounds + 1):
        for name, way in ways.items():
            cpu, wall = cpu_seconds(), time.monotonic()
            way()
            if number:
                costs[name].append(Cost(cpu_seconds() - cpu, time.monotonic() - wall))
    return costs


def median_ratio(way: list[Cost], against: list[Cost], figure: str = "cpu") -> float:
    """The median over the rounds of one way's cost over another's; figure: `cpu` or `wall`."""
    ratios = [getattr(a, figure) / getattr(b, figure) for a, b in zip(way, against, strict=True)]
    return float(statistics.median(ratios))


def cpu_seconds() -> float:
    """CPU seconds of this process and its ended children until now."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class TreeTimes:
    """CPU seconds of a process and all that it started, ended ones as last seen alive, from now until `stop`."""

    def __init__(self, pid: int | None = None, every_s: float = 0.2):
        import ray  # noqa: F401  (brings psutil)
        from psutil import Process

        self.root, self.every_s, self.ended = Process(pid), every_s, threading.Event()
        self.seen, self.spent = dict[tuple[int, float], float](), defaultdict[str, float](float)  # by process, by name
        self._look()
        self.spent.clear()
        self.watcher = threading.Thread(target=self._watch, daemon=True)
        self.watcher.start()

    def stop(self) -> dict[str, float]:
        """What was spent since, by the name that a process had then, as Ray renames them; the first is "root"."""
        self.ended.set()
        self.watcher.join()
        self._look()
        return dict(self.spent)

    def _watch(self) -> None:
        while not self.ended.wait(self.every_s):
            self._look()

    def _look(self) -> None:
        from psutil import Error

        with suppress(Error):  # the root has ended
            for one in (self.root, *self.root.children(recursive=True)):
                with suppress(Error):
                    process, times = (one.pid, one.create_time()), one.cpu_times()
                    name, seconds = "root" if one.pid == self.root.pid else one.name(), times.user + times.system
                    self.spent[name] += seconds - self.seen.get(process, 0.0)
                    self.seen[process] = seconds
