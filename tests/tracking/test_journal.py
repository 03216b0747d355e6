"""What a run says while MLflow does not answer is kept, and sent once, in order, by whoever comes next."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import mlflow
import pytest

from pipelines.locations import TrackingError
from pipelines.tracking import Run, logged_runs, tracked_run
from pipelines.tracking.journal import send
from tests.support.runs import away, experiment_in
from vop.config import Experiment


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    monkeypatch.setattr("pipelines.tracking.run.PATIENCE", 0.0)
    monkeypatch.setattr("pipelines.tracking.run.AT_ONCE", 0.0)
    return experiment_in(tmp_path / "runs")


def unsent(experiment: Experiment) -> list[Path]:
    return sorted(Path(experiment.tracking.output).glob("unsent-*"))


def test_a_run_goes_on_without_mlflow_and_nothing_is_lost(experiment: Experiment) -> None:
    with tracked_run(experiment) as run:
        run.log({"x": 1.0, "y": float("nan")}, 1)
        assert not unsent(experiment)
        with away():
            run.log({"x": 2.0}, 2)
            run.params({"late": "yes"})
            run.log({"x": 3.0}, 3)
            assert len(unsent(experiment)[0].read_text().splitlines()) == 3
        run._journal.retry()
        assert run.history("x") == [1.0, 2.0, 3.0] and not unsent(experiment)
    (found,) = logged_runs(experiment.tracking)
    assert found.params["late"] == "yes" and found.status == "FINISHED"


def test_after_a_failure_mlflow_is_left_alone_for_a_while(experiment: Experiment) -> None:
    calls: list[object] = []
    with tracked_run(experiment) as run, pytest.MonkeyPatch.context() as patch:

        def silence(*words: object, **options: object) -> None:
            calls.append(words)
            raise ConnectionResetError

        patch.setattr(mlflow.MlflowClient, "log_batch", silence)
        for step in range(5):
            run.log({"x": 1.0}, step)
        patch.undo()
    assert len(calls) == 1, "a training does not wait at each epoch"
    assert Run(run.uri, run.id).history("x") == [1.0] * 5, "the end sends it, in order"


def test_the_next_command_sends_what_a_process_left(experiment: Experiment, caplog: pytest.LogCaptureFixture) -> None:
    note = Path(experiment.tracking.output) / "note.txt"
    note.write_text("hello")
    with away(), tracked_run(experiment) as run:
        run.log({"x": 2.0}, 2)
        run.text("table.csv", "a,b")
        run.artifact(note)
    (file,) = unsent(experiment)
    assert f"run {run.id}" in caplog.text and f"wait in {file}" in caplog.text
    assert [found.status for found in logged_runs(experiment.tracking)] == ["RUNNING"], "who left it may still live"
    run._journal._file.close()  # type: ignore[union-attr]  # as the end of its process does
    with caplog.at_level(logging.INFO, "pipelines"):
        (found,) = logged_runs(experiment.tracking)
    assert found.status == "FINISHED" and found.metrics == {"x": 2.0} and not unsent(experiment)
    assert {file.name for file in file.parent.rglob("artifacts/*.*")} == {"note.txt", "table.csv"}
    assert f"run {run.id}" in caplog.text and "entries sent" in caplog.text


@pytest.mark.usefixtures("slow")
def test_an_entry_that_is_sent_twice_counts_once(experiment: Experiment) -> None:
    with tracked_run(experiment) as run:
        for _ in range(2):
            send(run._server, run.id, {"metrics": {"x": 1.5}, "step": 1, "at": 1_700_000_000_000})
            send(run._server, run.id, {"params": {"p": "1"}})
        assert run.history("x") == [1.5]


def test_what_mlflow_says_of_the_content_is_raised_and_not_kept(experiment: Experiment) -> None:
    with tracked_run(experiment) as run:
        with pytest.raises(mlflow.exceptions.MlflowException, match="x@1"):
            run.log({"x@1": 1.0})
        with pytest.raises(TrackingError, match=r"nowhere.txt cannot be stored with run"):
            run.artifact(Path("nowhere.txt"))
        assert not unsent(experiment)
        run.log({"x": 1.0})
    assert [found.status for found in logged_runs(experiment.tracking)] == ["FINISHED"]


def test_a_file_that_was_cut_gives_what_is_whole_and_one_of_another_server_stays(experiment: Experiment) -> None:
    with tracked_run(experiment) as run:
        pass
    folder = Path(experiment.tracking.output)
    whole = '{"metrics": {"x": 4.0}, "step": 4, "at": 1700000000000}\n'
    (folder / f"unsent-{run.id}-0000.jsonl").write_text(whole + whole[:20])
    other = folder / f"unsent-{'0' * 32}-0000.jsonl"
    other.write_text(whole)
    assert logged_runs(experiment.tracking)[0].metrics == {"x": 4.0}
    assert unsent(experiment) == [other]


def test_a_file_that_mlflow_refuses_is_set_aside_and_said(experiment: Experiment, caplog: pytest.LogCaptureFixture) -> None:
    with tracked_run(experiment) as run:
        pass
    file = Path(experiment.tracking.output) / f"unsent-{run.id}-0000.jsonl"
    file.write_text('{"metrics": {"a@b": 4.0}, "step": 4, "at": 1700000000000}\n')
    logged_runs(experiment.tracking)
    assert [path.suffix for path in unsent(experiment)] == [".refused"] and "a@b" in caplog.text


@pytest.mark.parametrize("content", ["", "no JSON\n", '{"what": 1}\n'])
def test_a_file_that_is_empty_goes_and_one_that_is_no_journal_is_set_aside(experiment: Experiment, content: str) -> None:
    with tracked_run(experiment) as run:
        pass
    (Path(experiment.tracking.output) / f"unsent-{run.id}-0000.jsonl").write_text(content)
    logged_runs(experiment.tracking)
    assert [path.suffix for path in unsent(experiment)] == ([".refused"] if content else [])


def test_what_went_wrong_first_is_what_is_told(experiment: Experiment) -> None:
    with pytest.raises(ZeroDivisionError), tracked_run(experiment) as run:
        run._server.delete_run(run.id)
        raise ZeroDivisionError


def test_a_server_that_hangs_does_not_keep_a_program_that_is_to_stop(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    monkeypatch.setattr("pipelines.tracking.run.HANGS", 0.1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "set_terminated", lambda *words: answers.wait())
        with pytest.raises(KeyboardInterrupt), tracked_run(experiment):
            raise KeyboardInterrupt
        assert '"end": "KILLED"' in unsent(experiment)[0].read_text()
        answers.set()
