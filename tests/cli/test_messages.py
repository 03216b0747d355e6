"""What the program says: nothing unless asked, names safe, progress at least every so often."""

from __future__ import annotations

import io
import logging
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.cluster.connect import LOG_LEVEL, quiet
from vop import messages
from vop.errors import VopError
from vop.messages import Plain, Progress, clock, first_line, hide, one_line, root_cause, show, visible

LOGGER = logging.getLogger("pipelines.tests")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Cooking [dQw4w9WgXcQ].mp4", "Cooking [dQw4w9WgXcQ].mp4"),
        ("100% :smile: 'a' \"b\" 犬\u3000é", "100% :smile: 'a' \"b\" 犬\u3000é"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("gpj.\u202ecod\x9b", r"gpj.\u202ecod\x9b"),
        ("no text \udcff", r"no text \udcff"),
    ],
)
def test_names_are_shown_on_one_line_without_control_characters(name: str, shown: str) -> None:
    assert visible(name) == shown


def test_a_name_adds_no_line_to_a_record() -> None:
    record = logging.LogRecord("vop", logging.INFO, "", 0, "first\n%s of %d", ("a\nb\x1b", 3), None)
    assert Plain().format(record) == "first\na\\nb\\x1b of 3"


def test_an_error_has_a_line_for_each_argument() -> None:
    assert str(VopError("one", "two")) == "one\ntwo"
    assert one_line(VopError("one", " two")) == "one; two"


def test_a_folder_that_is_gone_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    done = CliRunner().invoke(app, ["check", "toy"])
    assert done.exit_code == 2 and done.stderr.startswith("error the folder that this was started in is gone")


def test_a_full_disk_behind_what_is_printed_is_said() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pipelines", "config", "seed"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (2, "error what is printed: No space left on device\n")


def test_a_user_of_the_library_sees_nothing() -> None:
    code = "import logging; import vop.config; [logging.getLogger(name).info('word') for name in ('vop.x', 'pipelines.y')]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


def test_shown_and_hidden_again(caplog: pytest.LogCaptureFixture) -> None:
    lines = io.StringIO()
    show(logging.StreamHandler(lines))
    try:
        LOGGER.info("%s", "here")
        assert lines.getvalue() == "here\n" and not caplog.messages
    finally:
        hide()
    with caplog.at_level(logging.INFO):
        LOGGER.info("there")
    assert lines.getvalue() == "here\n" and caplog.messages == ["there"]


def test_workers_speak_as_their_driver_does(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    levels = {name: logging.getLogger(name).level for name in ("", "ray", "ray.data", "ray.train", "ray.tune")}
    try:
        for level, shown in (("INFO", "word\n"), ("WARNING", "")):
            monkeypatch.setenv(LOG_LEVEL, level)
            quiet()
            LOGGER.info("word")
            assert capsys.readouterr().out == shown
    finally:
        hide()
        for name, before in levels.items():
            logging.getLogger(name).setLevel(before)


def test_progress_is_said_while_nothing_comes_in(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(messages, "EVERY", 0.05)
    caplog.set_level(logging.INFO)
    with Progress(LOGGER, "decoding", 4, "videos") as progress:
        deadline = time.monotonic() + 20
        while len(caplog.messages) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert caplog.messages[0].startswith("decoding: 0 of 4 videos, 0 s")
        progress.add(4, "1 unreadable")
    assert caplog.messages[-1].startswith("decoding: 4 of 4 videos, 1 unreadable, ")


def test_the_end_is_left_to_another_record(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Progress(LOGGER, "epoch 1/2", 1, says_end=False) as progress:
        progress.add()
    assert not caplog.messages


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0 s"), (59.4, "59 s"), (185, "3:05 min"), (7385, "2:03:05 h")])
def test_durations(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


def test_what_ray_calls_an_error_and_is_none_is_left_out() -> None:
    noise = "[E 1] core_worker.cc:2465: Actor with class name: 'A' and ID: 'b' has constructor arguments in the object store"
    code = (
        "import os\nfrom pipelines.cluster.noise import without_noise\n"
        f"with without_noise():\n os.write(2, {noise!r}.encode() + b'\\nkept\\n')\nos.write(2, b'after')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "kept\nafter"


def test_standard_error_that_somebody_else_has_replaced_is_left_alone() -> None:
    code = (
        "import os\nfrom pipelines.cluster.noise import without_noise\n"
        "with without_noise():\n os.dup2(1, 2)\nos.write(2, b'replaced')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "replaced" and not done.stderr


def worker_errors(cause: Exception) -> list[Exception]:
    """The ways in which Ray wraps what was raised in a worker."""
    from ray.exceptions import RayTaskError
    from ray.train import ControllerError, WorkerGroupError

    task = RayTaskError("f", "Traceback (most recent call last):\n  many lines\n", cause, "title", 1, "127.0.0.1")
    group = WorkerGroupError("\n".join(["a line of a traceback"] * 100), {1: task})
    raised = RuntimeError("around it")
    raised.__cause__ = group
    return [cause, task, task.as_instanceof_cause(), group, ControllerError(task), raised]


@pytest.mark.parametrize("number", range(6))
def test_the_root_cause_is_found_in_all_that_ray_puts_around_it(number: int) -> None:
    assert first_line(worker_errors(ValueError("\x1b[36mbad\x1b[0m number\nmore"))[number]) == "ValueError: bad number"
    own = VopError("a sentence")
    own.__cause__ = OSError("what is behind it")
    assert root_cause(worker_errors(own)[number]) is own
    assert first_line(KeyError()) == "KeyError"


@pytest.mark.parametrize("number", range(1, 5))
def test_the_command_line_shows_one_line_of_what_failed_in_a_worker(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = worker_errors(ValueError("bad number\nmore"))

    def fails(*words: object) -> None:
        raise errors[number]

    monkeypatch.setattr("pipelines.cli.data.load_experiment", fails)
    done = CliRunner().invoke(app, ["prepare", "toy"])
    found = re.fullmatch(r"error a worker failed: ValueError: bad number; all of it: (.*)\n", done.stderr)
    assert done.exit_code == 2 and found
    log = Path(found[1]).read_text()
    assert str(errors[number]).splitlines()[-1] in log and "\x1b" not in log
    Path(found[1]).unlink()
