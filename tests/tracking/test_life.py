"""Nothing stays RUNNING whose process is gone, and nothing is killed whose process lives."""

from __future__ import annotations

import os
import socket
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

from pipelines.sweep.record import Settings
from pipelines.sweep.run import resume, start
from pipelines.tracking import Run, find_sweep, logged_runs, tracked_run, tracked_sweep
from pipelines.tracking.experiment import LoggedRun, search, settled
from pipelines.tracking.life import ALIVE, OWNER, SILENT, is_dead, signs
from pipelines.tracking.server import Server
from tests.support.runs import die, experiment_in
from vop.config import ConfigError, Experiment


def deserted(folder: Path) -> Experiment:
    """An experiment with a RUNNING run whose process is gone."""
    experiment = experiment_in(folder)
    process = get_context("spawn").Process(target=die, args=(str(folder),))
    process.start()
    process.join()
    assert process.exitcode == 9
    return experiment


@pytest.mark.usefixtures("slow")
def test_the_next_command_ends_the_run_of_a_process_that_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    experiment = deserted(tmp_path)
    with tracked_run(experiment) as run:
        found = {found.id: found for found in logged_runs(experiment.tracking)}
        assert found.pop(run.id).status == "RUNNING", "its process lives"
        (dead,) = found.values()
        assert dead.status == "KILLED" and dead.tags["error"] == "its process is gone"
    assert f"run {dead.id} (vop) was left RUNNING by a process that is gone" in caplog.text
    assert [run.status for run in logged_runs(experiment.tracking)] == ["KILLED", "FINISHED"]


@pytest.mark.usefixtures("slow")
def test_a_run_that_ends_while_it_is_looked_at_stays_as_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = deserted(tmp_path)

    def ends(server: Server, experiment_id: str, wanted: str = "") -> list[LoggedRun]:
        found = search(server, experiment_id, wanted)
        for run in found:
            server.set_terminated(run.id, "FINISHED")
        return found

    monkeypatch.setattr("pipelines.tracking.experiment.search", ends)
    settled(experiment.tracking)
    monkeypatch.undo()
    assert [run.status for run in logged_runs(experiment.tracking)] == ["FINISHED"]


def test_who_is_dead() -> None:
    ours = signs()
    host, machine, pid, started = ours[OWNER].split()
    assert host == socket.gethostname() and int(pid) == os.getpid() and not is_dead(ours)
    assert is_dead(ours | {OWNER: f"{host} {machine} {pid} {int(float(started)) - 1}"}), "another process has its number now"
    assert is_dead(ours | {OWNER: f"{host} {machine} {2**22 + 1} {started}", ALIVE: f"{time.time():.0f}"})
    for elsewhere in (f"other {machine} {pid} 1", f"{host} of-another-start {pid} 1"):
        assert not is_dead({OWNER: elsewhere, ALIVE: f"{time.time() - SILENT + 60:.0f}"})
        assert is_dead({OWNER: elsewhere, ALIVE: f"{time.time() - SILENT - 60:.0f}"})
    assert not is_dead({}), "nobody knows of runs of earlier versions"


def test_signs_of_life_come_while_a_run_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.tracking.life.BEAT", 0.05)
    experiment = experiment_in(tmp_path)
    with tracked_run(experiment) as run:
        run.tag({ALIVE: "0"})
        deadline = time.monotonic() + 30
        while logged_runs(experiment.tracking)[0].tags[ALIVE] == "0":
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.usefixtures("slow")
def test_a_sweep_at_work_is_neither_resumed_nor_started_again(tmp_path: Path) -> None:
    tracking = experiment_in(tmp_path).tracking
    settings = Settings({"": {"tracking": tracking.model_dump()}}, "length_depth_variant")
    with tracked_sweep(tracking, "mine", {}):
        for again in (lambda: resume("mine", tracking), lambda: start("mine", settings)):
            with pytest.raises(
                ConfigError, match=rf"sweep mine is at work on .*, process {os.getpid()}, last sign of life \d+ s ago"
            ):
                again()
    assert find_sweep(tracking, "mine").status == "FINISHED"  # type: ignore[union-attr]


@pytest.mark.usefixtures("slow")
def test_children_are_ended_with_their_sweep(tmp_path: Path) -> None:
    experiment = experiment_in(tmp_path)
    with tracked_sweep(experiment.tracking, "mine", {}) as parent:
        with tracked_run(experiment, {"mlflow.parentRunId": parent.id}) as child:
            parent.end_children()
            assert [run.status for run in parent.children()] == ["KILLED"]
        assert Run(parent.uri, child.id) == Run(parent.uri, parent.children()[0].id)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("\x1b[31mred\x1b[0m\nmore")])
def test_how_a_run_ended_is_said(tmp_path: Path, error: BaseException) -> None:
    experiment = experiment_in(tmp_path)
    with pytest.raises(type(error)), tracked_run(experiment):
        raise error
    (run,) = logged_runs(experiment.tracking)
    stopped = isinstance(error, KeyboardInterrupt)
    assert (run.status, run.tags.get("error")) == (("KILLED", None) if stopped else ("FAILED", "ValueError: red"))
