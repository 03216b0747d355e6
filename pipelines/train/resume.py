"""`vop train --resume RUN`: a training that died goes on in its MLflow run, from its last checkpoint."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

from pipelines.locations import checkpoint_folder
from pipelines.output import Output
from pipelines.tracking import PARENT, SWEEP, LoggedRun, find_run, running
from pipelines.train.on_disk import last
from pipelines.train.run import Result, run_experiment
from vop.config import ConfigError, Experiment, TrackingConfig, read_params
from vop.secrets import is_masked, masked

logger = logging.getLogger(__name__)
PLACES = ("data.cache", "benchmark.videos", "benchmark.annotations", "backbone.pretrained")


def resume(where: str, tracking: TrackingConfig, places: Mapping[str, str] | None = None) -> Result:
    """Go on in a run with the experiment that it recorded: the end is that of a training which nothing has disturbed.

    where: the run's id, the start of it, or the folder of its adapter (NAME-ID); tracking: which MLflow has it, and where its
    checkpoints are; places: keys of PLACES that are somewhere else now, or hold a secret, which a run does not keep. Raises
    ConfigError for a run that there is not, that is no training, that has finished, or that is alive.
    """
    run = find_run(tracking, run_id(where))
    experiment = _experiment(run, places or {}).model_copy(update={"tracking": tracking})
    output, checkpoints = Output.of(tracking), checkpoint_folder(tracking, run.id)
    output.pull(checkpoints)
    if last(checkpoints) is None and experiment.training.epochs:
        logger.info("run %s has no checkpoint in %s: it starts at its first epoch", run.id, masked(output.place))
    return run_experiment(experiment, resumed=run)


def run_id(where: str) -> str:
    """The id, or its start, in what a user calls a run."""
    found = re.fullmatch(r".*-([0-9a-f]{8})/*(\?.*)?", where)
    return found[1].lower() if found else where


def _experiment(run: LoggedRun, places: Mapping[str, str]) -> Experiment:
    """What a run was to do, if it can go on."""
    if name := run.tags.get(SWEEP):
        raise ConfigError(f"run {run.id} is the sweep {name}: vop tune --resume {name}")
    if PARENT in run.tags:
        raise ConfigError(f"run {run.id} is a trial of the sweep of run {run.tags[PARENT]}: vop tune --resume goes on with it")
    if "training.epochs" not in run.params:
        raise ConfigError(f"run {run.id} ({run.name}) is no training: it has no parameters to go on with")
    if run.status == "FINISHED":
        raise ConfigError(f"run {run.id} ({run.name}) has FINISHED: there is nothing left to do")
    if at_work := running(run):
        raise ConfigError(f"run {run.id} ({run.name}) is still at work: {at_work}")
    params = {key: value for key, value in (run.params | dict(places)).items() if not key.startswith("tracking.")}
    if masked := [key for key, value in params.items() if is_masked(value)]:
        raise ConfigError(f"{masked[0]}: run {run.id} keeps no secrets: give it again, {masked[0]}=...")
    return read_params(params)
