"""MLflow: the only file that imports it. One run an experiment, flat dotted parameters, truthful status."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

import mlflow
from mlflow.entities import Metric, Param, RunTag
from mlflow.utils.time import get_current_time_millis

from vop.config import ConfigError, Experiment, TrackingConfig

LIBRARIES = ("ray", "torch", "open_clip_torch", "decord", "av", "mlflow", "pyarrow")
PARAMS_A_CALL = 100  # MLflow's own limit
NAME, PARENT = "mlflow.runName", "mlflow.parentRunId"
SWEEP = "sweep"  # the tag of a sweep's parent run: its name


def output_folder(config: TrackingConfig) -> Path:
    """Where runs, adapters and the default tracking database are."""
    return Path(config.output).expanduser().resolve()


def tracking_uri(config: TrackingConfig) -> str:
    """The recipe's address, else MLFLOW_TRACKING_URI, else an SQLite file in the output folder (absolute path)."""
    return config.uri or os.environ.get("MLFLOW_TRACKING_URI", "") or f"sqlite:///{output_folder(config)}/mlflow.db"


def check_server(config: TrackingConfig) -> None:
    """Raise TrackingError, within seconds, if there is an MLflow server to log to and it does not answer.

    A server that goes away later is waited for: MLflow's client tries again for some minutes.
    """
    uri = urlsplit(tracking_uri(config))
    if uri.scheme not in ("http", "https"):
        return
    try:
        socket.create_connection((uri.hostname or "", uri.port or (443 if uri.scheme == "https" else 80)), timeout=5).close()
    except OSError as error:
        where = "tracking.uri" if config.uri else "MLFLOW_TRACKING_URI"
        raise TrackingError(
            f"{where}: no MLflow server answers at {uri.scheme}://{uri.netloc.rpartition('@')[2]} ({error})"
        ) from error


class TrackingError(RuntimeError):
    """An MLflow server that cannot be reached; the message says where it was looked for."""


@dataclass(frozen=True)
class Run:
    """A run by its address, so that any process may log to it."""

    uri: str
    id: str

    def __reduce__(self) -> tuple[type[Run], tuple[str, str]]:
        return Run, (self.uri, self.id)  # its connection stays in its process

    @cached_property
    def _client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(tracking_uri=self.uri)

    def log(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log metrics, all at one step."""
        now = get_current_time_millis()
        self._client.log_batch(self.id, metrics=[Metric(key, float(value), now, step) for key, value in metrics.items()])

    def params(self, values: Mapping[str, str]) -> None:
        """Set parameters, which stay as they are for ever."""
        parameters = [Param(key, value) for key, value in values.items()]
        for start in range(0, len(parameters), PARAMS_A_CALL):
            self._client.log_batch(self.id, params=parameters[start : start + PARAMS_A_CALL])

    def tag(self, tags: Mapping[str, Any]) -> None:
        """Set tags."""
        self._client.log_batch(self.id, tags=[RunTag(key, str(value)) for key, value in tags.items()])

    def artifact(self, path: Path, folder: str = "") -> None:
        """Store a file, or a folder with all that is in it."""
        if path.is_dir():
            self._client.log_artifacts(self.id, str(path), folder or path.name)
        else:
            self._client.log_artifact(self.id, str(path), folder or None)

    def text(self, name: str, text: str) -> None:
        """Store a text as a file of that name."""
        self._client.log_text(self.id, text, name)

    def end(self, status: str) -> None:
        """Set the final status: FINISHED, FAILED or KILLED."""
        self._client.set_terminated(self.id, status)

    def delete(self) -> None:
        """Move the run to MLflow's bin, from where it can be restored."""
        self._client.delete_run(self.id)

    def children(self, **tags: str) -> list[LoggedRun]:
        """The runs that name this one as their parent and have these tags, oldest first; those in the bin are left out."""
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in {PARENT: self.id, **tags}.items())
        return _search(self._client, self._client.get_run(self.id).info.experiment_id, wanted)

    def history(self, metric: str) -> list[float]:
        """All values of a metric, by step."""
        found = self._client.get_metric_history(self.id, metric)
        return [point.value for point in sorted(found, key=lambda point: (point.step, point.timestamp))]

    def register(self, name: str, alias: str) -> str:
        """Make the run's adapter a version of a registered model, and give it an alias; returns the version."""
        with suppress(mlflow.exceptions.MlflowException):  # it exists already
            self._client.create_registered_model(name)
        known = self._client.search_model_versions(f"name = '{name}' and run_id = '{self.id}'")
        source = f"{self._client.get_run(self.id).info.artifact_uri}/adapter"
        made = known[0] if known else self._client.create_model_version(name, source, self.id)
        self._client.set_registered_model_alias(name, alias, made.version)
        return str(made.version)


