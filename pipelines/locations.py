"""Where runs are, and which of them a user means: known without MLflow and torch, whose imports take seconds."""

from __future__ import annotations

import os
import re
import socket
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import urlsplit

from vop.config import ConfigError, TrackingConfig
from vop.errors import AdapterError, VopError
from vop.fingerprint import fingerprint
from vop.messages import one_line
from vop.model.hub import FILES, HUB, fetched, is_hub
from vop.secrets import masked

REGISTERED = "models:/"
DATABASES = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
PORTS = {"http": 80, "https": 443, **DATABASES}  # of servers that keep runs
DATABRICKS = "databricks"
COPIES, ADAPTERS = "~/.cache/vop/outputs", "~/.cache/vop/adapters"  # of what is at an address
NAMED = re.compile(r"[^/:'\"`\\\x00-\x1f\x7f]{1,200}")


class TrackingError(VopError, RuntimeError):
    """A place for runs that cannot be used, such as a server that does not answer; the message says which and why."""


def output_folder(config: TrackingConfig) -> Path:
    """Where runs, adapters and the default tracking database are; of an address this machine's copy (`pipelines/output.py`)."""
    if "://" in config.output:
        return Path(COPIES).expanduser() / fingerprint([config.output.rstrip("/")])
    try:
        return Path(os.path.expanduser(config.output)).resolve()
    except (OSError, RuntimeError) as error:  # links that go round in a circle
        raise ConfigError(f"tracking.output: {config.output}: {error}") from error


def artifact_folder(config: TrackingConfig) -> Path:
    """Where MLflow keeps the files of runs that it keeps in an SQLite file; not among copies, which may be removed."""
    file = sqlite_file(tracking_uri(config))
    return (file.resolve().parent if file and "://" in config.output else output_folder(config)) / "artifacts"


def checkpoint_folder(config: TrackingConfig, run_id: str) -> Path:
    """Where a training keeps its last checkpoint, until its run has FINISHED."""
    return output_folder(config) / "checkpoints" / run_id


def tracking_uri(config: TrackingConfig) -> str:
    """The recipe's address, else MLFLOW_TRACKING_URI, else an SQLite file in the output folder (absolute path).

    Raises ConfigError for none of them: an SQLite file cannot be at an address.
    """
    if said := config.uri or os.environ.get("MLFLOW_TRACKING_URI", ""):
        return said
    if "://" in config.output:
        raise ConfigError(
            f"tracking.output: {masked(config.output)} is no folder, where runs could be tracked in a file: say where MLflow "
            "is, tracking.uri=http://server:5000"
        )
    return f"sqlite:///{output_folder(config)}/mlflow.db"


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite address; None for other addresses. ConfigError where MLflow would not find it."""
    if not uri.startswith("sqlite:"):
        return None
    path = uri.removeprefix("sqlite:///")
    if path == uri or not path or path == ":memory:":
        raise ConfigError(
            f"tracking.uri: {uri} names no file; valid: sqlite:///relative/mlflow.db or sqlite:////absolute/mlflow.db"
        )
    if "?" in path or "%" in path:  # SQLAlchemy's versions disagree on what they mean
        raise ConfigError(f"runs cannot be kept in {path}: an SQLite address has no ? and no %; rename the folder")
    return Path(path)


def partial_files(file: Path) -> list[Path]:
    """What makers of a database have left beside it; one that lives holds the lock."""
    return [path for path in file.parent.iterdir() if path.name.startswith(f"{file.name}.") and ".partial" in path.suffixes[-1]]


def check_address(uri: str) -> None:
    """Raise ConfigError for an address of a kind in which MLflow keeps no runs."""
    shown = masked(uri)
    try:
        scheme, host = _scheme(uri), urlsplit(uri).hostname
    except ValueError as error:
        raise ConfigError(f"tracking.uri: {shown}: {error}") from error
    if scheme in ("http", "https") and not host:
        raise ConfigError(f"tracking.uri: {shown} names no server; valid: http://server:5000")
    if scheme in ("", "file"):
        if os.environ.get("MLFLOW_ALLOW_FILE_STORE"):
            return
        raise ConfigError(
            f"tracking.uri: {shown} is a folder, in which MLflow keeps runs no longer; valid: sqlite:////path/mlflow.db, "
            "http://server, postgresql://server/database (mlflow migrate-filestore takes old runs along)"
        )
    if scheme not in {*PORTS, "sqlite", DATABRICKS, *entry_points(group="mlflow.tracking_store").names}:
        raise ConfigError(f"tracking.uri: {shown}: MLflow keeps no runs there; valid: sqlite, {', '.join(PORTS)}, {DATABRICKS}")
    sqlite_file(uri)


def _scheme(uri: str) -> str:
    """`postgresql` of postgresql+psycopg2://server, DATABRICKS of that word alone; "" of a folder."""
    return DATABRICKS if uri == DATABRICKS else urlsplit(uri).scheme.partition("+")[0]


