"""A sweep: the points of a tune space x seeds, trials of Ray Tune that call `run_experiment`, children of one MLflow run.

MLflow is what a sweep remembers. A trial first asks whether its point and seed have finished there; if so it only tells Tune
the scores. So a sweep that was killed goes on by starting it again, and no trial is lost or there twice.
"""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

from pipelines.cluster.connect import connected
from pipelines.cluster.probe import check_shared
from pipelines.data.check import check_output, check_videos, is_written
from pipelines.data.options import store_folder
from pipelines.data.prepare import Prepared, mend, prepare
from pipelines.data.tasks import Tasks
from pipelines.locations import tracking_uri
from pipelines.output import Output
from pipelines.sweep.check import check_words
from pipelines.sweep.fit import fit, trials_wanted
from pipelines.sweep.record import (
    DESCRIPTION,
    SETTINGS,
    Row,
    Settings,
    Summary,
    benchmarks_csv,
    by_point,
    csv_text,
    description,
    read_settings,
    summaries,
)
from pipelines.sweep.space import (
    Point,
    Space,
    experiment_of,
    label,
    load_space,
    points_of,
    with_rates,
)
from pipelines.sweep.trial import Series
from pipelines.tracking import Run, resting_sweep, tracked_sweep
from pipelines.train.plan import shared_places
from pipelines.train.resources import check_resources
from vop.config import ConfigError, Experiment, TrackingConfig, Tree, validated, with_value
from vop.model.architecture import image_size
from vop.secrets import is_masked, masked_tree

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Swept:
    """A finished sweep: its MLflow run, its points (best first on each recipe), the registered models of the best ones.

    rows: its points on all recipes, best on average first, where it has several.
    """

    name: str
    run: Run
    points: list[Summary]
    rows: list[Row]
    models: list[str]


def sweep(name: str, settings: Settings, tracking: TrackingConfig) -> Swept:
    """Run what is missing of a sweep, and say which point is best on the metric's mean over seeds.

    Raises ConfigError for a space, key, value or name that is not valid, ResourceError for a cluster that is too small for
    one trial; both before anything is trained.
    """
    check_words(settings.space, settings.sampler)
    space = load_space(settings.space)
    if settings.digest and settings.digest != space.digest:
        raise ConfigError(f"sweep {name}: the file of space {settings.space} is not the one that it was started with")
    place = tracking.model_dump() | {"output": Output.of(tracking).place}
    first = validated(settings.first).seed
    all_series = [
        Series(recipe, with_value(with_value(tree, "tracking", place), "seed", first), space)
        for recipe, tree in settings.recipes.items()
    ]
    trials = {series.recipe: _trials(series, settings) for series in all_series}
    distinct = _distinct([experiment_of(series.tree, *t) for series in all_series for t in trials[series.recipe]])
    tags = {SETTINGS: json.dumps(masked_tree(asdict(replace(settings, digest=space.digest)))), "space": space.name}
    check_output(tracking)
    checked = [_checked(experiment) for experiment in distinct]
    with connected():
        for experiment in distinct:
            check_resources(experiment)
            check_shared(shared_places(experiment))
        with tracked_sweep(tracking, name, tags) as run, _ended_with(run):
            prepared = _prepared(distinct, checked)
            counts = [trials_wanted(settings, trials[series.recipe]) for series in all_series]
            for place_of, series in enumerate(all_series):  # one after another: no score is compared with another benchmark's
                progress = sum(counts[:place_of]), sum(counts)
                fit(run, series, settings, trials[series.recipe], prepared, progress)
            for experiment in distinct:
                mend(experiment, image_size(experiment.backbone))
            points = summaries(run, space)
            rows = by_point(points, space, settings) if len(all_series) > 1 else []
            models = _finish(name, run, space, points, rows)
    return Swept(name, run, points, rows, models)


def start(name: str, settings: Settings) -> Swept:
    """A sweep of a name that is not in use."""
    tracking = validated(settings.first).tracking
    found = resting_sweep(tracking, name)
    if found is not None:
        raise ConfigError(
            f"sweep {name}: there is one ({found.status}); finish it with --resume {name}, or give --name another"
        )
    return sweep(name, settings, tracking)


def resume(name: str, tracking: TrackingConfig, said: Mapping[str, Tree] | None = None) -> Swept:
    """Finish a sweep with the settings that it was started with; nothing is done twice.

    said: trees of recipes by name, which have the secrets of addresses.
    """
    found = resting_sweep(tracking, name)
    if found is None:
        raise ConfigError(f"--resume {name}: {tracking_uri(tracking)} has no such sweep in experiment {tracking.experiment!r}")
    settings = read_settings(found)
    recipes = {recipe: _with_secrets(tree, (said or {}).get(recipe, {})) for recipe, tree in settings.recipes.items()}
    return sweep(name, replace(settings, recipes=recipes), tracking)


