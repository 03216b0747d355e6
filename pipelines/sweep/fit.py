"""The trials of a sweep on one recipe, run by Ray Tune: which come, how many side by side, with what of the cluster."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Repeater

from pipelines.cluster.connect import labelled, needs_of, workers_that_fit
from pipelines.data.prepare import Prepared
from pipelines.output import Output, storage
from pipelines.sweep.record import POINT, RECIPE, Settings
from pipelines.sweep.space import Point, choices, draw_of
from pipelines.sweep.trial import Series, TrialReporter, trial
from pipelines.tracking import Run
from pipelines.train.resources import check_resources
from vop.config import Experiment, validated

logger = logging.getLogger(__name__)
RETRIES = 1  # of a trial whose process died
NO_CPU = {"memory": 1.0}  # a byte, since a trial must ask for something: the CPUs are for the workers that it starts


def trials_wanted(settings: Settings, trials: Sequence[tuple[Point, int]]) -> int:
    """How many trials a sweep runs on a recipe."""
    return settings.samples * settings.seeds if settings.sampler == "tpe" else len(trials)


def fit(
    run: Run,
    series: Series,
    settings: Settings,
    trials: Sequence[tuple[Point, int]],
    prepared: dict[str, Prepared],
    progress: tuple[int, int],
) -> None:
    """Run the trials of one recipe; progress: how many of the sweep's trials come before, and how many there are."""
    space, experiment = series.space, validated(series.tree)
    search, wanted, param_space = None, trials_wanted(settings, trials), {"trial": tune.grid_search(list(trials))}
    if settings.sampler == "tpe":
        from ray.tune.search.optuna import OptunaSearch

        own = (child for child in run.children() if child.tags.get(RECIPE, "") == series.recipe)
        known = list({child.tags[POINT]: json.loads(child.tags[POINT]) for child in own}.values())
        first = [draw_of(space, point) for point in [*known, *(point for point in space.first if point not in known)]]
        search = OptunaSearch(choices(space), space.metric, space.mode, points_to_evaluate=first, seed=experiment.seed)
        search, param_space = Repeater(search, settings.seeds), {}
    output = Output.of(experiment.tracking)
    folder = output.folder / "sweeps" / run.id
    arguments = {"run": run, "series": series, "prepared": prepared}
    scheduler = ASHAScheduler(
        max_t=experiment.training.epochs + 2,  # past the end: a trial that comes so far is scored on test
        reduction_factor=3,
    )
    need, room = _resources(experiment)
    # Trials that wait for their resources are what makes a cluster grow. But several workers, and tasks that decode, wait
    # for what trials have begun without; and TPE chooses by what has ended.
    waits = experiment.resources.fewest == 1 and experiment.data.store and settings.sampler != "tpe"
    of = f" of {series.recipe}" if series.recipe else ""
    logger.info("sweep: %d trials%s, %d at a time; MLflow %s, run %s", wanted, of, min(room, wanted), run.uri, run.id)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it would say again what TrialReporter says
    tune.Tuner(
        tune.with_resources(tune.with_parameters(trial, **arguments), need),
        param_space=param_space,
        tune_config=tune.TuneConfig(
            metric=space.metric if search is None else None,
            mode=space.mode if search is None else None,
            search_alg=search,
            scheduler=scheduler if settings.asha else None,
            num_samples=1 if search is None else wanted,
            max_concurrent_trials=None if waits else room,
            reuse_actors=True,  # a new process would import torch and Ray again
        ),
        run_config=tune.RunConfig(
            name=folder.name,
            **storage(output, folder.parent),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            callbacks=[TrialReporter(run, series, *progress)],
        ),
    ).fit()
    output.remove(folder)


def _resources(experiment: Experiment) -> tuple[tune.PlacementGroupFactory, int]:
    """What Tune sets aside for a trial, and how many trials have room in the cluster.

    One worker trains in the trial's own process; several are started by it and set their resources aside themselves.
    """
    check_resources(experiment)
    workers, needs = experiment.resources.fewest, needs_of(experiment.resources)
    room = max(1, workers_that_fit(needs, spare_cpus=0 if experiment.data.store else 1) // workers)
    label = {f"bundle_{name}": [selector] for name, selector in labelled("train").items()}
    return tune.PlacementGroupFactory([needs if workers == 1 else NO_CPU], **label), room
