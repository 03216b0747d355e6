"""A sweep: the points of a tune space x seeds, trials of Ray Tune that call `run_experiment`, children of one MLflow run.

MLflow is what a sweep remembers. A trial first asks whether its point and seed have finished there; if so it only tells Tune
the scores. So a sweep that was killed goes on by starting it again, and no trial is lost or there twice.
"""

from __future__ import annotations

import json
import logging
import shutil
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Repeater

from pipelines.cluster import cluster_has, connected
from pipelines.prepare import Prepared, prepare, store_folder
from pipelines.spaces import SAMPLERS, Point, Space, choices, experiment_of, label, load_space, points_of, with_rates
from pipelines.sweep import POINT, SETTINGS, Settings, Summary, csv_text, summaries
from pipelines.tracking import Run, find_sweep, output_folder, tracked_sweep, tracking_uri
from pipelines.train import check_resources
from pipelines.trial import Progress, trial
from vop.backbone import image_size
from vop.config import ConfigError, Experiment, TrackingConfig, Tree, validated, with_value

RETRIES = 1  # of a trial whose process died


@dataclass(frozen=True)
class Swept:
    """A finished sweep: its MLflow run, its points (best first), the registered model of the best point."""

    name: str
    run: Run
    points: list[Summary]
    model: str


def sweep(name: str, settings: Settings, tracking: TrackingConfig) -> Swept:
    """Run what is missing of a sweep, and say which point is best on the metric's mean over seeds.

    Raises ConfigError for a space, key, value or name that is not valid, ResourceError for a cluster that is too small for
    one trial; both before anything is trained.
    """
    space = load_space(settings.space)
    if settings.digest and settings.digest != space.digest:
        raise ConfigError(f"sweep {name}: the file of space {settings.space} is not the one that it was started with")
    recipe = with_value(settings.recipe, "tracking", tracking.model_dump() | {"output": str(output_folder(tracking))})
    trials = _trials(space, settings, recipe)
    tags = {SETTINGS: json.dumps(asdict(replace(settings, digest=space.digest))), "space": space.name}
    with connected():
        for experiment in _distinct(trials, recipe):
            check_resources(experiment)
        with tracked_sweep(tracking, name, tags) as run, _ended_with(run):
            prepared = _prepared(_distinct(trials, recipe))
            _fit(run, space, settings, recipe, trials, prepared)
            points = summaries(run, space)
            model = _finish(name, run, space, points)
    return Swept(name, run, points, model)


def start(name: str, settings: Settings) -> Swept:
    """A sweep of a name that is not in use."""
    tracking = validated(settings.recipe).tracking
    found = find_sweep(tracking, name)
    if found is not None:
        raise ConfigError(
            f"sweep {name}: there is one ({found.status}); finish it with --resume {name}, or give --name another"
        )
    return sweep(name, settings, tracking)


def resume(name: str, tracking: TrackingConfig) -> Swept:
    """Finish a sweep with the settings that it was started with; nothing is done twice."""
    found = find_sweep(tracking, name)
    if found is None:
        raise ConfigError(f"--resume {name}: {tracking_uri(tracking)} has no such sweep in experiment {tracking.experiment!r}")
    return sweep(name, Settings(**json.loads(found.tags[SETTINGS])), tracking)


def _trials(space: Space, settings: Settings, recipe: Tree) -> list[tuple[Point, int]]:
    """Every point with every seed, all of them valid; for TPE, which chooses as it goes, some points to look at."""
    if settings.sampler not in SAMPLERS:
        raise ConfigError(f"--sampler: there is no {settings.sampler!r}; valid: {', '.join(SAMPLERS)}")
    first = validated(recipe).seed
    if settings.sampler == "tpe":
        moved = [key for key in choices(space) if key.startswith(("frames.", "benchmark.", "data."))]
        if moved:
            raise ConfigError(f"--sampler tpe cannot move {moved[0]}: a sweep's frames are prepared first; use grid or random")
        points = [*space.first, *points_of(space, "random", 20, first)]
    else:
        points = with_rates(points_of(space, settings.sampler, settings.samples, first), settings.rates or {})
    trials = [(point, seed) for seed in range(first, first + settings.seeds) for point in points]
    for point, seed in trials:
        experiment_of(recipe, point, seed)
    return trials


