"""Run: what is said of a run, by its address, from any process."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import mlflow
from mlflow.utils.time import get_current_time_millis

from pipelines.locations import TrackingError
from pipelines.tracking.experiment import LoggedRun, search
from pipelines.tracking.journal import Entry, Journal, replay, send
from pipelines.tracking.server import AwayError, Server
from vop.secrets import masked

PARENT = "mlflow.parentRunId"
PATIENCE, AT_ONCE, HANGS = 60.0, 3.0, 10.0  # seconds that a server is waited for: a run has finished, has not, no answer at all


@dataclass(frozen=True)
class Run:
    """A run by its address, so that any process may log to it.

    folder: where what cannot be sent waits (`journal`); "" for a run that is only read, which waits itself.
    """

    uri: str
    id: str
    folder: str = ""

    def __reduce__(self) -> tuple[type[Run], tuple[str, str, str]]:
        return Run, (self.uri, self.id, self.folder)  # its connection stays in its process

    @cached_property
    def _server(self) -> Server:
        return Server(self.uri)

    @cached_property
    def _journal(self) -> Journal:
        return Journal(self.uri, self.id, self.folder)

    def _say(self, entry: Entry) -> None:
        self._journal.add(entry) if self.folder else send(self._server, self.id, entry)

    def log(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log metrics, all at one step."""
        values = {key: float(value) for key, value in metrics.items()}
        self._say({"metrics": values, "step": step, "at": get_current_time_millis()})

    def params(self, values: Mapping[str, str]) -> None:
        """Set parameters, which stay as they are for ever."""
        self._say({"params": {key: masked(value) for key, value in values.items()}})

    def tag(self, tags: Mapping[str, Any]) -> None:
        """Set tags."""
        self._say({"tags": {key: masked(str(value)) for key, value in tags.items()}})

    def artifact(self, path: Path, folder: str = "") -> None:
        """Store a file, or a folder with all that is in it."""
        self._say({"artifact": str(path.absolute()), "folder": folder})

    def text(self, name: str, text: str) -> None:
        """Store a text as a file of that name."""
        self._say({"text": text, "name": name})

    def end(self, status: str) -> None:
        """Set the final status: FINISHED, FAILED or KILLED; after all that was said before, by workers too."""
        if status == "FINISHED" or not self.folder:
            self._end(status, PATIENCE)
            return

        def end() -> None:
            with suppress(mlflow.exceptions.MlflowException, TrackingError):
                self._end(status, AT_ONCE)

        ending = threading.Thread(target=end, daemon=True)  # a server that hangs must not keep a program that is to stop
        ending.start()
        ending.join(HANGS)

    def _end(self, status: str, patience: float) -> None:
        if self.folder:
            replay(Path(self.folder), self._journal.server, self.id)
        self._say({"end": status, "at": get_current_time_millis()})
        if self.folder:
            self._journal.retry(patience)

    def delete(self) -> None:
        """Move the run to MLflow's bin, from where it can be restored."""
        self._server.delete_run(self.id)

    def children(self, **tags: str) -> list[LoggedRun]:
        """The runs that name this one as their parent and have these tags, oldest first; those in the bin are left out."""
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in {PARENT: self.id, **tags}.items())
        return search(self._server, self._server.get_run(self.id).info.experiment_id, wanted)

    def end_children(self) -> None:
        """No child is left RUNNING: they are KILLED. Where MLflow does not answer at once the next command does it."""
        with suppress(AwayError):
            server = Server(self.uri, AT_ONCE)
            for child in search(server, server.get_run(self.id).info.experiment_id, f"tags.`{PARENT}` = '{self.id}'"):
                if child.status == "RUNNING":
                    server.set_terminated(child.id, "KILLED")

    def comparison(self, runs: Sequence[str]) -> str:
        """The page of MLflow's that compares runs of this one's experiment, as an address relative to its server's."""
        experiment = self._server.get_run(self.id).info.experiment_id
        return f"#/compare-runs?{urlencode({'runs': json.dumps(list(runs)), 'experiments': json.dumps([experiment])})}"

    def history(self, metric: str) -> list[float]:
        """All values of a metric, by step."""
        found = self._server.get_metric_history(self.id, metric)
        return [point.value for point in sorted(found, key=lambda point: (point.step, point.timestamp))]

    def steps(self, metric: str) -> set[int]:
        """The steps at which a metric is logged; also by processes that have died since and left it to be sent."""
        if self.folder:
            replay(Path(self.folder), self._server, self.id)
        return {point.step for point in self._server.get_metric_history(self.id, metric)}

    def register(self, name: str, alias: str) -> str:
        """Make the run's adapter a version of a registered model, and give it an alias; returns the version."""
        with suppress(mlflow.exceptions.MlflowException):  # it exists already
            self._server.create_registered_model(name)
        known = self._server.search_model_versions(f"name = '{name}' and run_id = '{self.id}'")
        source = f"{self._server.get_run(self.id).info.artifact_uri}/adapter"
        made = known[0] if known else self._server.create_model_version(name, source, self.id)
        self._server.set_registered_model_alias(name, alias, made.version)
        return str(made.version)
