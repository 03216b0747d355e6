"""The measurements that the README quotes: ways of doing the same work, taken in turn in one run."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
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
