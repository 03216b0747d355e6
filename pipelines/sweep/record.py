"""What MLflow remembers of a sweep: a parent run, a child for each point and seed, and what came out of the points."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.locations import tracking_uri
from pipelines.sweep.space import Point, Space, label, load_space
from pipelines.tracking import LoggedRun, Run, find_sweep
from vop.annotations.cells import written
from vop.config import ConfigError, TrackingConfig, Tree, read_params
from vop.fingerprint import fingerprint
from vop.paper.methods import METHODS, method_of, paper_value
from vop.secrets import masked_tree

TRIAL, POINT, PRUNED, RECIPE = "trial", "point", "pruned", "recipe"  # tags of a child
SETTINGS = "sweep.settings"  # a tag of the parent
DESCRIPTION = "mlflow.note.content"  # a tag that MLflow shows as Markdown
COMPARED = 50  # points in a link to MLflow's comparison: a tag has room for 8,000 characters
LISTED = 10
RATE = "training.learning_rate"


@dataclass(frozen=True)
class Settings:
    """Everything that decides a sweep's trials; kept with its MLflow run.

    recipes: raw trees by name; the one of a sweep on one benchmark has none (""). asha: stop weak trials early. rates: learning
    rates by recipe and method ("" for all recipes).
    """

    recipes: dict[str, Tree]
    space: str
    sampler: str = "grid"
    samples: int = 10
    seeds: int = 1
    asha: bool = False
    rates: dict[str, dict[str, float]] = field(default_factory=dict)
    digest: str = ""  # of the space's file

    @property
    def first(self) -> Tree:
        """The recipe that says what all of them share: seeds, resources, where runs are."""
        return next(iter(self.recipes.values()))

    def rates_of(self, recipe: str) -> dict[str, float]:
        """The learning rate of each method that is known."""
        return self.rates.get(recipe) or self.rates.get("", {})


@dataclass(frozen=True)
class Summary:
    """What came out of a point: scores of its seeds (the metric, and test t2v R@1), how its trials ended, its best run.

    recipe: the name of the recipe that it was trained with, "" where the sweep has one; benchmark: the recipe's.
    """

    recipe: str
    benchmark: str
    point: Point
    scores: list[float]
    test: list[float]
    statuses: list[str]
    best: LoggedRun | None

    @property
    def mean(self) -> float | None:
        """Of the metric over the seeds that finished."""
        return statistics.fmean(self.scores) if self.scores else None


def key_of(point: Mapping[str, Any], seed: int, recipe: str = "") -> str:
    """Names a trial among the children of a sweep, whose parent run has all else that decides it (Settings)."""
    return fingerprint([point, seed, *([recipe] if recipe else [])])


def is_done(child: LoggedRun) -> bool:
    """Whether a trial needs no second run: it finished, or was stopped early as planned."""
    return child.status == "FINISHED" or PRUNED in child.tags


def summaries(run: Run, space: Space) -> list[Summary]:
    """The points of a sweep by the mean of the metric over their seeds, best first; the pruned and failed last.

    Points of one recipe stand together: scores on different benchmarks are not compared.
    """
    groups: dict[str, dict[str, list[LoggedRun]]] = defaultdict(lambda: defaultdict(list))
    for child in run.children():
        groups[child.tags.get(RECIPE, "")][child.tags[POINT]].append(child)
    sign = 1 if space.mode == "max" else -1
    found = {
        recipe: [_summary(recipe, json.loads(point), children, f"best/{space.metric}", sign) for point, children in own.items()]
        for recipe, own in groups.items()
    }
    return [summary for own in found.values() for summary in _ranked(own, sign)]


def _ranked(points: list[Summary], sign: int) -> list[Summary]:
    return sorted(points, key=lambda point: float("-inf") if point.mean is None else sign * point.mean, reverse=True)


def _summary(recipe: str, point: Point, children: list[LoggedRun], metric: str, sign: int) -> Summary:
    done = [child for child in children if child.status == "FINISHED"]
    # without a test split there is none of it
    scores, test = ([child.metrics[n] for child in done if n in child.metrics] for n in (metric, "test/t2v/R1"))
    statuses = ["PRUNED" if PRUNED in child.tags else child.status for child in children]
    best = max(done, key=lambda child: sign * child.metrics[metric], default=None)
    benchmark = next((child.params["benchmark.name"] for child in children if "benchmark.name" in child.params), "")
    return Summary(recipe, benchmark, point, scores, test, statuses, best)


@dataclass(frozen=True)
class Row:
    """A point on all benchmarks: its summary on each, and the metric's mean over them (None: not all have finished)."""

    point: Point
    by_recipe: dict[str, Summary]
    average: float | None


def by_point(points: Sequence[Summary], space: Space, settings: Settings) -> list[Row]:
    """Each point with its summaries on all recipes, the best on average first; rates of `settings.rates` may differ."""
    free = {RATE} if settings.rates else set()
    recipes = list(dict.fromkeys(summary.recipe for summary in points))
    groups: dict[str, dict[str, Summary]] = defaultdict(dict)
    for summary in points:
        groups[json.dumps({key: value for key, value in summary.point.items() if key not in free})][summary.recipe] = summary
    rows = []
    for point, own in groups.items():
        means = [own[recipe].mean if recipe in own else None for recipe in recipes]
        known = [mean for mean in means if mean is not None]
        rows.append(Row(json.loads(point), own, statistics.fmean(known) if len(known) == len(recipes) else None))
    sign = 1 if space.mode == "max" else -1
    return sorted(rows, key=lambda row: float("-inf") if row.average is None else sign * row.average, reverse=True)


