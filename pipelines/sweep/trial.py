"""What runs in a trial of a sweep, and how the driver follows its end."""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from ray import tune
from ray.tune.search.repeater import TRIAL_INDEX

from pipelines.cluster.connect import quiet
from pipelines.data.options import store_folder
from pipelines.data.prepare import Prepared
from pipelines.locations import checkpoint_folder
from pipelines.output import Output
from pipelines.sweep.record import POINT, PRUNED, RECIPE, TRIAL, is_done, key_of
from pipelines.sweep.space import Point, Space, experiment_of, label, point_of
from pipelines.tracking import NAME, PARENT, LoggedRun, Run
from pipelines.train.on_disk import remove
from vop.config import ConfigError, Tree, validated
from vop.model.architecture import image_size

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Series:
    """The trials of a sweep on one recipe: its name ("" if the sweep has one), its raw tree, the space."""

    recipe: str
    tree: Tree
    space: Space

    def point_and_seed(self, config: dict[str, Any]) -> tuple[Point, int]:
        """What Tune's sample stands for."""
        if "trial" in config:
            point, seed = config["trial"]
            return dict(point), int(seed)
        draw = {key: value for key, value in config.items() if key != TRIAL_INDEX}
        return point_of(self.space, draw), validated(self.tree).seed + int(config.get(TRIAL_INDEX, 0))

    def label(self, point: Point, seed: int) -> str:
        """`didemo: VoP^P, seed 0`."""
        return (f"{self.recipe}: " if self.recipe else "") + f"{label(point)}, seed {seed}"


def trial(config: dict[str, Any], run: Run, series: Series, prepared: dict[str, Prepared]) -> None:
    """One point and seed: train it, unless MLflow has it finished; then repeat to Tune what it scored."""
    # Here, since the driver computes nothing: it follows trials without torch.
    from pipelines.train.checkpoint import epochs_of
    from pipelines.train.run import run_experiment

    quiet()  # again: Ray Data has been imported since
    logging.getLogger("pipelines").setLevel(logging.WARNING)  # the driver says a line for all of it
    metric = series.space.metric
    point, seed = series.point_and_seed(config)
    key, experiment = key_of(point, seed, series.recipe), experiment_of(series.tree, point, seed)
    unfinished: LoggedRun | None = None
    for child in run.children(**{TRIAL: key}):
        if is_done(child):
            best = child.metrics.get(f"best/{metric}")  # not there if it was stopped early
            for value in [*Run(run.uri, child.id).history(metric), *([] if best is None else [best])]:
                tune.report({metric: value})
            return
        if unfinished:  # of what processes left that were killed, the last goes on
            Run(run.uri, unfinished.id).delete()
        unfinished = child
    if unfinished:
        checkpoints = checkpoint_folder(experiment.tracking, unfinished.id)
        Output.of(experiment.tracking).pull(checkpoints)
        for metrics in epochs_of(checkpoints):
            tune.report({metric: metrics[metric]})
    tags = {
        **{PARENT: run.id, NAME: series.label(point, seed)},
        **{TRIAL: key, POINT: json.dumps(point), RECIPE: series.recipe, "method": point.get("method", "")},
    }
    try:
        store = store_folder(experiment, image_size(experiment.backbone))
        result = run_experiment(experiment, tags, prepared[store], unfinished)
    finally:
        _give_memory_back()
    score = result.validation.get(metric)
    if score is None:
        raise ConfigError(f"METRIC {metric!r} is not logged; valid: {', '.join(sorted(result.validation))}")
    tune.report({metric: score})


def _give_memory_back() -> None:
    """A process runs many trials, each in a new thread; glibc keeps what a thread has freed for threads to come."""
    gc.collect()
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


class TrialReporter(tune.Callback):  # type: ignore[misc]
    """In the driver: a line a trial, and the true status of those that did not end by themselves."""

    def __init__(self, run: Run, series: Series, ended: int, wanted: int):
        self.run, self.series, self.ended, self.wanted = run, series, ended, wanted

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial finished, or ASHA stopped it."""
        child = self._child(trial)
        if child and not is_done(child):
            own = replace(self.run, id=child.id)
            own.tag({PRUNED: f"by ASHA after epoch {len(own.history(self.series.space.metric))}"})
            own.end("KILLED")
            tracking = validated(self.series.tree).tracking
            remove(Output.of(tracking), checkpoint_folder(tracking, child.id))
        self._print(trial, "stopped early" if child and child.status != "FINISHED" else "")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed, also after its retry."""
        child = self._child(trial)
        if child and child.status == "RUNNING":
            own = replace(self.run, id=child.id)
            own.tag({"error": "its process died"})
            own.end("FAILED")
        self._print(trial, f"FAILED: {child.tags.get('error', 'its process died')}" if child else "FAILED")

    def _child(self, trial: Any) -> LoggedRun | None:
        found = self.run.children(**{TRIAL: key_of(*self.series.point_and_seed(trial.config), self.series.recipe)})
        return found[-1] if found else None

    def _print(self, trial: Any, note: str) -> None:
        self.ended += 1
        metric = self.series.space.metric
        score = (trial.last_result or {}).get(metric)
        shown = note or (f"{metric} {score:.1f}" if score is not None else "")
        name = self.series.label(*self.series.point_and_seed(trial.config))
        logger.info("%d/%d  %s: %s", self.ended, self.wanted, name, shown)