@contextmanager
def tracked_run(experiment: Experiment, tags: Mapping[str, Any] | None = None) -> Iterator[Run]:
    """A run for the while: FINISHED at the end, KILLED on Ctrl-C or SIGTERM, FAILED (with the error as a tag) otherwise.

    The tags are there from the first moment; `mlflow.parentRunId` makes it a child, `mlflow.runName` names it.
    """
    run = _create(experiment.tracking, {NAME: experiment.name, "seed": experiment.seed, **(tags or {})})
    with _ended(run):
        run.params({key: str(value) for key, value in experiment.flat().items()})
        run.tag(environment())
        yield run


@contextmanager
def tracked_sweep(config: TrackingConfig, name: str, tags: Mapping[str, Any]) -> Iterator[Run]:
    """The parent run of a sweep for the while; that of an earlier start with the same name goes on."""
    earlier = find_sweep(config, name)
    address = Run(tracking_uri(config), earlier.id) if earlier else None
    run = address or _create(config, {NAME: name, SWEEP: name, **environment(), **tags})
    run._client.update_run(run.id, status="RUNNING")
    with _ended(run):
        yield run


def find_sweep(config: TrackingConfig, name: str) -> LoggedRun | None:
    """The parent run of a sweep, or None. Raises TrackingError for a server that does not answer."""
    check_server(config)
    client = _client(config)
    found = _search(client, _experiment_id(client, config), f"tags.`{SWEEP}` = '{name}'")
    return found[0] if found else None


def _create(config: TrackingConfig, tags: Mapping[str, Any]) -> Run:
    client, uri = _client(config), tracking_uri(config)
    made = client.create_run(_experiment_id(client, config), tags={key: str(value) for key, value in tags.items()})
    return Run(uri, made.info.run_id)


@contextmanager
def _ended(run: Run) -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        run.end("KILLED")
        raise
    except BaseException as error:
        run.tag({"error": f"{type(error).__name__}: {error}"[:4000]})
        run.end("FAILED")
        raise
    run.end("FINISHED")


def _client(config: TrackingConfig) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(tracking_uri=tracking_uri(config))


def _experiment_id(client: mlflow.MlflowClient, config: TrackingConfig) -> str:
    found = client.get_experiment_by_name(config.experiment)
    if found is not None:
        return str(found.experiment_id)
    local = tracking_uri(config).startswith("sqlite:")
    location = (output_folder(config) / "artifacts").as_uri() if local else None
    try:
        return str(client.create_experiment(config.experiment, artifact_location=location))
    except mlflow.exceptions.MlflowException:  # another run has just created it
        found = client.get_experiment_by_name(config.experiment)
        if found is None:
            raise
        return str(found.experiment_id)


def environment() -> dict[str, str]:
    """What a number depends on beside the experiment: commit, hardware, library versions."""
    return {
        "commit": commit(),
        "cpu": f"{os.cpu_count()} x {_cpu_name()}",
        "python": platform.python_version(),
        **{f"version.{name}": version(name) for name in LIBRARIES},
    }