def _distinct(trials: Sequence[tuple[Point, int]], recipe: Tree) -> list[Experiment]:
    """One experiment for each way that the data must be prepared."""
    experiments = [experiment_of(recipe, point, seed) for point, seed in trials]
    return list({store_folder(e, image_size(e.backbone)): e for e in experiments}.values())


def _prepared(experiments: Sequence[Experiment]) -> dict[str, Prepared]:
    """Every clip that a trial will read, decoded once for all of them."""
    return {(done := prepare(e, image_size(e.backbone))).folder: done for e in experiments}


def _fit(
    run: Run,
    space: Space,
    settings: Settings,
    recipe: Tree,
    trials: Sequence[tuple[Point, int]],
    prepared: dict[str, Prepared],
) -> None:
    experiment = validated(recipe)
    search, wanted, param_space = None, len(trials), {"trial": tune.grid_search(list(trials))}
    if settings.sampler == "tpe":
        from ray.tune.search.optuna import OptunaSearch

        known = list({child.tags[POINT]: json.loads(child.tags[POINT]) for child in run.children()}.values())
        first = known + [point for point in space.first if point not in known]
        search = OptunaSearch(choices(space), space.metric, space.mode, points_to_evaluate=first, seed=experiment.seed)
        search, wanted, param_space = Repeater(search, settings.seeds), settings.samples * settings.seeds, {}
    folder = output_folder(experiment.tracking) / "sweeps" / run.id
    arguments = {"run": run, "recipe": recipe, "metric": space.metric, "prepared": prepared}
    scheduler = ASHAScheduler(
        max_t=experiment.training.epochs + 2,  # past the end: a trial that comes so far is scored on test
        reduction_factor=3,
    )
    need, room = _resources(experiment)
    print(f"sweep: {wanted} trials, {min(room, wanted)} at a time; MLflow {run.uri}, run {run.id}", flush=True)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it would say again what Progress says
    tune.Tuner(
        tune.with_resources(tune.with_parameters(trial, **arguments), need),
        param_space=param_space,
        tune_config=tune.TuneConfig(
            metric=space.metric if search is None else None,
            mode=space.mode if search is None else None,
            search_alg=search,
            scheduler=scheduler if settings.asha else None,
            num_samples=1 if search is None else wanted,
            max_concurrent_trials=room,
            reuse_actors=True,  # a new process would import torch and Ray again
        ),
        run_config=tune.RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            callbacks=[Progress(run, space, recipe, wanted)],
        ),
    ).fit()
    shutil.rmtree(folder, ignore_errors=True)


def _resources(experiment: Experiment) -> tuple[dict[str, float], int]:
    """What Tune sets aside for a trial, and how many trials have room in the cluster.

    One worker trains in the trial's own process; several are started by it and set their resources aside themselves.
    """
    resources = experiment.resources
    needs = {"CPU": resources.num_workers * resources.cpus_per_worker}
    if check_resources(experiment):
        needs["GPU"] = float(resources.num_workers)
    free = {name: cluster_has(name) - (name == "CPU" and not experiment.data.store) for name in needs}
    room = max(1, min(int(free[name] / amount) for name, amount in needs.items()))
    own = {name.lower(): amount for name, amount in needs.items()}
    return (own if resources.num_workers == 1 else {"cpu": 0.01}), room


@contextmanager
def _ended_with(run: Run) -> Iterator[None]:
    """No child is left RUNNING when the driver stops."""
    try:
        yield
    finally:
        for child in run.children():
            if child.status == "RUNNING":
                Run(run.uri, child.id).end("KILLED")


def _finish(name: str, run: Run, space: Space, points: Sequence[Summary]) -> str:
    """Log the points to the sweep's run and register the best one's adapter; returns the model's address."""
    statuses = [status for point in points for status in point.statuses]
    run.log({f"trials/{status.lower()}": statuses.count(status) for status in ("FINISHED", "FAILED", "KILLED", "PRUNED")})
    run.text("points.csv", csv_text(points, space))
    if not points or points[0].best is None:
        return ""
    best = points[0]
    assert best.best is not None and best.mean is not None
    run.log({f"best/{space.metric}": best.mean, "best/test/t2v/R1": statistics.fmean(best.test)})
    run.tag({"best": label(best.point), "best.run": best.best.id})
    version = Run(run.uri, best.best.id).register(name, "best")
    return f"models:/{name}@best (version {version})"
