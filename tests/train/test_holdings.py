"""vop clean: everything is listed, nothing goes unless it is named, nothing that is in use."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pipelines.cli import app
from pipelines.tracking import tracked_run
from tests.support.runs import away, experiment_in


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An output folder with a finished run, and a cache: frames, activations, checkpoints, unsent entries, a half database."""
    with tracked_run(experiment_in(tmp_path / "runs")) as run:
        pass
    for name in ("cache/frames/toy-1/frames/a.parquet", "cache/activations/b/tokens", f"runs/checkpoints/{run.id}/epoch-1/x"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"0" * 1_500_000)
    (tmp_path / "runs" / f"unsent-{'0' * 32}-0.jsonl").write_text('{"params": {"a": "b"}}\n')
    (tmp_path / "runs" / "mlflow.db.0123.partial").write_text("half")
    return tmp_path


def clean(place: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["clean", f"data.cache={place}/cache", f"tracking.output={place}/runs", *words])


def files(place: Path) -> set[str]:
    return {path.name for path in place.rglob("*") if path.is_file()} - {"mlflow.db", "mlflow.db.lock"}


def test_all_is_listed_and_nothing_removed(place: Path) -> None:
    before = files(place)
    done = clean(place)
    assert done.exit_code == 0, done.stderr
    lines = {words[0]: words[1] for words in map(str.split, done.stdout.splitlines()) if words and "/" in words[0]}
    assert lines.pop("frames/toy-1") == lines.pop("activations/b") == "1.5"
    assert {name.partition("/")[0] for name in lines} == {"checkpoints", "unsent", "partial"}
    assert "FINISHED" in done.stdout and "1 entries that MLflow has not" in done.stdout and "4.5 MB in all" in done.stdout
    assert files(place) == before


def test_what_is_named_goes(place: Path) -> None:
    before = files(place)
    assert clean(place, "--remove", "frames/toy-1", "--remove", "checkpoints").exit_code == 0
    assert before - files(place) == {"a.parquet", "x"}
    assert not list((place / "cache" / "frames").iterdir()) and (place / "runs" / "mlflow.db").is_file()
    assert clean(place, "--remove", "unsent", "--remove", "partial", "--remove", "activations").exit_code == 0
    assert not files(place)


def test_a_name_that_there_is_not_removes_nothing(place: Path) -> None:
    before = files(place)
    for wrong in ("frames/toy-2", "everything", "../runs"):
        done = clean(place, "--remove", "activations", "--remove", wrong)
        assert done.exit_code == 2 and f"--remove {wrong}: there is no such thing; valid: frames, " in done.stderr
    assert files(place) == before


def test_what_is_in_use_stays(place: Path) -> None:
    before = files(place)
    with tracked_run(experiment_in(place / "runs")) as run:
        with away():
            run.log({"x": 1.0})
        for kind in ("frames", "activations", "partial", "unsent", "checkpoints"):
            done = clean(place, "--remove", kind)
            assert done.exit_code == 2 and "may be in use" in done.stderr, kind
        assert before <= files(place)
    (place / "cache/frames/toy-1/in-use").touch()
    with (place / "cache/frames/toy-1/in-use").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        done = clean(place, "--remove", "frames")
        assert done.exit_code == 2 and "frames/toy-1 may be in use: a process has it open" in done.stderr
    assert clean(place, "--remove", "frames").exit_code == 0


def test_an_empty_place_is_no_error(tmp_path: Path) -> None:
    done = clean(tmp_path)
    assert done.exit_code == 0 and done.stdout.startswith("0.0 MB in all") and not list(tmp_path.iterdir())