def check_server(config: TrackingConfig) -> None:
    """Raise TrackingError, within seconds, if there is a server to log to and it does not answer; as `check_address` does.

    A server that goes away later is waited for.
    """
    address = tracking_uri(config)
    check_address(address)
    where = "tracking.uri" if config.uri else "MLFLOW_TRACKING_URI"
    uri = urlsplit(_databricks(address, where) if _scheme(address) == DATABRICKS else address)
    port = PORTS.get(uri.scheme.partition("+")[0])
    if port is None or not uri.hostname:  # a file, or a socket in one
        return
    try:
        port = uri.port or port
        _check_driver(address, where)
        socket.create_connection((uri.hostname, port), timeout=5).close()
    except (OSError, ValueError) as error:  # ValueError: a port that is no number
        place = f"{uri.scheme}://{uri.netloc.rpartition('@')[2]}"
        raise TrackingError(f"{where}: no MLflow server answers at {place} ({error})") from error


def _databricks(uri: str, where: str) -> str:
    """The server that a Databricks address means on this machine."""
    from databricks.sdk.config import Config  # MLflow's own way

    try:
        return str(Config(profile=urlsplit(uri).netloc.partition(":")[0] or None).host)
    except ValueError as error:
        raise TrackingError(f"{where}: {uri}: no server and no credentials are configured for Databricks") from error


def _check_driver(uri: str, where: str) -> None:
    """Raise TrackingError for a database whose driver is not installed."""
    if _scheme(uri) in DATABASES:
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError, NoSuchModuleError

        try:
            make_url(uri).get_dialect().import_dbapi()
        except (ImportError, NoSuchModuleError, ArgumentError) as error:
            raise TrackingError(f"{where}: {masked(uri)}: the driver of this database is missing: {error}") from error


def check_runs(config: TrackingConfig) -> None:
    """Raise ConfigError where there is no database of runs yet, TrackingError as `check_server` does."""
    check_server(config)
    file = sqlite_file(tracking_uri(config))
    if file and not file.is_file():
        raise ConfigError(f"tracking.output: there are no runs yet, {tracking_uri(config)} does not exist")


def check_name(name: str) -> None:
    """Raise ConfigError for a name that a sweep cannot have, since MLflow's registry or its filters do not take it."""
    if not NAMED.fullmatch(name) or name != name.strip() or name in (".", ".."):
        raise ConfigError(
            f"{name!r} is no name for a sweep; valid: 1 to 200 printable characters, without / : \\ and quotes, "
            "no space at its ends"
        )


def adapter_folder(where: str | Path) -> Path | None:
    """The folder of an adapter, fetched if it is on the hub (`hf://ORG/NAME[@REVISION]`) or at an address (`s3://bucket/runs/NAME`).

    None for what MLflow has (a run, `models:/NAME@ALIAS`). Raises AdapterError if it is not there.
    """
    if is_hub(where):
        return fetched(str(where))
    if "://" in str(where):
        return _copied(str(where))
    folder = Path(os.path.expanduser(where))
    if str(where).startswith(REGISTERED) or not (folder.exists() or "/" in str(where)):
        return None
    if not folder.is_dir():
        raise AdapterError(
            f"{where} is not an adapter: there is no such folder; give an adapter's folder, an MLflow run (the start of "
            f"its id), {REGISTERED}NAME@ALIAS, or {HUB}ORG/NAME"
        )
    return folder


def _copied(place: str) -> Path:
    """This machine's copy of an adapter at an address; AdapterError where there is none that can be read."""
    from vop.places import join, located  # pyarrow, which commands without addresses do not need
    from vop.whole import fetch

    folder = Path(ADAPTERS).expanduser() / fingerprint([place])
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        try:
            fetch(*located(join(place, name)), folder / name)
        except FileNotFoundError:
            (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise AdapterError(f"{masked(place)} cannot be read: {one_line(error)}") from error
    if not (folder / FILES[0]).is_file():
        raise AdapterError(f"{masked(place)} is not an adapter: there is no {FILES[0]}")
    return folder