def commit() -> str:
    """The commit of the source, with `-dirty` if it has changed since; VOP_COMMIT where there is no repository."""
    source = Path(__file__).resolve().parent
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
        done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=True)
        return done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("VOP_COMMIT", "unknown")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


@dataclass(frozen=True)
class LoggedRun:
    """A run as MLflow has it: status (FINISHED, ...), start in ms, parameters as text, last values of metrics, tags.

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


def logged_runs(config: TrackingConfig) -> list[LoggedRun]:
    """All runs of an MLflow experiment, oldest first; ConfigError if there is no such database or experiment."""
    return _search(*_existing(config))


REGISTERED = "models:/"


def download(config: TrackingConfig, where: str, path: str, folder: Path) -> tuple[LoggedRun, Path]:
    """A run, and one of its artifacts copied into `folder`. ConfigError if there is no such run or artifact.

    where: a run's id, or the start of it if only one run has it; or `models:/NAME@ALIAS`, the run of a registered model.
    """
    client, _ = _existing(config)
    run_id = _registered_run(client, where) if where.startswith(REGISTERED) else where
    found = [run for run in logged_runs(config) if run.id.startswith(run_id)]
    if len(found) != 1:
        raise ConfigError(f"run {run_id}: {len(found)} runs of {tracking_uri(config)} have an id that starts so; give one")
    try:
        return found[0], Path(client.download_artifacts(found[0].id, path, str(folder)))
    except (mlflow.exceptions.MlflowException, OSError) as error:
        status = found[0].status
        raise ConfigError(f"run {found[0].id} ({status}) has no artifact {path} that can be read: {error}") from error


def _registered_run(client: mlflow.MlflowClient, where: str) -> str:
    name, _, alias = where.removeprefix(REGISTERED).partition("@")
    try:
        return str(client.get_model_version_by_alias(name, alias).run_id)
    except mlflow.exceptions.MlflowException as error:
        models = ", ".join(f"{model.name}@{a}" for model in client.search_registered_models() for a in model.aliases)
        raise ConfigError(f"{where}: no such registered model; there are: {models or 'none'}") from error


def log_report(config: TrackingConfig, name: str, tags: Mapping[str, Any], files: list[Path]) -> Run:
    """A finished run that holds files and no metrics."""
    run = _create(config, {NAME: name, **environment(), **tags})
    for file in files:
        run.artifact(file)
    run.end("FINISHED")
    return run


def _existing(config: TrackingConfig) -> tuple[mlflow.MlflowClient, str]:
    """A client and the id of the experiment; unlike writing, reading makes neither."""
    check_server(config)
    uri = tracking_uri(config)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise ConfigError(f"tracking.output: there are no runs yet, {uri} does not exist")
    client = _client(config)
    found = client.get_experiment_by_name(config.experiment)
    if found is None:
        names = ", ".join(sorted(experiment.name for experiment in client.search_experiments()))
        raise ConfigError(f"tracking.experiment: {uri} has no experiment {config.experiment!r}; it has {names or 'none'}")
    return client, str(found.experiment_id)


def _search(client: mlflow.MlflowClient, experiment_id: str, wanted: str = "") -> list[LoggedRun]:
    """The runs of an experiment that a filter of MLflow's lets through, oldest first."""
    runs, token = [], None
    while True:
        page = client.search_runs([experiment_id], wanted, order_by=["start_time ASC"], page_token=token)
        runs += [_logged(client, run) for run in page]
        if not (token := page.token):
            return runs


def _logged(client: mlflow.MlflowClient, run: mlflow.entities.Run) -> LoggedRun:
    metrics, validation = run.data.metrics, run.data.metrics.get("best/val/t2v/R1")
    if validation is None and "val/t2v/R1" in metrics:  # its last value, which need not be the best
        validation = max(metric.value for metric in client.get_metric_history(run.info.run_id, "val/t2v/R1"))
    about = (run.info.run_id, run.info.run_name, run.info.status, run.info.start_time)
    return LoggedRun(*about, run.data.params, metrics, run.data.tags, validation)
