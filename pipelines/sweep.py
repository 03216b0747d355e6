"""What MLflow remembers of a sweep: a parent run, a child for each point and seed, and what came out of the points."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.spaces import Point, Space, load_space
from pipelines.tracking import LoggedRun, Run, find_sweep, tracking_uri
from vop.config import ConfigError, TrackingConfig, Tree

TRIAL, POINT, PRUNED = "trial", "point", "pruned"  # tags of a child
SETTINGS = "sweep.settings"  # a tag of the parent


@dataclass(frozen=True)
class Settings:
    """Everything that decides a sweep's trials; kept with its MLflow run. recipe: a raw tree; asha: stop weak trials early."""

    recipe: Tree
    space: str
    sampler: str = "grid"
    samples: int = 10
    seeds: int = 1
    asha: bool = False
    rates: dict[str, float] | None = None
    digest: str = ""  # of the space's file


@dataclass(frozen=True)
class Summary:
    """What came out of a point: scores of its seeds (the metric, and test t2v R@1), how its trials ended, its best run."""

    point: Point
    scores: list[float]
    test: list[float]
    statuses: list[str]
    best: LoggedRun | None

    @property
    def mean(self) -> float | None:
        """Of the metric over the seeds that finished."""
        return statistics.fmean(self.scores) if self.scores else None


def key_of(point: Mapping[str, Any], seed: int) -> str:
    """Names a point and seed in MLflow."""
    return hashlib.sha256(json.dumps([point, seed], sort_keys=True).encode()).hexdigest()[:16]


def is_done(child: LoggedRun) -> bool:
    """Whether a trial needs no second run: it finished, or was stopped early as planned."""
    return child.status == "FINISHED" or PRUNED in child.tags


def summaries(run: Run, space: Space) -> list[Summary]:
    """The points of a sweep by the mean of the metric over their seeds, best first; the pruned and failed last."""
    groups: dict[str, list[LoggedRun]] = defaultdict(list)
    for child in run.children():
        groups[child.tags[POINT]].append(child)
    sign = 1 if space.mode == "max" else -1
    found = [_summary(json.loads(point), children, f"best/{space.metric}", sign) for point, children in groups.items()]
    return sorted(found, key=lambda point: float("-inf") if point.mean is None else sign * point.mean, reverse=True)


def _summary(point: Point, children: list[LoggedRun], metric: str, sign: int) -> Summary:
    done = [child for child in children if child.status == "FINISHED"]
    scores, test = ([child.metrics[name] for child in done] for name in (metric, "test/t2v/R1"))
    statuses = ["PRUNED" if PRUNED in child.tags else child.status for child in children]
    best = max(done, key=lambda child: sign * child.metrics[metric], default=None)
    return Summary(point, scores, test, statuses, best)


def best_rates(name: str, tracking: TrackingConfig) -> dict[str, float]:
    """The learning rate of each method with the best mean score in a sweep over `method` and `training.learning_rate`."""
    found = find_sweep(tracking, name)
    if found is None:
        raise ConfigError(f"--learning-rates {name}: there is no such sweep in {tracking_uri(tracking)}")
    space = load_space(json.loads(found.tags[SETTINGS])["space"])
    rates: dict[str, float] = {}
    for summary in summaries(Run(tracking_uri(tracking), found.id), space):  # best first
        if summary.scores and {"method", "training.learning_rate"} <= set(summary.point):
            rates.setdefault(summary.point["method"], summary.point["training.learning_rate"])
    if not rates:
        raise ConfigError(f"--learning-rates {name}: no finished trial has both method and training.learning_rate")
    return rates


def csv_text(points: Sequence[Summary], space: Space) -> str:
    """A row a point: its values, the metric and test t2v R@1 over its seeds (mean, sample standard deviation), how it ended."""
    keys = list(dict.fromkeys(key for point in points for key in point.point))
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([*keys, "seeds", f"{space.metric} mean", "std", "test/t2v/R1 mean", "std", "trials", "best run"])
    for point in points:
        values = [point.point.get(key, "") for key in keys]
        figures = [figure for scores in (point.scores, point.test) for figure in mean_and_std(scores)]
        best = "" if point.best is None else point.best.id
        writer.writerow([*values, len(point.scores), *figures, " ".join(point.statuses), best])
    return text.getvalue()


def mean_and_std(scores: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean, and sample standard deviation where there are two or more."""
    return (
        statistics.fmean(scores) if scores else None,
        statistics.stdev(scores) if len(scores) > 1 else None,
    )
