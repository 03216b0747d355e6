"""`vop submit` against a Ray head of the tests' own, and what it refuses before there is a job."""

from __future__ import annotations

import http.server
import os
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import ray  # noqa: F401  (brings psutil)
from conftest import recipe

from pipelines import submit as module
from pipelines.servers import free_port, ray_head
from pipelines.submit import Job, SubmitError, check_size, dashboard, find_token, job_words, make_job, reach, variables
from pipelines.tracking import LoggedRun, logged_runs
from vop.config import ConfigError, load_experiment

TOKEN = "a-token-of-the-tests-" + "0" * 16
TOY = str(module.PROJECT / "experiments" / "toy.yaml")


def clean(**settings: str) -> dict[str, str]:
    """The environment without what other tests or the user have set of Ray and MLflow."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    return {**kept, "PYTHONPATH": str(module.PROJECT), "OMP_NUM_THREADS": "1", **settings}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)
        with ray_head(clean(HOME=home, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN), "--num-cpus=2") as found:
            yield found


def start(address: str, work: Path, *words: str, **settings: str) -> subprocess.Popen[str]:
    """`vop submit` as a user runs it, in a folder that is not the project's."""
    store = {"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db", "RAY_AUTH_TOKEN": TOKEN, **settings}
    command = [sys.executable, "-m", "pipelines.cli", "submit", "--address", address, "--", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=work, env=clean(HOME=str(work), **store), stdout=pipe, stderr=subprocess.STDOUT, text=True
    )


def words(videos: Path, work: Path, *overrides: str) -> list[str]:
    """`train` with the toy recipe made tiny; where the runs go is left to the default."""
    flat = recipe(videos, work, *overrides).flat()
    return ["train", TOY, *(f"{k}={v}" for k, v in flat.items() if v not in (None, "") and k != "tracking.output")]


def runs(work: Path) -> list[LoggedRun]:
    return logged_runs(load_experiment("", [f"tracking.uri=sqlite:///{work}/mlflow.db"]).tracking)


def test_a_submitted_training_ends_as_a_run_in_mlflow(address: str, videos: Path, tmp_path: Path) -> None:
    process = start(address, tmp_path, *words(videos, tmp_path, "training.epochs=1", "data.max_failed_fraction=0"))
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0, printed
    assert "SUCCEEDED" in printed and "R@1" in printed, "the job's own output is shown"
    (run,) = runs(tmp_path)
    assert run.status == "FINISHED" and run.metrics["test/t2v/queries"] == 4
    assert run.tags["commit"] == variables()["VOP_COMMIT"] != "unknown"
    assert list((tmp_path / "runs").glob("test-*/adapter.safetensors")), "tracking.output is in the folder of the caller"
    assert TOKEN not in printed


