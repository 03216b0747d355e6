"""An MLflow experiment as a command meets it: there or made, not in the bin, and what earlier commands have left settled."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import mlflow

from pipelines.locations import TrackingError, artifact_folder, check_runs, output_folder, sqlite_file, tracking_uri
from pipelines.tracking.journal import replay
from pipelines.tracking.life import ALIVE, is_dead
from pipelines.tracking.server import FIRST, Server
from vop.config import ConfigError, TrackingConfig
from vop.messages import one_line
from vop.secrets import masked

logger = logging.getLogger(__name__)
METHOD, TRAINABLE = "method", "trainable_parameters"  # parameters of a run beside those of its experiment


@dataclass(frozen=True)
class LoggedRun:
    """A run as MLflow has it: status (FINISHED, ...), start in ms, parameters as text, last values of metrics, tags.

    `params`: of its experiment; `metrics`: with `trainable_parameters`, which MLflow has as a parameter.
    `validation`: val/t2v/R1 of the checkpoint that was scored, the best of all epochs; None where nothing was validated.
    """

    id: str
    name: str
    status: str
    started: int
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    validation: float | None = None


def search(server: Server, experiment_id: str, wanted: str = "") -> list[LoggedRun]:
    """The runs of an experiment that a filter of MLflow's lets through, oldest first."""
    runs, token = [], None
    while True:
        page = server.search_runs([experiment_id], wanted, order_by=["start_time ASC"], page_token=token)
        runs += [_logged(server, run) for run in page]
        if not (token := page.token):
            return runs


def _logged(server: Server, run: mlflow.entities.Run) -> LoggedRun:
    metrics, validation = dict(run.data.metrics), run.data.metrics.get("best/val/t2v/R1")
    if TRAINABLE in run.data.params:  # older runs have it as a metric
        metrics[TRAINABLE] = float(run.data.params[TRAINABLE])
    if validation is None and "val/t2v/R1" in metrics:  # its last value, which need not be the best
        validation = max(metric.value for metric in server.get_metric_history(run.info.run_id, "val/t2v/R1"))
    about = (run.info.run_id, run.info.run_name, run.info.status, run.info.start_time)
    return LoggedRun(*about, experiment_params(run.data.params), metrics, run.data.tags, validation)


def experiment_params(params: Mapping[str, str]) -> dict[str, str]:
    """The parameters of a run that its experiment has."""
    return {key: value for key, value in params.items() if key not in (METHOD, TRAINABLE)}


def settled(config: TrackingConfig) -> tuple[Server, str]:
    """A server and the id of the experiment, which is made if there is none; what earlier commands left is settled first."""
    server = Server(tracking_uri(config), FIRST)
    experiment = experiment_id(server, config)
    settle(config, server, experiment)
    return server, experiment


def existing(config: TrackingConfig) -> tuple[Server, str]:
    """A server and the id of the experiment; unlike writing, reading makes neither."""
    check_runs(config)
    server, uri = Server(tracking_uri(config), FIRST), tracking_uri(config)
    found = _experiment(server, config)
    if found is None:
        names = ", ".join(sorted(experiment.name for experiment in server.search_experiments()))
        raise ConfigError(f"tracking.experiment: {uri} has no experiment {config.experiment!r}; it has {names or 'none'}")
    experiment = _usable(found, config)
    settle(config, server, experiment)
    return server, experiment


def settle(config: TrackingConfig, server: Server, experiment: str) -> None:
    """Send what earlier processes could not, then end the runs whose process is gone."""
    replay(output_folder(config), server)
    for run in search(server, experiment, "attributes.status = 'RUNNING'"):
        # of one that has ended since the search, and then was gone, MLflow has the last word by now
        if is_dead(run.tags) and server.get_run(run.id).info.status == "RUNNING":
            with suppress(mlflow.exceptions.MlflowException, TrackingError):  # a database that can only be read
                server.set_tag(run.id, "error", "its process is gone")
                server.set_terminated(run.id, "KILLED", int(float(run.tags.get(ALIVE, "0")) * 1000) or None)
                logger.warning("run %s (%s) was left RUNNING by a process that is gone: it is KILLED now", run.id, run.name)


def _experiment(server: Server, config: TrackingConfig) -> mlflow.entities.Experiment | None:
    """The experiment; None if there is none. ConfigError for a server that is not MLflow's, or lets nobody in."""
    try:
        return server.get_experiment_by_name(config.experiment)
    except mlflow.exceptions.MlflowException as error:
        raise ConfigError(f"tracking.uri: {masked(tracking_uri(config))}: {one_line(error)[:500]}") from error


def experiment_id(server: Server, config: TrackingConfig) -> str:
    """The id of the experiment, which is made if there is none. ConfigError for a deleted one, or a name that is none."""
    found = _experiment(server, config)
    if found is None:
        location = artifact_folder(config).as_uri() if sqlite_file(tracking_uri(config)) else None
        try:
            return str(server.create_experiment(config.experiment, artifact_location=location))
        except mlflow.exceptions.MlflowException as error:
            found = server.get_experiment_by_name(config.experiment)
            if found is None:
                raise ConfigError(f"tracking.experiment: {config.experiment!r}: {one_line(error)}") from error
            # else another command has just made it
    return _usable(found, config)


def _usable(found: mlflow.entities.Experiment, config: TrackingConfig) -> str:
    """The id of an experiment; ConfigError for one that was deleted."""
    if found.lifecycle_stage == "deleted":
        place = shlex.quote(masked(tracking_uri(config)))
        command = f"MLFLOW_TRACKING_URI={place} mlflow experiments restore -x {found.experiment_id}"
        raise ConfigError(
            f"tracking.experiment: {config.experiment!r} is in MLflow's bin; give another name, or restore it: {command}"
        )
    return str(found.experiment_id)