def _with_secrets(kept: Tree, said: Tree, above: str = "") -> Tree:
    """A tree with the secrets that MLflow does not keep, out of one that was given. ConfigError for one that is missing."""
    found: Tree = {}
    for key, value in kept.items():
        given = said.get(key)
        if isinstance(value, dict):
            found[key] = _with_secrets(value, given if isinstance(given, dict) else {}, f"{above}{key}.")
        elif is_masked(value) and above != "tracking.":
            if masked_tree(given) != value:
                raise ConfigError(f"{above}{key}: the sweep keeps no secrets: give it again, {above}{key}=... for {value}")
            found[key] = given
        else:
            found[key] = value
    return found


def _trials(series: Series, settings: Settings) -> list[tuple[Point, int]]:
    """Every point with every seed, all of them valid; for TPE, which chooses as it goes, some points to look at."""
    space = series.space
    first = validated(series.tree).seed
    if settings.sampler == "tpe":
        moved = [key for key in space.keys if key.startswith(("frames.", "benchmark.", "data."))]
        if moved:
            raise ConfigError(f"--sampler tpe cannot move {moved[0]}: a sweep's frames are prepared first; use grid or random")
        points = [*space.first, *points_of(space, "random", 20, first)]
    else:
        points = with_rates(points_of(space, settings.sampler, settings.samples, first), settings.rates_of(series.recipe))
    trials = [(point, seed) for seed in range(first, first + settings.seeds) for point in points]
    for point, seed in trials:
        experiment_of(series.tree, point, seed)
    return trials


def _distinct(experiments: Sequence[Experiment]) -> list[Experiment]:
    """One experiment for each way that the data must be prepared."""
    return list({store_folder(e, image_size(e.backbone)): e for e in experiments}.values())


def _checked(experiment: Experiment) -> Tasks | None:
    """What its videos need, looked at before work; a model that cannot be built is its own trial's failure."""
    needed = ("train", experiment.training.select) if experiment.training.epochs else ()
    return check_videos(experiment, image_size(experiment.backbone), needed)[0] if is_written(experiment) else None


def _prepared(experiments: Sequence[Experiment], checked: Sequence[Tasks | None]) -> dict[str, Prepared]:
    """Every clip that a trial will read, decoded once for all of them."""
    found = [prepare(e, image_size(e.backbone), tasks) for e, tasks in zip(experiments, checked, strict=True)]
    return {done.folder: done for done in found}


@contextmanager
def _ended_with(run: Run) -> Iterator[None]:
    """No child is left RUNNING when the driver stops."""
    try:
        yield
    finally:
        run.end_children()


def _finish(name: str, run: Run, space: Space, points: Sequence[Summary], rows: Sequence[Row]) -> list[str]:
    """Log the points to the sweep's run and register the adapters of the best ones; returns the models' addresses.

    On one recipe `@best`; on several `@best-RECIPE` for the best of each, and `@average-RECIPE` for the best on average.
    """
    statuses = [status for point in points for status in point.statuses]
    run.log({f"trials/{status.lower()}": statuses.count(status) for status in ("FINISHED", "FAILED", "KILLED", "PRUNED")})
    run.tag({DESCRIPTION: description(run, points, space)})
    run.text("points.csv", csv_text(points, space))
    if rows:
        run.text("benchmarks.csv", benchmarks_csv(rows))
    models = []
    for recipe in dict.fromkeys(point.recipe for point in points):
        best = next(point for point in points if point.recipe == recipe)
        in_recipe, of_recipe = (f"{recipe}/", f"-{recipe}") if recipe else ("", "")
        if best.best is None or best.mean is None:
            continue
        test = {f"best/{in_recipe}test/t2v/R1": statistics.fmean(best.test)} if best.test else {}
        run.log({f"best/{in_recipe}{space.metric}": best.mean, **test})
        run.tag({f"best{of_recipe}": label(best.point), f"best{of_recipe}.run": best.best.id})
        models.append(_registered(run, best.best.id, name, f"best{of_recipe}"))
    if rows and rows[0].average is not None:
        run.log({f"best/average/{space.metric}": rows[0].average})
        run.tag({"best": label(rows[0].point)})
        for recipe, summary in rows[0].by_recipe.items():
            if summary.best is not None:
                models.append(_registered(run, summary.best.id, name, f"average-{recipe}"))
    return models


def _registered(run: Run, child: str, name: str, alias: str) -> str:
    return f"models:/{name}@{alias} (version {Run(run.uri, child).register(name, alias)})"
