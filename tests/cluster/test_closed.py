"""What is started here is closed to strangers: only 127.0.0.1 is listened on, and code runs for who has the token."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
import ray
from mlflow import MlflowClient

from pipelines.cluster.connect import TOKEN, ResourceError, _init
from pipelines.cluster.ui import free_port
from tests.support.commands import kill_all, wait_for
from tests.support.runs import experiment_in

STRANGER = """
import ray
ray.init(address={address!r}, logging_level="error")
print("ran as", ray.get(ray.remote(lambda: __import__("os").getuid()).remote()))
"""


def listening(pid: int) -> set[str]:
    """The addresses on which a process and its children wait for connections."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    found = {c.laddr.ip for process in family for c in process.net_connections(kind="tcp") if c.status == psutil.CONN_LISTEN}
    assert found, "nothing listens: the test looks in the wrong place"
    return {address.removeprefix("::ffff:") for address in found}


@pytest.mark.parametrize("token", ["", "0" * 64])
def test_a_stranger_runs_no_code_on_our_ray(ray_cluster: None, tmp_path: Path, token: str) -> None:
    assert listening(os.getpid()) == {"127.0.0.1"}
    address = ray.get_runtime_context().gcs_address
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    mode = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-c", STRANGER.format(address=address)]
    try:
        done = subprocess.run(command, env={**kept, **mode, "HOME": str(tmp_path)}, capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired as refused:
        assert b"ran as" not in (refused.stdout or b"")
    else:
        assert done.returncode and "ran as" not in done.stdout
    assert ray.get(ray.remote(lambda: 1).remote()) == 1, "our own work goes on"
    assert TOKEN not in " ".join(psutil.Process().cmdline())


@pytest.mark.parametrize(
    ("given", "mode"),
    [
        ({"RAY_AUTH_TOKEN": "0" * 64}, "token"),
        ({"RAY_AUTH_TOKEN_PATH": "file"}, "token"),
        ({"RAY_AUTH_TOKEN": "0" * 64, "RAY_AUTH_MODE": "disabled"}, "disabled"),
        ({}, "None"),
    ],
)
def test_a_token_that_is_given_is_sent_to_the_cluster_of_ray_address(given: dict[str, str], mode: str) -> None:
    """`tests/sweep/test_growth.py` connects so."""
    code = "import os, pipelines.cluster.connect; print(os.environ.get('RAY_AUTH_MODE'))"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
    done = subprocess.run([sys.executable, "-c", code], env=kept | given, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [mode]


def test_a_cluster_that_refuses_is_said_with_what_it_may_want(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**arguments: object) -> None:
        raise ConnectionError("Failed to connect to Ray cluster at 127.0.0.1:9")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ResourceError, match=r"RAY_ADDRESS=127\.0\.0\.1:9: no connection.*Failed to.*wants a token"):
        _init("127.0.0.1:9")


@pytest.mark.usefixtures("slow")
def test_the_server_of_vop_ui_answers_this_machine_alone(tmp_path: Path) -> None:
    """Also where a page of somebody else's in a browser here calls it by another name (DNS rebinding), or from its own."""
    experiment, port, log = experiment_in(tmp_path), free_port(), tmp_path / "log"
    command = [sys.executable, "-m", "pipelines", "ui", "--port", str(port), f"tracking.output={experiment.tracking.output}"]
    with log.open("w") as output, psutil.Popen(command, stdout=output, stderr=output, start_new_session=True) as server:
        try:
            wait_for(lambda: answer(port) == 200, server, log)
            assert listening(server.pid) == {"127.0.0.1"}
            assert answer(port, Host="evil.example") == 403
            search = "/api/2.0/mlflow/experiments/create"
            assert answer(port, search, b'{"name": "x"}', Origin="https://evil.example") == 403
        finally:
            kill_all(server)
    assert {run.name for run in MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_experiments()} == {"Default"}


def answer(port: int, place: str = "/", body: bytes | None = None, **headers: str) -> int:
    """The status of what a server answers; 0 where there is none."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{place}", body, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=30) as found:
            return int(found.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
