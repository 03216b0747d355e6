"""`vop submit` against a Ray head of the tests' own, and what it refuses before there is a job."""

from __future__ import annotations

import http.server
import os
import re
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import ray  # noqa: F401  (brings psutil)
from ray.job_submission import JobStatus

from pipelines.cluster.dashboard import SubmitError, dashboard, find_token, reach
from pipelines.cluster.jobs import follow, jobs, logs, stop
from pipelines.cluster.servers import ray_head
from pipelines.cluster.stage import LIMIT, PACKAGES, StageError, check_size, stage
from pipelines.cluster.submit import Job, make_job, submit, variables
from pipelines.cluster.ui import free_port
from pipelines.cluster.words import WordError, job_command
from pipelines.tracking import LoggedRun, logged_runs
from tests.support.recipe import recipe
from vop.config import ConfigError, load_experiment
from vop.index.table import Manifest, write_manifest

TOKEN = "a-token-of-the-tests-" + "0" * 16
PROJECT = Path(__file__).parents[2]


def clean(**settings: str) -> dict[str, str]:
    """The environment without what other tests or the user have set of Ray and MLflow."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    return {**kept, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", **settings}


@pytest.fixture(scope="module")
def address(own_ray: None) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)
        with ray_head(clean(HOME=home, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN), "--num-cpus=2") as found:
            yield found


def start(address: str, work: Path, *words: str, **settings: str) -> subprocess.Popen[str]:
    """`vop submit` as a user runs it, in a folder that is not the project's."""
    store = {"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db", "RAY_AUTH_TOKEN": TOKEN, **settings}
    command = [sys.executable, "-m", "pipelines", "submit", "--address", address, "--", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command,
        cwd=work,
        env=clean(HOME=str(work), **store),
        stdout=pipe,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background begins without Ctrl-C
    )


