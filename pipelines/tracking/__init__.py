"""MLflow: the only room that imports it. One run an experiment, flat dotted parameters, truthful status."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # else it tells of every table that it makes
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # it is `server` that has patience
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

import mlflow

from pipelines.environment import commit, environment
from pipelines.locations import REGISTERED, TrackingError, check_name, check_runs, check_server, output_folder, tracking_uri
from pipelines.tracking.experiment import METHOD, LoggedRun, existing, experiment_id, experiment_params, search, settled
from pipelines.tracking.life import SILENT, beating, signs, whereabouts
from pipelines.tracking.run import PARENT, Run
from pipelines.tracking.server import FIRST, Server
from vop.config import ConfigError, Experiment, TrackingConfig, params_of
from vop.messages import first_line, one_line
from vop.paper.methods import method_of
from vop.secrets import masked

NAME = "mlflow.runName"
RESUMED = "resumed"  # the tag of a run that went on after a death: the commit that it went on with
SWEEP = "sweep"  # the tag of a sweep's parent run: its name


@contextmanager
def tracked_run(experiment: Experiment, tags: Mapping[str, Any] | None = None, run_id: str = "") -> Iterator[Run]:
    """A run for the while: FINISHED at the end, KILLED on Ctrl-C or SIGTERM, FAILED (with the error as a tag) otherwise.

    The tags are there from the first moment; `mlflow.parentRunId` makes it a child, `mlflow.runName` names it. run_id: of a run
    of this experiment that goes on.
    """
    if run_id:
        run = _address(experiment.tracking, run_id)
        _go_on(run, {RESUMED: commit()})
    else:
        run = _create(experiment.tracking, {NAME: experiment.name, "seed": experiment.seed, **(tags or {})})
    with _ended(run):
        if not run_id:
            run.params({METHOD: method_of(experiment.flat()), **params_of(experiment)})
            run.tag(environment())
        yield run


@contextmanager
def tracked_sweep(config: TrackingConfig, name: str, tags: Mapping[str, Any]) -> Iterator[Run]:
    """The parent run of a sweep for the while; that of an earlier start with the same name goes on."""
    earlier = resting_sweep(config, name)  # asked again: another driver may have begun since
    address = _address(config, earlier.id) if earlier else None
    run = address or _create(config, {NAME: name, SWEEP: name, **environment(), **tags})
    _go_on(run, {})
    with _ended(run):
        yield run


def _go_on(run: Run, tags: Mapping[str, str]) -> None:
    run.tag({**signs(), **tags})
    run._server.update_run(run.id, status="RUNNING")
    with suppress(mlflow.exceptions.MlflowException):  # it had none
        run._server.delete_tag(run.id, "error")


def find_sweep(config: TrackingConfig, name: str) -> LoggedRun | None:
    """The parent run of a sweep, or None. TrackingError for a server that does not answer, ConfigError for such a name."""
    check_name(name)
    check_server(config)
    server, experiment = settled(config)
    found = search(server, experiment, f"tags.`{SWEEP}` = '{name}'")
    return found[0] if found else None


def resting_sweep(config: TrackingConfig, name: str) -> LoggedRun | None:
    """As `find_sweep`; raises ConfigError for a sweep that is at work, since two drivers would undo each other's trials."""
    found = find_sweep(config, name)
    if found and (place := running(found)):
        raise ConfigError(
            f"sweep {name} is at work {place}: wait for it, stop it there, or give --name another "
            f"(on a machine that is gone it counts as dead {SILENT / 60:.0f} minutes after its last sign of life)"
        )
    return found


def running(run: LoggedRun) -> str:
    """Where a run is at work and when it was heard of last, for a sentence; "" if it has ended, or nobody knows."""
    return whereabouts(run.tags) if run.status == "RUNNING" else ""


def _create(config: TrackingConfig, tags: Mapping[str, Any]) -> Run:
    if PARENT in tags:  # of a sweep, which has looked after the others, and whose trials wait
        server = Server(tracking_uri(config))
        experiment = experiment_id(server, config)
    else:
        server, experiment = settled(config)
    made = server.create_run(experiment, tags={key: masked(str(value)) for key, value in {**signs(), **tags}.items()})
    return _address(config, made.info.run_id)


def _address(config: TrackingConfig, run_id: str) -> Run:
    return Run(tracking_uri(config), run_id, str(output_folder(config)))


@contextmanager
def _ended(run: Run) -> Iterator[None]:
    try:
        with beating(run._journal):
            yield
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        with suppress(mlflow.exceptions.MlflowException, TrackingError):  # what went wrong first is what is told
            if not stopped:
                run.tag({"error": first_line(error)})
        run.end("KILLED" if stopped else "FAILED")
        raise
    run.end("FINISHED")


def logged_runs(config: TrackingConfig) -> list[LoggedRun]:
    """All runs of an MLflow experiment, oldest first; ConfigError if there is no such database or experiment."""
    return search(*existing(config))


def params_of_run(config: TrackingConfig, run_id: str) -> dict[str, str]:
    """The parameters of a run; none where this MLflow does not have it. ConfigError if there is no such database."""
    check_runs(config)
    try:
        return experiment_params(Server(tracking_uri(config), FIRST).get_run(run_id).data.params)
    except mlflow.exceptions.MlflowException:
        return {}


def download(config: TrackingConfig, where: str, path: str, folder: Path) -> tuple[LoggedRun, Path]:
    """A run, and one of its artifacts copied into `folder`. ConfigError if there is no such run or artifact.

    where: a run's id, or the start of it if only one run has it; or `models:/NAME@ALIAS`, the run of a registered model.
    """
    server, _ = existing(config)
    found = find_run(config, _registered_run(server, where) if where.startswith(REGISTERED) else where)
    try:
        return found, Path(server.download_artifacts(found.id, path, str(folder)))
    except (mlflow.exceptions.MlflowException, OSError) as error:
        about = f"run {found.id} ({found.status})"
        raise ConfigError(f"{about} has no artifact {path} that can be read: {one_line(error)}") from error


def find_run(config: TrackingConfig, run_id: str) -> LoggedRun:
    """The run of an id, or of the start of one. ConfigError if there is none, or several."""
    found = [run for run in logged_runs(config) if run.id.startswith(run_id)]
    if len(found) != 1:
        raise ConfigError(f"run {run_id}: {len(found)} runs of {tracking_uri(config)} have an id that starts so; give one")
    return found[0]


def _registered_run(server: Server, where: str) -> str:
    name, _, alias = where.removeprefix(REGISTERED).partition("@")
    try:
        return str(server.get_model_version_by_alias(name, alias).run_id)
    except mlflow.exceptions.MlflowException as error:
        models = ", ".join(f"{model.name}@{a}" for model in server.search_registered_models() for a in model.aliases)
        raise ConfigError(f"{where}: no such registered model; there are: {models or 'none'}") from error


def log_report(config: TrackingConfig, name: str, tags: Mapping[str, Any], files: list[Path]) -> Run:
    """A finished run that holds files and no metrics."""
    run = _create(config, {NAME: name, **environment(), **tags})
    for file in files:
        run.artifact(file)
    run.end("FINISHED")
    return run
