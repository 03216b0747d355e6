"""Secrets in addresses: what is masked, and that none of them is ever printed or written."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.cli.say import fail_in_worker
from pipelines.cluster.submit import Job
from pipelines.data.decode import write_shard
from pipelines.data.lists import index_records
from pipelines.data.options import store_folder, store_options
from pipelines.data.tasks import tasks_of
from pipelines.tracking import logged_runs, tracked_run
from pipelines.train.launch import explain
from pipelines.train.on_disk import ERRORS
from vop.benchmarks import Record
from vop.config import Experiment, load_experiment, params_of
from vop.errors import VopError
from vop.messages import Plain, one_line, visible
from vop.places import PlaceError, located
from vop.secrets import masked

SECRET = "OPENSESAME"
MASKED = {
    f"s3://AKIA:{SECRET}@bucket/x": "s3://***@bucket/x",
    f"s3://AKIA:ab/{SECRET}+c=@bucket/x?region=eu": "s3://***@bucket/x?region=eu",
    f"postgresql+psycopg2://me:p@{SECRET}@host:5432/db": "postgresql+psycopg2://***@host:5432/db",
    f"https://{SECRET}@host/x": "https://***@host/x",
    f"mysql://:{SECRET}@host/x": "mysql://***@host/x",
    f"s3://b/x?access_key={SECRET}&secret_key={SECRET}&region=eu": "s3://b/x?access_key=***&secret_key=***&region=eu",
    f"https://h/v.mp4?X-Amz-Credential={SECRET}&X-Amz-Signature={SECRET}&X-Amz-Expires=3": (
        "https://h/v.mp4?X-Amz-Credential=***&X-Amz-Signature=***&X-Amz-Expires=3"
    ),
    f"https://h/v?sv=1&sig={SECRET}": "https://h/v?sv=1&sig=***",
    f"gs://b/x?token={SECRET}": "gs://b/x?token=***",
    f"s3:/K:{SECRET}@b/x": "s3:/***@b/x",
    f"no: 's3://K:{SECRET}@b/x' and https://{SECRET}@h": "no: 's3://***@b/x' and https://***@h",
}
UNTOUCHED = [
    *("/videos/a@b:c.mp4", "s3://bucket/a@b.mp4", "s3://bucket/a:b@c.mp4", "http://host:5000/models@best", "models:/x@best"),
    *("sqlite:////tmp/mlflow.db", "a caption: key=1 at 5:30 @home", "file:///x?region=eu", "http://[::1]:80/x"),
]


@pytest.mark.parametrize(("text", "expected"), MASKED.items(), ids=range(len(MASKED)))
def test_what_is_secret_is_masked(text: str, expected: str) -> None:
    assert masked(text) == expected == masked(expected)


@pytest.mark.parametrize("text", UNTOUCHED)
def test_what_is_not_secret_stays(text: str) -> None:
    assert masked(text) == text


def test_a_text_made_to_be_slow_is_not() -> None:
    for text in ("://a:" * 20_000, "?keykey" * 20_000 + "://", "?" + "key" * 50_000 + "://"):
        assert len(masked(text)) == len(text)


@pytest.mark.parametrize("text", MASKED, ids=range(len(MASKED)))
def test_whatever_shows_a_name_masks_it(text: str) -> None:
    record = logging.LogRecord("vop", logging.INFO, "", 0, "%s", (text,), None)
    shown = [visible(text), str(VopError(text, text)), one_line(ValueError(text)), Plain().format(record)]
    for line in shown:
        assert SECRET not in line and "***" in line


def test_an_address_that_pyarrow_does_not_know_is_named_without_its_secret() -> None:
    with pytest.raises(PlaceError) as caught:
        located(f"nonsense://me:{SECRET}@bucket/x")
    assert SECRET not in str(caught.value) and caught.value.__cause__ is None
    assert "nonsense://***@bucket" in str(caught.value)


PLACES = ("data.cache", "benchmark.videos", "benchmark.annotations", "tracking.uri", "tracking.output", "backbone.pretrained")


@pytest.mark.parametrize("key", PLACES)
def test_commands_print_no_secret(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    word = f"{key}=nonsense://me:{SECRET}@host/x?token={SECRET}"
    for command in (["config", "toy"], ["train", "--dry-run", "toy"], ["prepare", "toy"], ["retrieved", "run"]):
        result = CliRunner().invoke(app, [*command, word])
        assert SECRET not in result.output + str(result.exception), command
        if command[0] == "config":
            assert f"{key.partition('.')[2]}: 'nonsense://***@host/x?token=***'" in result.output
    written = [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert not written


def test_the_line_of_a_submitted_job_has_no_secret() -> None:
    uri = f"https://h/mlflow?token={SECRET}"
    environment = {"env_vars": {"MLFLOW_TRACKING_URI": uri, "MLFLOW_TRACKING_PASSWORD": SECRET}}
    words = ["python", "train", f"data.cache=s3://K:{SECRET}/+@b", f"benchmark.videos=s3://b?secret_key={SECRET}"]
    line = Job(f"https://me:{SECRET}@head", words, environment, {}).line()
    assert SECRET not in line and "s3://***@b" in line and '"$MLFLOW_TRACKING_URI"' in line


def test_a_traceback_has_no_secret() -> None:
    code = f"from pipelines.cli import *; sys.excepthook = show_traceback; raise RuntimeError('no: s3://k:{SECRET[:4]}' 'X@b')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "RuntimeError: no: s3://***@b" in done.stderr


def test_the_full_text_of_an_error_has_no_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = ValueError(f"no bucket\nat s3://k:{SECRET}@b")
    assert SECRET not in str(explain(error, tmp_path))
    fail_in_worker(error)
    file = Path(capsys.readouterr().err.split("all of it: ")[1].strip())
    for path in (file, tmp_path / ERRORS):
        assert "at s3://***@b" in path.read_text(encoding="utf-8")
    file.unlink()


def secretive(tmp_path: Path) -> Experiment:
    """An experiment with a secret in all its addresses, but for where runs are."""
    address = f"s3://ME:{SECRET}@bucket"
    tree = {"benchmark": {"name": "folder", "videos": f"{address}/videos"}, "data": {"cache": f"{address}/cache"}}
    return load_experiment({**tree, "tracking": {"output": str(tmp_path / "runs")}})


@pytest.mark.usefixtures("slow")
def test_mlflow_keeps_no_secret(tmp_path: Path) -> None:
    experiment = secretive(tmp_path)
    assert params_of(experiment)["data.cache"] == "s3://***@bucket/cache"
    with pytest.raises(ValueError, match="no bucket"), tracked_run(experiment, {"from": experiment.data.cache}):
        raise ValueError(f"no bucket {experiment.data.cache}")
    (run,) = logged_runs(experiment.tracking)
    assert run.params["benchmark.videos"] == "s3://***@bucket/videos" and "no bucket s3://***@bucket" in run.tags["error"]
    assert all(SECRET.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_store_keeps_no_secret_unless_it_has_to(tmp_path: Path) -> None:
    record = Record("clip", f"nonsense://me:{SECRET}@bucket/clip.mp4", ("a clip",), "train")
    for stored in (True, False):
        tree = {"data": {"cache": str(tmp_path / str(stored)), "store": stored}, "backbone": {"name": "ViT-toy"}}
        experiment = load_experiment(tree)
        options, folder = store_options(experiment, 64), store_folder(experiment, 64)
        (Path(folder) / "frames").mkdir(parents=True)
        write_shard(tasks_of([record], ["key"], set(), True), folder, options)
        failed = index_records(folder, [record], ["key"], options)
        assert SECRET not in json.dumps(failed) and "nonsense://***@bucket/clip.mp4" in failed[0]["error"]
        tables = {path.name: str(pq.read_table(path).to_pydict()) for path in Path(folder).rglob("*.parquet")}
        assert [SECRET in text for name, text in sorted(tables.items())] == [False, not stored, False], list(tables)