def test_the_printed_line_does_the_same(address: str, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"RAY_AUTH_TOKEN": TOKEN, "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "pass word")
    line = (
        make_job(words(videos, tmp_path, "training.epochs=0"), address).line().replace("pipelines.cli train", "pipelines.train")
    )
    assert "pass word" not in line and TOKEN not in line
    secret = {"RAY_AUTH_TOKEN": TOKEN, "MLFLOW_TRACKING_PASSWORD": "pass word", "HOME": str(tmp_path)}
    done = subprocess.run(["bash", "-c", line], env=clean(**secret), cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [run.status for run in runs(tmp_path)] == ["FINISHED"]


def test_ctrl_c_stops_the_job(address: str, videos: Path, tmp_path: Path) -> None:
    process = start(address, tmp_path, *words(videos, tmp_path, "training.epochs=10000"))
    deadline = time.monotonic() + 120
    while not validated(tmp_path / "mlflow.db"):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "STOPPED" in printed, printed
    assert [run.status for run in runs(tmp_path)] == ["KILLED"]


def validated(database: Path) -> bool:
    """Whether a training has reached its first validation; only looks, for opening it as MLflow does would make it."""
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return bool(connection.execute("select 1 from metrics where key = 'val/t2v/R1'").fetchall())
    return False


def test_a_job_that_fails_says_so(address: str, tmp_path: Path) -> None:
    process = start(address, tmp_path, "prepare", TOY, "benchmark.name=folder", "benchmark.videos=nowhere")
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 2, "the job's exit code"
    assert "FAILED" in printed and str(tmp_path / "nowhere") in printed


@pytest.mark.parametrize("token", ["", "wrong" * 8])
def test_a_missing_or_wrong_token_is_one_sentence(address: str, tmp_path: Path, token: str) -> None:
    process = start(address, tmp_path, "methods", RAY_AUTH_TOKEN=token)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert ("does not take the token" if token else "asks for a token and there is none") in " ".join(printed.split())
    assert "Traceback" not in printed


def test_a_head_without_tokens_is_sent_none(tmp_path: Path) -> None:
    with ray_head(clean(HOME=str(tmp_path), RAY_AUTH_MODE="disabled"), "--num-cpus=2") as address:
        assert reach(address) == {}
        process = start(address, tmp_path, "methods")
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == 0 and "SUCCEEDED" in printed, printed


def test_an_address_without_an_answer_is_told_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    started = time.monotonic()
    with pytest.raises(SubmitError, match=r"no Ray dashboard answers at http://127\.0\.0\.1:"):
        reach(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(SubmitError, match=r"no Ray dashboard answers at http://no-such-host\.invalid:8265"):
        reach("http://no-such-host.invalid:8265")
    monkeypatch.setattr(socket, "create_connection", lambda *_: (_ for _ in ()).throw(TimeoutError("timed out")))
    with pytest.raises(SubmitError, match="timed out"):
        reach("http://10.255.255.1:8265")
    assert time.monotonic() - started < 10


def test_another_server_is_not_taken_for_ray(tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(SubmitError, match="not as Ray's dashboard"):
            reach(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


def test_which_address_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    assert dashboard() == "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert dashboard() == "http://127.0.0.1:8265", "the cluster's own address is not the dashboard's"
    monkeypatch.setenv("RAY_ADDRESS", "http://one:8265/")
    assert dashboard() == "http://one:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://two:8265")
    assert dashboard() == "http://two:8265"
    assert dashboard("three:1") == "http://three:1"
    with pytest.raises(SubmitError, match="ray://four:10001: give that of Ray's dashboard"):
        dashboard("ray://four:10001")


def test_where_the_token_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_token() == ("", "")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("home\n")
    assert find_token() == ("home", str(tmp_path / ".ray" / "auth_token"))
    (tmp_path / "other").write_text("file")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "other"))
    assert find_token()[0] == "file"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "variable")
    assert find_token() == ("variable", "RAY_AUTH_TOKEN")


def test_nothing_in_a_job_is_relative_to_the_callers_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pt").touch()
    (tmp_path / "runs" / "one").mkdir(parents=True)
    given = ["tracking.uri=sqlite:///x.db", "benchmark.name=folder", "benchmark.videos=clips", "data.cache=s3://bucket/frames"]
    assert job_words(["tune", TOY, "--space", "prompt_length", *given, "backbone.pretrained=weights.pt"]) == [
        *("tune", "experiments/toy.yaml", "--space", "prompt_length", f"tracking.uri=sqlite:///{tmp_path}/x.db"),
        *("benchmark.name=folder", f"benchmark.videos={tmp_path}/clips", "data.cache=s3://bucket/frames"),
        *(f"backbone.pretrained={tmp_path}/weights.pt", f"tracking.output={tmp_path}/runs"),
    ]
    assert job_words(["evaluate", "runs/one", "benchmark.xpool_clips=true"])[:3] == [
        *("evaluate", f"{tmp_path}/runs/one", "benchmark.xpool_clips=true"),
    ]
    assert job_words(["report", "--output", "page"]) == [
        "report",
        "--output",
        f"{tmp_path}/page",
        f"tracking.output={tmp_path}/runs",
    ]


def test_what_is_not_for_a_job_is_refused(tmp_path: Path) -> None:
    for command in ("ui", "submit", "trian"):
        with pytest.raises(SubmitError, match=f"vop {command} is not for a job"):
            job_words([command])
    (tmp_path / "mine.yaml").touch()
    with pytest.raises(SubmitError, match=r"mine.yaml is outside of .*copy it into experiments"):
        job_words(["train", str(tmp_path / "mine.yaml")])
    with pytest.raises(ConfigError, match="sead"):
        job_words(["train", TOY, "sead=1"])


def test_secrets_are_named_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hidden@host")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "hidden")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "shown")
    sent = variables()
    line = Job("http://x:1", ["vop", "tracking.uri=http://me:hidden@host"], {"env_vars": sent}, {}).line()
    assert sent["MLFLOW_TRACKING_TOKEN"] == "hidden" and "hidden" not in line and "shown" in line
    echoed = shlex.split(line.replace('"$MLFLOW_TRACKING_URI"', "URI").replace('"$MLFLOW_TRACKING_TOKEN"', "TOKEN"))
    assert '"MLFLOW_TRACKING_URI": "URI"' in echoed[echoed.index("--runtime-env-json") + 1]


def test_what_is_sent_is_small_and_refused_if_not(tmp_path: Path) -> None:
    assert check_size(module.PROJECT) < 20 * 2**20, "the project itself, with all that lies in it here"
    for name in (".venv/lib/torch.so", "runs/x/a.safetensors", "clip.mp4", "mlflow.db", ".git/objects/pack"):
        _large(tmp_path / name)
    (tmp_path / "vop").mkdir()
    (tmp_path / "vop" / "config.py").write_text("x" * 1000)
    assert check_size(tmp_path) == 1000
    _large(tmp_path / "notes" / "embeddings.npy")
    with pytest.raises(SubmitError, match=r"101 MiB .*rayignore: notes/embeddings.npy \(101 MiB\)"):
        check_size(tmp_path)
    (tmp_path / ".rayignore").write_text("notes\n")
    assert check_size(tmp_path) == 1000 + len("notes\n")


def _large(path: Path) -> None:
    """A file of 101 MiB that takes no room."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(101 * 2**20)
