"""What runs in a trial of a sweep, and how the driver follows its end."""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from contextlib import suppress
from typing import Any

from ray import tune
from ray.tune.search.repeater import TRIAL_INDEX

from pipelines.prepare import Prepared, store_folder
from pipelines.spaces import Point, Space, experiment_of, label
from pipelines.sweep import POINT, PRUNED, TRIAL, is_done, key_of
from pipelines.tracking import NAME, PARENT, LoggedRun, Run
from pipelines.train import run_experiment
from vop.backbone import image_size
from vop.config import ConfigError, Tree, validated


def trial(config: dict[str, Any], run: Run, recipe: Tree, metric: str, prepared: dict[str, Prepared]) -> None:
    """One point and seed: train it, unless MLflow has it finished; then repeat to Tune what it scored."""
    point, seed = _point_and_seed(config, recipe)
    key = key_of(point, seed)
    for child in run.children(**{TRIAL: key}):
        if is_done(child):
            best = child.metrics.get(f"best/{metric}")  # not there if it was stopped early
            for value in [*Run(run.uri, child.id).history(metric), *([] if best is None else [best])]:
                tune.report({metric: value})
            return
        Run(run.uri, child.id).delete()  # what a process left that was killed
    experiment = experiment_of(recipe, point, seed)
    tags = {
        **{PARENT: run.id, NAME: f"{label(point)}, seed {seed}"},
        **{TRIAL: key, POINT: json.dumps(point), "method": point.get("method", "")},
    }
    try:
        result = run_experiment(experiment, tags, prepared[store_folder(experiment, image_size(experiment.backbone))])
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


def _point_and_seed(config: dict[str, Any], recipe: Tree) -> tuple[Point, int]:
    if "trial" in config:
        point, seed = config["trial"]
        return dict(point), int(seed)
    point = {key: value for key, value in config.items() if key != TRIAL_INDEX}
    return point, validated(recipe).seed + int(config.get(TRIAL_INDEX, 0))


class Progress(tune.Callback):  # type: ignore[misc]
    """In the driver: a line a trial, and the true status of those that did not end by themselves."""

    def __init__(self, run: Run, space: Space, recipe: Tree, wanted: int):
        self.run, self.space, self.recipe, self.wanted = run, space, recipe, wanted
        self.ended = 0

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial finished, or ASHA stopped it."""
        child = self._child(trial)
        if child and not is_done(child):
            own = Run(self.run.uri, child.id)
            own.tag({PRUNED: f"by ASHA after epoch {len(own.history(self.space.metric))}"})
            own.end("KILLED")
        self._print(trial, "stopped early" if child and child.status != "FINISHED" else "")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed, also after its retry."""
        child = self._child(trial)
        if child and child.status == "RUNNING":
            own = Run(self.run.uri, child.id)
            own.tag({"error": "its process died"})
            own.end("FAILED")
        self._print(trial, f"FAILED: {child.tags.get('error', 'its process died')}" if child else "FAILED")

    def _child(self, trial: Any) -> LoggedRun | None:
        found = self.run.children(**{TRIAL: key_of(*_point_and_seed(trial.config, self.recipe))})
        return found[-1] if found else None

    def _print(self, trial: Any, note: str) -> None:
        self.ended += 1
        point, seed = _point_and_seed(trial.config, self.recipe)
        score = (trial.last_result or {}).get(self.space.metric)
        shown = note or (f"{self.space.metric} {score:.1f}" if score is not None else "")
        print(f"{self.ended}/{self.wanted}  {label(point)}, seed {seed}: {shown}", flush=True)
