"""The file of runs: whole or not there, and one sentence for every file that MLflow cannot use."""

from __future__ import annotations

import resource
import signal
import sqlite3
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

import pytest

from pipelines.locations import TrackingError, check_server, tracking_uri
from pipelines.tracking import Server, find_sweep, logged_runs, tracked_run
from pipelines.tracking.database import made, partial_files
from tests.support.runs import database, experiment_in
from vop.config import ConfigError, TrackingConfig, load_experiment


@pytest.mark.usefixtures("slow")
def test_what_a_dead_maker_left_is_removed_and_an_empty_file_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "a b #c é's"
    folder.mkdir()
    file = folder / "mlflow.db"
    file.touch()
    for name in ("mlflow.db.0123.partial", "mlflow.db.0123.partial-journal"):
        (folder / name).write_text("half")
    experiment = load_experiment({"tracking": {"output": str(folder)}})
    with tracked_run(experiment) as run:
        run.text("note.txt", "hello")
    assert not partial_files(file) and {path.name for path in folder.iterdir()} <= {"mlflow.db", "mlflow.db.lock", "artifacts"}
    assert [found.status for found in logged_runs(experiment.tracking)] == ["FINISHED"]
    assert [file.read_text() for file in folder.rglob("note.txt")] == ["hello"]


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    file.write_text("not a database, " * 100)
    with pytest.raises(TrackingError, match=r"mlflow.db is no database of MLflow's .*not a database"):
        made(f"sqlite:///{file}")
    with closing(sqlite3.connect(tmp_path / "other.db")) as other, other:
        other.execute("CREATE TABLE mine (x)")
    with pytest.raises(TrackingError, match="no such table"):
        made(f"sqlite:///{tmp_path}/other.db")
    assert file.read_text() == "not a database, " * 100


@pytest.mark.parametrize("place", ["file/mlflow.db", "folder"])
def test_a_place_that_cannot_be_used_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(TrackingError, match=f"{tmp_path}/{place}"):
        made(f"sqlite:///{tmp_path}/{place}")


@pytest.mark.parametrize(
    ("version", "runs", "way_out"),
    [
        ("0123456789ab", 0, "newer MLflow .*: update mlflow"),
        ("451aebb31d03", 0, "was never finished .* holds no runs: remove it"),
        ("451aebb31d03", 1, "older MLflow .* keep a copy of it, then run: .* db upgrade sqlite:///"),
    ],
)
def test_another_schema_is_a_sentence_and_changes_nothing(tmp_path: Path, version: str, runs: int, way_out: str) -> None:
    experiment = experiment_in(tmp_path)
    with tracked_run(experiment) if runs else closing(sqlite3.connect(tmp_path / "mlflow.db")):
        pass
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", [version])
    before = (tmp_path / "mlflow.db").read_bytes()
    for ask in (lambda: logged_runs(experiment.tracking), lambda: find_sweep(experiment.tracking, "x")):
        with pytest.raises(TrackingError, match=way_out):
            ask()
    assert (tmp_path / "mlflow.db").read_bytes() == before


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("./mlruns", "is a folder, in which MLflow keeps runs no longer"),
        ("file:///tmp/mlruns", "is a folder"),
        ("sqlite://", "names no file"),
        ("sqlite:////tmp/a?b/mlflow.db", "no [?] and no %"),
        ("sqlite:////tmp/a%b/mlflow.db", "no [?] and no %"),
        ("http://[::1", "tracking.uri: http://.*Invalid IPv6"),
        ("https:///mlflow", "names no server"),
        ("gopher://somewhere", "tracking.uri: gopher://somewhere: MLflow keeps no runs there; valid: sqlite"),
        ("databricks-uc://profile", "MLflow keeps no runs there"),
    ],
)
def test_an_address_of_another_kind_is_a_sentence(address: str, sentence: str) -> None:
    tracking = TrackingConfig(uri=address)
    with pytest.raises(ConfigError, match=sentence):
        find_sweep(tracking, "x")
    with pytest.raises(ConfigError, match=sentence):
        check_server(tracking)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("databricks", "no server and no credentials are configured for Databricks"),
        ("databricks://nobody", "no server and no credentials are configured for Databricks"),
        ("postgresql://127.0.0.1:abc/runs", "no MLflow server answers at postgresql://127.0.0.1:abc"),
        ("mysql+nobody://me:secret@127.0.0.1/runs", "the driver of this database is missing"),
    ],
)
def test_what_cannot_be_asked_is_said_before_work(address: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", "/nowhere")
    with pytest.raises(TrackingError, match=sentence) as caught:
        check_server(TrackingConfig(uri=address))
    assert "secret" not in str(caught.value)


def test_passwords_are_not_shown() -> None:
    tracking = TrackingConfig(uri="postgresql+psycopg2://me:secret@127.0.0.1:1/runs")
    with pytest.raises(TrackingError, match=r"127\.0\.0\.1:1") as caught:
        check_server(tracking)
    assert "secret" not in str(caught.value)
    with pytest.raises(TrackingError, match=r"127\.0\.0\.1") as caught:
        Server(tracking_uri(tracking), 0.0).search_experiments()
    assert "secret" not in str(caught.value)


def test_a_deleted_experiment_is_said_with_the_way_out(tmp_path: Path) -> None:
    experiment = experiment_in(tmp_path)
    with tracked_run(experiment):
        pass
    server = Server(tracking_uri(experiment.tracking))
    server.delete_experiment(server.get_experiment_by_name("vop").experiment_id)
    for ask in (lambda: logged_runs(experiment.tracking), lambda: find_sweep(experiment.tracking, "x")):
        with pytest.raises(ConfigError, match=r"'vop' is in MLflow's bin; .* mlflow experiments restore -x \d"):
            ask()


@pytest.mark.parametrize("name", ["a/b", "bob's", 'a"b', "a:b", "", " a", "a\nb", "x" * 300])
def test_a_name_that_mlflow_does_not_take_is_refused_before_anything_is_made(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="is no name for a sweep; valid"):
        find_sweep(TrackingConfig(output=str(tmp_path / "runs")), name)
    assert not (tmp_path / "runs").exists()


def in_little_room(file: str, allowed: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (allowed, allowed))
    try:
        made(f"sqlite:///{file}")
    except TrackingError as error:
        raise SystemExit(7 if "runs cannot be kept in" in str(error) else 1) from error


@pytest.mark.usefixtures("slow")
def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    whole = database().stat().st_size
    process = get_context("spawn").Process(target=in_little_room, args=(str(tmp_path / "mlflow.db"), whole // 2))
    process.start()
    process.join()
    assert process.exitcode == 7
    assert {path.name for path in tmp_path.iterdir()} <= {"mlflow.db.lock"}