def best_rates(name: str, tracking: TrackingConfig) -> dict[str, dict[str, float]]:
    """The learning rate of each method with the best mean score in a sweep over `method` and `training.learning_rate`.

    By recipe, and by method. name: of a sweep in MLflow, or of a file *.json that `vop report --export` made of one.
    """
    if name.endswith(".json"):
        return {"": _exported_rates(Path(name))}
    found = find_sweep(tracking, name)
    if found is None:
        raise ConfigError(f"--learning-rates {name}: there is no such sweep in {tracking_uri(tracking)}")
    space = load_space(read_settings(found).space)
    rates: dict[str, dict[str, float]] = defaultdict(dict)
    for summary in summaries(Run(tracking_uri(tracking), found.id), space):  # best first
        if summary.scores and {"method", RATE} <= set(summary.point):
            rates[summary.recipe].setdefault(summary.point["method"], summary.point[RATE])
    if not rates:
        raise ConfigError(f"--learning-rates {name}: no finished trial has both method and {RATE}")
    return dict(rates)


def _exported_rates(file: Path) -> dict[str, float]:
    scores: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    try:
        for entry in json.loads(file.read_text(encoding="utf-8")):
            experiment = read_params(entry["params"])
            if RATE in entry["params"] and entry["validation"] is not None:
                method, rate = method_of(experiment.flat()), float(entry["params"][RATE])
                scores[method][rate].append(float(entry["validation"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"--learning-rates {file}: not what vop report --export writes of a sweep: {error}") from error
    if not scores:
        raise ConfigError(f"--learning-rates {file}: no run has both {RATE} and a validation score")
    return {method: max(rates, key=lambda rate: statistics.fmean(rates[rate])) for method, rates in scores.items()}


def read_settings(run: LoggedRun) -> Settings:
    """What a sweep was started with. Raises ConfigError for one of a version that this one cannot finish."""
    try:
        return Settings(**json.loads(run.tags[SETTINGS]))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"sweep {run.name} was started by another version of this program, which can finish it") from error


def csv_text(points: Sequence[Summary], space: Space) -> str:
    """A row a point: its values, the metric and test t2v R@1 over its seeds (mean, sample standard deviation), how it ended."""
    keys = list(dict.fromkeys(key for point in points for key in point.point))
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    heads = ["recipe", *keys, "seeds", f"{space.metric} mean", "std", "test/t2v/R1 mean", "std", "trials", "best run"]
    writer.writerow(heads)
    for point in points:
        values = [written(masked_tree(point.point.get(key, ""))) for key in keys]
        figures = [figure for scores in (point.scores, point.test) for figure in mean_and_std(scores)]
        best = "" if point.best is None else point.best.id
        writer.writerow([point.recipe, *values, len(point.scores), *figures, " ".join(point.statuses), best])
    return text.getvalue()


def benchmarks_csv(rows: Sequence[Row]) -> str:
    """A row a point: on each recipe's benchmark test t2v R@1 over its seeds and the paper's, where it has one; the average."""
    recipes = list(dict.fromkeys(recipe for row in rows for recipe in row.by_recipe))
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    heads = [f"{recipe}: {head}" for recipe in recipes for head in ("test/t2v/R1 mean", "std", "paper")]
    writer.writerow(["point", *heads, "average on validation"])
    for row in rows:
        cells: list[float | None] = []
        for recipe in recipes:
            summary = row.by_recipe.get(recipe)
            cells += [*mean_and_std(summary.test), paper_of(summary)] if summary else [None, None, None]
        writer.writerow([label(row.point), *cells, row.average])
    return text.getvalue()


def description(run: Run, points: Sequence[Summary], space: Space) -> str:
    """What the sweep's page in MLflow opens with: links to the comparison of its points, and those at the top (Markdown).

    A link for each recipe: runs of several benchmarks differ in so many parameters that MLflow shows no other.
    """
    done = [point for point in points if point.best is not None and point.mean is not None]
    recipes, lines = list(dict.fromkeys(point.recipe for point in points)), list[str]()
    for recipe in recipes:
        own = [point.best.id for point in done if point.best is not None and point.recipe == recipe][: COMPARED // len(recipes)]
        words = f"Compare {len(own)} of {sum(point.recipe == recipe for point in points)} points"
        lines += [f"[{words}{f' of {recipe}' if recipe else ''}]({run.comparison(own)}), the best run of each.", ""]
    lines += [f"| point | {space.metric} | test/t2v/R1 |", "| --- | --- | --- |"]
    for point in done[:LISTED]:
        name = " ".join(filter(None, (f"{point.recipe}:" if point.recipe else "", label(point.point)))).replace("|", "\\|")
        test = f"{statistics.fmean(point.test):.1f}" if point.test else ""
        lines.append(f"| {name} | {point.mean:.1f} | {test} |")
    return "\n".join(lines)


def paper_of(summary: Summary) -> float | None:
    """The paper's t2v R@1 of a point that is one of its methods, on one of its benchmarks."""
    name = summary.point.get("method", "")
    return paper_value(summary.benchmark, name) if name in METHODS else None


def mean_and_std(scores: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean, and sample standard deviation where there are two or more."""
    return (
        statistics.fmean(scores) if scores else None,
        statistics.stdev(scores) if len(scores) > 1 else None,
    )