def words(videos: Path, work: Path, *overrides: str) -> list[str]:
    """`train` with the toy recipe made tiny; where the runs go is left to the default."""
    flat = recipe(videos, work, *overrides).flat()
    return ["train", "toy", *(f"{k}={v}" for k, v in flat.items() if v not in (None, "") and k != "tracking.output")]


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
    line = make_job(words(videos, tmp_path, "training.epochs=0"), address).line()
    assert "pass word" not in line and TOKEN not in line
    secret = {"RAY_AUTH_TOKEN": TOKEN, "MLFLOW_TRACKING_PASSWORD": "pass word", "HOME": str(tmp_path)}
    done = subprocess.run(["bash", "-c", line], env=clean(**secret), cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [run.status for run in runs(tmp_path)] == ["FINISHED"]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_stop_the_job(address: str, videos: Path, tmp_path: Path, signum: int, code: int) -> None:
    process = start(address, tmp_path, *words(videos, tmp_path, "training.epochs=10000"))
    wait_for_training(tmp_path, process)
    process.send_signal(signum)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == code and "STOPPED" in printed, printed
    assert [run.status for run in runs(tmp_path)] == ["KILLED"]


def wait_for_training(work: Path, process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 240
    while not validated(work / "mlflow.db"):
        assert (process is None or process.poll() is None) and time.monotonic() < deadline
        time.sleep(0.5)


def test_a_job_is_left_alone_found_followed_and_stopped(
    address: str, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO")
    for name, value in {"RAY_AUTH_TOKEN": TOKEN, "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}.items():
        monkeypatch.setenv(name, value)
    before = {job.name for job in jobs(address)}
    assert submit(words(videos, tmp_path, "training.epochs=10000"), address, wait=False) == 0
    (job,) = (job for job in jobs(address) if job.name not in before)
    assert job.name in caplog.text and job.command.startswith("train toy ")
    wait_for_training(tmp_path)
    assert {job.name: job.status for job in jobs(address)}[job.name] == "RUNNING"
    stop(job.name[-8:], address)
    assert [run.status for run in runs(tmp_path)] == ["KILLED"]
    caplog.clear()
    assert logs(job.name, address) == 130, "the exit code of a job that was stopped"
    assert any("epoch 1/10000" in line for line in caplog.messages)
    with pytest.raises(SubmitError, match=r"job nothing: there is no such job; the cluster has .*" + job.name):
        logs("nothing", address)


def validated(database: Path) -> bool:
    """Whether a training has reached its first validation; only looks, for opening it as MLflow does would make it."""
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return bool(connection.execute("select 1 from metrics where key = 'val/t2v/R1'").fetchall())
    return False


def test_a_job_that_fails_says_so(address: str, tmp_path: Path) -> None:
    process = start(address, tmp_path, "prepare", "toy", "benchmark.name=folder", "benchmark.videos=nowhere")
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 2, "the job's exit code"
    before, _, end = printed.partition("FAILED")
    assert str(tmp_path / "nowhere") in before and re.fullmatch(r": .*exit code 2\n", end), "its logs are there once"


@pytest.mark.parametrize("token", ["", "wrong" * 8])
def test_a_missing_or_wrong_token_is_one_sentence(address: str, tmp_path: Path, token: str) -> None:
    process = start(address, tmp_path, "methods", RAY_AUTH_TOKEN=token)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert ("does not take the token" if token else "asks for a token and there is none") in " ".join(printed.split())
    assert "Traceback" not in printed


def test_a_head_without_tokens_is_sent_none(own_ray: None, tmp_path: Path) -> None:
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


def test_a_job_is_not_sent_to_one_of_several_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    open_at = {"http://127.0.0.1:8266"}

    def reached(address: str) -> dict[str, str]:
        if address not in open_at:  # no answer there, or the Ray of a training, which lets nobody in
            raise SubmitError("no")
        return {}

    monkeypatch.setattr("pipelines.cluster.dashboard.reach", reached)
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    assert dashboard() == "http://127.0.0.1:8266", "the one that answers"
    open_at.add("http://127.0.0.1:8265")
    with pytest.raises(SubmitError, match=r"several clusters answer .*8265, .*8266\): choose one with --address"):
        dashboard()
    assert dashboard("http://127.0.0.1:8266") == "http://127.0.0.1:8266"
    open_at.clear()
    assert dashboard() == "http://127.0.0.1:8265"


def test_which_address_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.cluster.dashboard._on_this_machine", lambda: "http://127.0.0.1:8265")
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
    for wrong in ("ray://four:10001", "http://[::1", "five:many", "https://:8265"):
        with pytest.raises(SubmitError, match="give that of Ray's dashboard"):
            dashboard(wrong)


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
    for folder in ("runs/one", "prompt_length", "toy"):  # folders that are called like what is no folder
        (tmp_path / folder).mkdir(parents=True)
    given = ["tracking.uri=sqlite:///x.db", "benchmark.name=folder", "benchmark.videos=clips", "data.cache=s3://bucket/frames"]
    command = ["tune", "toy", "--space", "prompt_length", *given, "backbone.pretrained=weights.pt"]
    assert job_command(command).words == [
        *("tune", "toy", "--space", "prompt_length", f"tracking.uri=sqlite:///{tmp_path}/x.db"),
        *("benchmark.name=folder", f"benchmark.videos={tmp_path}/clips", "data.cache=s3://bucket/frames"),
        *(f"backbone.pretrained={tmp_path}/weights.pt", f"tracking.output={tmp_path}/runs"),
    ]
    evaluate = job_command(["evaluate", "runs/one", "benchmark.xpool_clips=true"]).words
    assert evaluate[:3] == ["evaluate", f"{tmp_path}/runs/one", "benchmark.xpool_clips=true"]
    (tmp_path / "own.yaml").write_text("data: {cache: frames}", encoding="utf-8")
    on_a_recipe = job_command(["evaluate", "runs/one", "own.yaml", "frames.count=4"])
    assert on_a_recipe.words[:4] == ["evaluate", f"{tmp_path}/runs/one", "given/1/own.yaml", "frames.count=4"]
    assert f"data.cache={tmp_path}/frames" in on_a_recipe.words
    output = f"tracking.output={tmp_path}/runs"
    assert job_command(["train", "--resume", "0123abcd"]).words == ["train", "--resume", "0123abcd", output]
    assert job_command(["report", "--output", "page"]).words == ["report", "--output", f"{tmp_path}/page", output]
    assert job_command(["report", "--output=page"]).words == ["report", f"--output={tmp_path}/page", output]
    query = "a dog = a cat"
    search = ["search", f"{tmp_path}/runs/one", f"{tmp_path}/clips", query, f"data.cache={tmp_path}/frames", output]
    assert job_command(["search", "runs/one", "clips", query, "data.cache=frames"]).words == search
    index = ["index", f"{tmp_path}/clips", "--to", f"{tmp_path}/one.index", "--model", f"{tmp_path}/runs/one", output]
    assert job_command(["index", "clips", "--to", "one.index", "--model", "runs/one"]).words == index
    assert job_command(["index", "clips", "--to=one.index", "--model=ViT-B-32/openai"]).words[2:4] == [
        *(f"--to={tmp_path}/one.index", "--model=ViT-B-32/openai")
    ]
    write_manifest("one.index", Manifest("", 10, 5, 8))
    asked = ["search", f"{tmp_path}/one.index", query, "--json", "--like", f"{tmp_path}/a.mp4", output]
    assert job_command(["search", "one.index", query, "--json", "--like", "a.mp4"]).words == asked
    verify = ["verify", "didemo", "--videos", f"{tmp_path}/clips", "--report", f"{tmp_path}/verify-didemo.parquet"]
    assert job_command(["verify", "didemo", "--videos", "clips"]).words == verify
    page = ["retrieved", "0a1b", f"{tmp_path}/runs/one", "--output", f"{tmp_path}/retrieved.html", output]
    assert job_command(["retrieved", "0a1b", "runs/one"]).words == page


@pytest.mark.parametrize(
    ("words", "inside"),
    [
        (["train", "mine"], ["given/0/mine"]),
        (["train", "sub/mine.yml", "seed=1"], ["given/0/mine.yml"]),
        (["prepare", "a=b/mine.yaml"], ["given/0/mine.yaml"]),
        (["tune", "--space", "prompt_length", "mine"], ["given/2/mine"]),
        (["tune", "--asha", "mine", "--space=cooperation,space.py"], ["given/1/mine", "given/2/space.py"]),
        (["tune", "toy", "--name", "mine", "--space", "space.py"], ["given/4/space.py"]),
        (["report", "mine", "--benchmark", "toy"], ["given/0/mine"]),
        (["doctor", "mine"], ["given/0/mine"]),
        (["throughput", "sweep", "mine"], ["given/1/mine"]),
        (["throughput", "data", "--clips", "5"], []),
        (["demo", "seed=1"], []),
    ],
)
def test_a_recipe_or_space_of_ones_own_goes_with_the_job(
    words: list[str], inside: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "sub/mine.yml", "a=b/mine.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("name: mine\n")
    (tmp_path / "space.py").write_text("SPACE = {}\n")
    command = job_command(words)
    assert list(command.files) == inside
    assert all(any(place in word for word in command.words) for place in inside)
    folder = stage(command.files)
    assert all((folder / place).read_bytes() == path.read_bytes() for place, path in command.files.items())


def test_what_is_not_for_a_job_is_refused(tmp_path: Path) -> None:
    for command in ("ui", "submit", "trian"):
        with pytest.raises(WordError, match=f"vop {command} is not for a job"):
            job_command([command])
    with pytest.raises(WordError, match="there is no such file"):
        job_command(["tune", "toy", "--space", str(tmp_path / "no.py")])
    (tmp_path / "space.py").symlink_to("/etc/passwd")
    with pytest.raises(WordError, match="is a link to /etc/passwd"):
        job_command(["tune", "toy", "--space", str(tmp_path / "space.py")])
    with pytest.raises(ConfigError, match="sead"):
        job_command(["train", "toy", "sead=1"])


def test_secrets_are_named_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hidden@host")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "hidden")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "shown")
    sent = variables()
    line = Job("http://x:1", ["vop", "tracking.uri=http://me:hidden@host"], {"env_vars": sent}, {}).line()
    assert sent["MLFLOW_TRACKING_TOKEN"] == "hidden" and "hidden" not in line and "shown" in line
    echoed = shlex.split(line.replace('"$MLFLOW_TRACKING_URI"', "URI").replace('"$MLFLOW_TRACKING_TOKEN"', "TOKEN"))
    assert '"MLFLOW_TRACKING_URI": "URI"' in echoed[echoed.index("--runtime-env-json") + 1]


def test_what_is_sent_is_an_allow_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that the packages need and nothing that lies in them or beside them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    packaged = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert {package: sorted(data) for package, data in PACKAGES.items() if data} == {p: sorted(d) for p, d in packaged.items()}
    secrets = [PROJECT / "vop" / ".env", PROJECT / "pipelines" / "id_rsa", PROJECT / ".netrc", PROJECT / "vop" / "clip.mp4"]
    try:
        for secret in secrets:
            secret.touch(exist_ok=False)
        folder = stage({})
    finally:
        for secret in secrets:
            secret.unlink()
    sent = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    known = subprocess.run(
        ["git", "ls-files", *PACKAGES], cwd=PROJECT, check=True, capture_output=True, text=True
    ).stdout.split()
    assert sent >= set(known) and {path.partition("/")[0] for path in sent} == set(PACKAGES)
    assert not any(path.endswith((".env", "id_rsa", ".netrc", ".mp4", ".pyc")) for path in sent)
    assert stage({}) == folder, "the same is not written twice"
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    link = PROJECT / "vop" / "linked.py"
    link.symlink_to("/etc/passwd")
    try:
        with pytest.raises(StageError, match=r"linked.py is a link to /etc/passwd"):
            stage({})
    finally:
        link.unlink()


def test_more_than_ray_takes_is_refused(tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    check_size({small: LIMIT - 1, large: 1})
    with pytest.raises(StageError, match=r"the job would take 101 MiB .* the largest: .*/large \(100 MiB\)"):
        check_size({small: 2**20, large: LIMIT})


def test_the_lines_of_a_job_come_whole(caplog: pytest.LogCaptureFixture) -> None:
    class Client:
        async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
            for part in ("epoch 1", "/2\nepoch 2/2\nla", "st"):
                yield part

        def get_job_info(self, name: str) -> Any:
            return SimpleNamespace(status=JobStatus.SUCCEEDED, message="", driver_exit_code=0)

    caplog.set_level("INFO")
    assert follow(cast(Any, Client()), "a-job") == 0
    assert caplog.messages == ["epoch 1/2", "epoch 2/2", "last", "job a-job: SUCCEEDED"]
