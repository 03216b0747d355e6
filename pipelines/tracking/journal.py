"""What a run says is written into a file beside the runs first, sent, and taken out of it: a server that is away costs nothing.

A file is JSON Lines, `unsent-<run>-<some hex>.jsonl` in `tracking.output`, of one process, which holds a lock on it while it
lives. As long as MLflow answers there is none. What a process leaves there the next command sends. To send an entry twice does
no harm: points have their time, and MLflow keeps equal ones once.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import mlflow
from mlflow.entities import Metric, Param, RunTag

from pipelines.locations import TrackingError
from pipelines.tracking.server import AwayError, Server
from vop.messages import one_line
from vop.secrets import masked

logger = logging.getLogger(__name__)
PARAMS_A_CALL = 100  # MLflow's own limit
FIRST, LONGEST = 5.0, 300.0  # seconds to the next try, doubled each time
Entry = Mapping[str, Any]


def send(server: Server, run: str, entry: Entry) -> None:
    """Tell MLflow one entry: what it is shows in its first key."""
    match entry:
        case {"metrics": values, "step": step, "at": at}:
            server.log_batch(run, metrics=[Metric(key, value, at, step) for key, value in values.items()])
        case {"params": values}:
            parameters = [Param(key, value) for key, value in values.items()]
            for start in range(0, len(parameters), PARAMS_A_CALL):
                server.log_batch(run, params=parameters[start : start + PARAMS_A_CALL])
        case {"tags": values}:
            server.log_batch(run, tags=[RunTag(key, value) for key, value in values.items()])
        case {"text": text, "name": name}:
            server.log_text(run, text, name)
        case {"artifact": path, "folder": folder}:
            try:
                if os.path.isdir(path):
                    server.log_artifacts(run, path, folder or os.path.basename(path))
                else:
                    server.log_artifact(run, path, folder or None)
            except OSError as error:  # of this machine: a connection's is an AwayError by now
                raise TrackingError(f"{path} cannot be stored with run {run}: {error}") from error
        case {"end": status, "at": at}:
            server.set_terminated(run, status, at)
        case _:
            raise ValueError(f"no entry of a journal: {entry}")


class Journal:
    """What one process has to say of one run, in order."""

    def __init__(self, uri: str, run: str, folder: str):
        self.server, self.run = Server(uri, patience=0), run
        self.path = Path(folder) / f"unsent-{run}-{uuid.uuid4().hex[:8]}.jsonl"
        self._file: IO[str] | None = None
        self._waiting: list[Entry] = []
        self._lock = threading.RLock()  # signs of life come from a thread of their own
        self._pause, self._next = FIRST, 0.0

    def add(self, entry: Entry) -> None:
        """Say something: it is sent now, or later if MLflow does not answer. Raises what MLflow says of the content."""
        with self._lock:
            try:
                self._append(entry)
            except OSError as error:  # it can still be sent
                logger.warning("%s cannot be written: %s", self.path, error)
            self._waiting.append(entry)
            if time.monotonic() >= self._next:
                self._send()

    def retry(self, patience: float = 0.0) -> None:
        """Send what waits, for so many seconds; warns of what still waits then."""
        deadline = time.monotonic() + patience
        while self._waiting:
            with self._lock:
                self._send()
            if self._waiting and time.monotonic() >= deadline:
                words = "run %s: MLflow at %s does not answer; %d entries wait in %s, the next command sends them"
                logger.warning(words, self.run, masked(self.server.uri), len(self._waiting), self.path)
                return
            time.sleep(min(1.0, patience) if self._waiting else 0)

    def beat(self, tags: Mapping[str, str]) -> None:
        """A sign of life, which is worth nothing later; and time to try again what waits."""
        with self._lock:
            if time.monotonic() < self._next:
                return
            try:
                send(self.server, self.run, {"tags": tags})
                self._send()
            except AwayError:
                pass
            except Exception as error:  # in a thread of its own nobody else would hear of it
                logger.warning("run %s: %s", self.run, one_line(error))

    def _append(self, entry: Entry) -> None:
        while self._file is None or not self.path.exists():  # `replay` may remove it before it is locked
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
            with suppress(OSError):  # a filesystem without locks
                fcntl.flock(self._file, fcntl.LOCK_EX)
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()

    def _send(self) -> None:
        try:
            while self._waiting:
                send(self.server, self.run, self._waiting[0])
                del self._waiting[0]
        except AwayError as error:
            if self._pause == FIRST:
                logger.warning("%s; what the run says is kept and sent later", error)
            self._next, self._pause = time.monotonic() + self._pause, min(2 * self._pause, LONGEST)
            return
        except Exception:
            del self._waiting[0]
            raise
        finally:
            if not self._waiting and self._file:
                self.path.unlink(missing_ok=True)
                self._file.close()
                self._file = None
        self._pause, self._next = FIRST, 0.0


def replay(folder: Path, server: Server, run: str = "*") -> None:
    """Send what processes have left that live no longer, of all runs or of one."""
    for path in sorted(folder.glob(f"unsent-{run}-*.jsonl")):
        with suppress(OSError), path.open(encoding="utf-8") as file:  # gone, held by who lives, or in a folder to be read only
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                _replay(path, file, server)
            except AwayError:
                return
            except (mlflow.exceptions.MlflowException, TrackingError, ValueError) as error:
                if getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":  # that is a run of another server
                    logger.warning("%s: MLflow refuses what it holds: %s", path.rename(f"{path}.refused"), one_line(error))


def _replay(path: Path, file: IO[str], server: Server) -> None:
    run, entries = path.name.split("-")[1], [line for line in file if line.endswith("\n")]  # the last may have been cut
    for entry in entries:
        send(server, run, json.loads(entry))
    path.unlink(missing_ok=True)
    if entries:
        logger.info("run %s: %d entries sent that were left in %s", run, len(entries), path)
