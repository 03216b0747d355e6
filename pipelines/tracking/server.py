"""MLflow's client as this program asks it: it waits for a server that is away, and says in a sentence what it cannot do."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import mlflow
import requests.exceptions
import sqlalchemy.exc

from pipelines.locations import TrackingError
from pipelines.tracking.database import made
from vop.config import ConfigError
from vop.messages import one_line
from vop.secrets import masked

logger = logging.getLogger(__name__)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs a traceback of every error that it raises
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it tells of each try
FIRST, WAIT = 30.0, 900.0  # seconds of patience: of a command that begins, and in the middle of its work
PAUSES = 0.5, 30.0  # seconds between two tries, the first and the longest


class AwayError(TrackingError):
    """Who keeps the runs did not answer in time; it may later."""


class Server:
    """An `mlflow.MlflowClient`: all of its methods, with patience (in seconds) for a server that is away.

    They raise AwayError after it, TrackingError for an SQLite file that cannot be used (a full disk), and MlflowException for
    what MLflow says of the content.
    """

    def __init__(self, uri: str, patience: float = WAIT):
        self.uri, self.patience = uri, patience

    @cached_property
    def _client(self) -> mlflow.MlflowClient:
        made(self.uri)
        try:
            return mlflow.MlflowClient(tracking_uri=self.uri)
        except mlflow.exceptions.MlflowException as error:
            if is_away(error):
                raise
            raise ConfigError(f"tracking.uri: {masked(self.uri)}: {one_line(error)}") from error

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *arguments, **options: self._patiently(lambda: getattr(self._client, name)(*arguments, **options))

    def _patiently(self, call: Callable[[], Any]) -> Any:
        deadline, (pause, longest) = time.monotonic() + self.patience, PAUSES
        while True:
            try:
                return call()
            except Exception as error:
                if refusal := _refusal(error):
                    raise TrackingError(f"{masked(self.uri)}: {refusal}") from error
                if not is_away(error):
                    raise
                if time.monotonic() + pause > deadline:
                    raise AwayError(f"no answer from MLflow at {masked(self.uri)}: {_reason(error)}") from error
                if pause == PAUSES[0]:
                    logger.warning("no answer from MLflow at %s: waiting, up to %.0f s", masked(self.uri), self.patience)
            time.sleep(pause)
            pause = min(2 * pause, longest)


def is_away(error: BaseException) -> bool:
    """Whether an error is one of the connection, so that the same call may succeed later; and not one of what was sent."""
    return not _refusal(error) and any(map(_is_away, _causes(error)))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised for; what was handled at the time is something else, but where MLflow hides the cause."""
    while error is not None:
        yield error
        hidden = isinstance(error, mlflow.exceptions.MlflowException) and str(error).startswith("API request to")
        error = error.__cause__ or (error.__context__ if hidden else None)


def _is_away(error: BaseException) -> bool:
    if isinstance(error, requests.exceptions.RetryError):
        return "too many 500" not in str(error)  # an error of the server itself, again and again
    if isinstance(error, requests.exceptions.HTTPError):
        return error.response is not None and error.response.status_code in (408, 429, 502, 503, 504)
    connection = (requests.exceptions.ConnectionError, requests.exceptions.Timeout, ConnectionError, TimeoutError, AwayError)
    unavailable = getattr(error, "error_code", "") == "TEMPORARILY_UNAVAILABLE"
    return unavailable or isinstance(error, (*connection, sqlalchemy.exc.OperationalError))


def _refusal(error: BaseException) -> str:
    """What SQLite cannot do with its file, in a few words: it is full, read-only, damaged; "" for all else."""
    for cause in _causes(error):
        if type(cause) in (sqlite3.OperationalError, sqlite3.DatabaseError):
            name = getattr(cause, "sqlite_errorname", "")
            return "" if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) else f"{cause} ({name})"
    return ""


def _reason(error: BaseException) -> str:
    last = list(_causes(error))[-1]
    return one_line(last)[:200] or type(last).__name__
