"""MLflow: the only file that imports it. One run an experiment, flat dotted parameters, truthful status."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import mlflow
from mlflow.entities import Metric, Param, RunTag
from mlflow.utils.time import get_current_time_millis

from vop.config import Experiment, TrackingConfig

LIBRARIES = ("ray", "torch", "open_clip_torch", "decord", "av", "mlflow", "pyarrow")
PARAMS_A_CALL = 100  # MLflow's own limit


def output_folder(config: TrackingConfig) -> Path:
    """Where runs, adapters and the default tracking database are."""
    return Path(config.output).expanduser().resolve()


def tracking_uri(config: TrackingConfig) -> str:
    """The recipe's address, else MLFLOW_TRACKING_URI, else an SQLite file in the output folder (absolute path)."""
    return config.uri or os.environ.get("MLFLOW_TRACKING_URI", "") or f"sqlite:///{output_folder(config)}/mlflow.db"


@dataclass(frozen=True)
class Run:
    """A run by its address, so that any process may log to it."""

    uri: str
    id: str

    @cached_property
    def _client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(tracking_uri=self.uri)

    def log(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log metrics, all at one step."""
        now = get_current_time_millis()
        self._client.log_batch(self.id, metrics=[Metric(key, float(value), now, step) for key, value in metrics.items()])

    def tag(self, tags: Mapping[str, Any]) -> None:
        """Set tags."""
        self._client.log_batch(self.id, tags=[RunTag(key, str(value)) for key, value in tags.items()])

    def artifact(self, path: Path, folder: str = "") -> None:
        """Store a file, or a folder with all that is in it."""
        if path.is_dir():
            self._client.log_artifacts(self.id, str(path), folder or path.name)
        else:
            self._client.log_artifact(self.id, str(path), folder or None)

    def end(self, status: str) -> None:
        """Set the final status: FINISHED, FAILED or KILLED."""
        self._client.set_terminated(self.id, status)


@contextmanager
def tracked_run(experiment: Experiment, tags: Mapping[str, Any] | None = None) -> Iterator[Run]:
    """A run for the while: FINISHED at the end, KILLED on Ctrl-C or SIGTERM, FAILED (with the error as a tag) otherwise."""
    uri = tracking_uri(experiment.tracking)
    client = mlflow.MlflowClient(tracking_uri=uri)
    made = client.create_run(_experiment_id(client, experiment.tracking), run_name=experiment.name)
    run = Run(uri, made.info.run_id)
    try:
        parameters = [Param(key, str(value)) for key, value in experiment.flat().items()]
        for start in range(0, len(parameters), PARAMS_A_CALL):
            client.log_batch(run.id, params=parameters[start : start + PARAMS_A_CALL])
        run.tag({**environment(), "seed": experiment.seed, **(tags or {})})
        yield run
    except (KeyboardInterrupt, SystemExit):
        run.end("KILLED")
        raise
    except BaseException as error:
        run.tag({"error": f"{type(error).__name__}: {error}"[:4000]})
        run.end("FAILED")
        raise
    run.end("FINISHED")


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
