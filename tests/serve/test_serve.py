"""`vop serve` as a process: what it prints, who reaches it, many clients at once, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.cluster.ui import free_port
from pipelines.serve import run
from pipelines.serve.run import Service, make_service, names
from pipelines.throughput.serve import measure, query
from tests.support.commands import command, wait_for
from vop.errors import VopError

ADDRESS = re.compile(r"(http://\S+/\S*)  Ctrl-C ends it")


def ask(address: str, **headers: str) -> tuple[int, bytes]:
    """Status and body of an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=60) as answer:
            return int(answer.status), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def listening(process: psutil.Popen) -> set[str]:
    """The addresses on which a process waits for connections."""
    return {c.laddr.ip for c in psutil.Process(process.pid).net_connections(kind="tcp") if c.status == psutil.CONN_LISTEN}


@pytest.mark.usefixtures("slow")
def test_a_server_answers_this_machine_alone_until_it_is_stopped(served: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    places = [str(served / f"{name}.index") for name in ("ten", "four")]
    with command(["serve", *places, "--port", "0", "--rate", "0"], log) as process:
        wait_for(lambda: ADDRESS.search(log.read_text()), process, log)
        address = ADDRESS.findall(log.read_text())[0]
        assert listening(process) == {"127.0.0.1"} and address.startswith("http://127.0.0.1:")
        status, body = ask(f"{address}api/indexes")
        assert status == 200 and [index["name"] for index in json.loads(body)["indexes"]] == ["ten", "four"]
        assert b"<!doctype html>" in ask(address)[1]
        _, found = ask(f"{address}api/search?q=a+golden+box&top=1")
        video = json.loads(found)["hits"][0]["video"]
        assert ask(f"{address}api/videos/{video}/file", Range="bytes=0-9")[0] == 206
        for outside in ("../../../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", "%2fetc%2fpasswd"):
            assert ask(f"{address}api/videos/{outside}/file")[0] == 404
        assert ask(f"{address}api/search?q={'a' * 100_000}")[0] in (400, 414, 431)
        with ThreadPoolExecutor(200) as pool:
            answers = list(pool.map(lambda n: ask(f"{address}api/search?q=a+box+{n}"), range(200)))
        assert {status for status, _ in answers} <= {200, 503} and sum(status == 200 for status, _ in answers) >= 50
        assert all(set(json.loads(body)) == {"error"} for status, body in answers if status == 503)
        assert ask(f"{address}api/search?q=a")[0] == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert "Traceback" not in log.read_text()


@pytest.mark.usefixtures("slow")
def test_another_host_asks_for_a_token(served: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with command(["serve", str(served / "ten.index"), "--host", "0.0.0.0", "--port", "0"], log) as process:
        wait_for(lambda: ADDRESS.search(log.read_text()), process, log)
        address, token = ADDRESS.findall(log.read_text())[0].split("/?token=")
        here = f"http://127.0.0.1:{address.rpartition(':')[2]}"
        assert len(token) >= 32 and listening(process) == {"0.0.0.0"}
        assert ask(f"{here}/api/indexes")[0] == 401
        assert ask(f"{here}/api/indexes", Authorization=f"Bearer {token}")[0] == 200
        process.terminate()
        assert process.wait(60) == 143


@pytest.mark.usefixtures("slow", "own_ray")
def test_replicas_are_those_of_ray_serve(served: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray.serve")
    log, port = tmp_path / "log", free_port()
    with command(["serve", str(served / "ten.index"), "--replicas", "2", "--port", str(port)], log) as process:
        wait_for(lambda: ADDRESS.search(log.read_text()), process, log)
        address = ADDRESS.findall(log.read_text())[0]
        for _ in range(4):
            assert ask(f"{address}api/search?q=a+golden+box")[0] == 200
        assert ask(f"{address}api/health", Host="evil.example")[0] == 403
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        found = [c for each in family for c in each.net_connections(kind="tcp") if c.status == psutil.CONN_LISTEN]
        assert {c.laddr.ip.removeprefix("::ffff:") for c in found} == {"127.0.0.1"}
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130


# -- what is said of a wrong command ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{}/nothing"], "nothing is no index: make one, vop index VIDEOS --to"),
        (["{}/videos"], "videos is no index"),
        (["{0}/ten.index", "{0}/four.index", "{0}/ten.index"], "give an index, or two that are shown side by side (given: 3)"),
        (["data.cache=/scratch"], "give an index, or two"),
    ],
)
def test_a_wrong_command_is_a_sentence(served: Path, words: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["serve", *(word.format(served) for word in words)])
    assert done.exit_code == 2 and said in done.stderr, done.output


def test_a_port_that_is_taken_is_said_before_the_model_is_loaded(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Service, "opened", lambda self: pytest.fail("too late"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = CliRunner().invoke(app, ["serve", str(served / "ten.index"), "--port", str(port)])
    assert done.exit_code == 2 and f"port {port} of 127.0.0.1 cannot be used" in done.stderr


def test_who_needs_a_token(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = str(served / "ten.index")
    assert make_service([place], [], "localhost", 8000, 0).address == "http://localhost:8000/"
    one, other = (make_service([place], [], "10.0.0.1", 8000, 0) for _ in range(2))
    assert one.token != other.token and one.address == f"http://10.0.0.1:8000/?token={one.token}"
    monkeypatch.setenv(run.TOKEN, "of-more-than-16-signs")
    assert {make_service([place], [], host, 1, 0).token for host in ("127.0.0.1", "0.0.0.0")} == {os.environ[run.TOKEN]}
    for wrong in ("short", "with a space in it, though long", "line\nbreaks-are-no-part-of-it"):
        monkeypatch.setenv(run.TOKEN, wrong)
        with pytest.raises(VopError, match=f"{run.TOKEN}: a token has at least 16 letters"):
            make_service([place], [], "127.0.0.1", 1, 0)


def test_names_of_indexes_differ(tmp_path: Path) -> None:
    assert names([str(tmp_path / "a.index"), str(tmp_path / "b")]) == ["a", "b"]
    assert names([str(tmp_path / "x/a.index"), str(tmp_path / "y/a.index")]) == ["a 1", "a 2"]


# -- how it is measured ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("slow")
def test_queries_are_timed(served: Path) -> None:
    rows = measure(str(served / "ten.index"), 0, 64)
    assert [row.what for row in rows][::3] == ["1 client: p50, ms", "8 clients: p50, ms", "32 clients: p50, ms"]
    for p50, p95, rate in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
        assert 0 <= int(p50.value) <= int(p95.value) and int(rate.value) > 0
    assert len({query(number) for number in range(20)}) > 15
