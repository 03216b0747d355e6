"""The SQLite file of runs: made aside and renamed, so that it is whole or not there, whoever is killed or comes second."""

from __future__ import annotations

import os
import shlex
import shutil
import sqlite3
import sys
import tempfile
import uuid
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import mlflow
import sqlalchemy.exc
from filelock import FileLock, Timeout

from pipelines.locations import TrackingError, check_address, partial_files, sqlite_file

SECONDS = 120  # that another process may take to make the file; one takes about five
BUSY = 20.0  # seconds to wait for who writes to it; MLflow's own


def made(uri: str) -> None:
    """Make sure that MLflow can open an address: of an SQLite file, that it is there, whole, and of this MLflow's schema.

    Raises ConfigError for an address that is none, TrackingError for a file or folder that cannot be used.
    """
    check_address(uri)
    if urlsplit(uri).scheme not in ("http", "https"):
        from mlflow.store.db import utils

        utils.MAX_RETRY_COUNT = 1  # of opening a database: who calls knows for how long to wait
    file = sqlite_file(uri)
    if file is None:
        return
    try:
        if not _there(file):
            _make(file)
    except Timeout as error:
        raise TrackingError(
            f"{file} is being made by another command for {SECONDS} s, which holds {error.lock_file}"
        ) from error
    except (OSError, NotImplementedError) as error:  # the latter: a filesystem that knows no locks
        raise TrackingError(f"tracking.output: runs cannot be kept in {file}: {error}") from error
    _check(file, uri)


def _there(file: Path) -> bool:
    """An empty file is what a killed program leaves that opened it and wrote nothing."""
    return file.exists() and (not file.is_file() or file.stat().st_size > 0)


def _make(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=file.parent).close()  # neither the lock nor SQLite say at once, or at all, why they cannot
    with FileLock(f"{file}.lock", timeout=SECONDS):
        if _there(file):  # another was first
            return
        for left in partial_files(file):  # of a maker that was killed
            left.unlink()
        scratch = file.with_name(f"{file.name}.{uuid.uuid4().hex[:8]}.partial")
        try:
            _build(scratch, (file.parent / "artifacts").resolve())
            with scratch.open("rb+") as whole:
                os.fsync(whole.fileno())
            scratch.replace(file)
        except sqlalchemy.exc.DatabaseError as error:
            free = shutil.disk_usage(file.parent).free / 2**20
            raise OSError(f"{error.orig} ({free:.0f} MiB are free there)") from error
        finally:
            for left in partial_files(file):
                left.unlink()


def _build(file: Path, artifacts: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # a second that runs on a server do not need

    try:
        SqlAlchemyStore(f"sqlite:///{file}", artifacts.as_uri())  # also makes MLflow's "Default" experiment
    except mlflow.exceptions.MlflowException as error:
        raise error.__cause__ or error from None
    finally:
        if engine := SqlAlchemyStore._engine_map.pop(f"sqlite:///{file}", None):
            engine.dispose()


def _check(file: Path, uri: str) -> None:
    """Raise TrackingError for a file that this MLflow cannot read and write as it is."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=rw", uri=True, timeout=BUSY)) as connection:
            found = [row[0] for row in connection.execute("SELECT version_num FROM alembic_version")]
            runs = connection.execute("SELECT count(*) FROM runs").fetchone()[0] if found != [_newest()] else 0
    except sqlite3.Error as error:
        raise TrackingError(
            f"{file} is no database of MLflow's that can be read: {error}; move it away, or give another tracking.output"
        ) from error
    if found == [_newest()]:
        return
    version = found[0] if found else "none"
    if version != "none" and not _known(version):
        raise TrackingError(
            f"{file} was made by a newer MLflow (schema {version}) than this one, {mlflow.__version__}: update mlflow"
        )
    if not runs:
        raise TrackingError(
            f"{file} is of an older MLflow or was never finished (schema {version}), and holds no runs: remove it"
        )
    command = shlex.join([sys.executable, "-m", "mlflow", "db", "upgrade", uri])
    raise TrackingError(f"{file} is of an older MLflow (schema {version}): keep a copy of it, then run: {command}")


@cache
def _scripts() -> Any:
    from alembic.script import ScriptDirectory
    from mlflow.store.db import utils

    return ScriptDirectory.from_config(utils._get_alembic_config(""))


def _newest() -> str:
    return str(_scripts().get_current_head())


def _known(version: str) -> bool:
    from alembic.util import CommandError

    with suppress(CommandError):
        return _scripts().get_revision(version) is not None
    return False
