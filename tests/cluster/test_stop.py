"""Stops mean stop, and a machine on which Ray cannot start is told in a sentence."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from pipelines.cluster import connect, scratch
from pipelines.cluster.connect import ResourceError, connected
from pipelines.cluster.stop import Stopped, stoppable, take_signals

PROGRAM = """
import signal, sys, time
from pipelines.cluster.connect import connected
from pipelines.cluster.stop import Stopped
try:
    with connected():
        print("up", flush=True)
        time.sleep(600)
except Stopped as stopped:
    print("unwound", flush=True)
    sys.exit(stopped.code)
"""


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_raises_wherever_the_handlers_came_from(signum: signal.Signals, code: int) -> None:
    before = signal.getsignal(signum)
    with stoppable():
        signal.signal(signum, signal.SIG_DFL)  # as a library would
        take_signals()
        with pytest.raises(Stopped) as stopped:
            signal.raise_signal(signum)
    assert stopped.value.code == code and isinstance(stopped.value, KeyboardInterrupt)
    assert signal.getsignal(signum) == before


def test_a_bare_interrupt_that_a_library_makes_of_a_signal_keeps_its_code() -> None:
    with pytest.raises(Stopped) as stopped, stoppable():
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None
    assert stopped.value.code == 143
    with pytest.raises(KeyboardInterrupt) as bare, stoppable():
        raise KeyboardInterrupt
    assert not isinstance(bare.value, Stopped)


def test_a_stop_that_python_drops_comes_again() -> None:
    class Late:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    hook = sys.unraisablehook
    with pytest.raises(Stopped) as stopped, stoppable():
        thing = Late()
        del thing
        time.sleep(10)
    assert stopped.value.code == 143 and sys.unraisablehook is hook


def test_a_process_that_ignores_ctrl_c_goes_on_doing_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stoppable():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_are_left_alone() -> None:
    worked = []

    def run() -> None:
        with stoppable():
            worked.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert worked


def test_sigterm_ends_a_cluster_that_was_started_here(own_ray: None) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=60)
    assert (process.returncode, printed) == (143, "unwound\n"), "no words of Ray's own handler"
    deadline = time.monotonic() + 15
    while any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in family if psutil.pid_exists(one.pid)):
        assert time.monotonic() < deadline, "something of the cluster is left"
        time.sleep(0.2)


def test_where_ray_cannot_put_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(connect.ray, "is_initialized", lambda: False)
    long = tmp_path / ("x" * 100)
    long.mkdir()
    for place, words in ((tmp_path / "absent", "not a folder"), (long, "bytes too long: set RAY_TMPDIR")):
        monkeypatch.setenv("RAY_TMPDIR", str(place))
        with pytest.raises(ResourceError, match=words), connected():
            pass
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(1, 1, 5 * 2**20))  # type: ignore[attr-defined]
    with pytest.raises(ResourceError, match=r"/tmp, where 5 MiB are free; it needs 100"), connected():
        pass
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_a_disk_that_fills_up_below_rays_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    monkeypatch.setattr(scratch, "LOOK", 0.01)
    free = iter([2**20, 2**20, 0])
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(1, 1, next(free)))  # type: ignore[attr-defined]
    with pytest.raises(ResourceError, match=r"/tmp, whose disk is full"), stoppable(), scratch.with_room():
        time.sleep(30)
