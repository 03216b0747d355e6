"""Names as files have them, through every command that prints one: whole, no markup, no control characters, no traceback."""

from __future__ import annotations

import io
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pipelines.cli import app, tables
from pipelines.cli.say import fail, say
from vop.config import Experiment
from vop.errors import VopError
from vop.messages import visible
from vop.video.frames import FrameError

NAMES = [
    "Cooking [dQw4w9WgXcQ].mp4",
    "[/x]",
    "[bold]100% %s {} {0}[/bold]",
    ":smile:",
    'it\'s "quoted" \\ & $HOME',
    "a\nb\r\tc",
    "\x1b[31mred\x1b]0;title\x07",
    "gpj.\u202ecod",
    "犬 é",
]
# {} stands for the name; each ends with an error that names it.
REFUSED = [
    ["{}"],
    ["train", "{}"],
    ["train", "toy", "{}=1"],
    ["train", "toy", "--{}"],
    ["train", "--dry-run", "{}"],
    ["prepare", "{}"],
    ["demo", "{}"],
    ["tune", "{}", "--space", "prompt_length"],
    ["config", "{}"],
    ["config", "toy", "{}"],
    ["verify", "{}"],
    ["evaluate", "/no/{}"],
    ["evaluate", "adapter", "--split", "{}"],
    ["index", "/no/{}", "--to", "/no/index"],
    ["index", "/", "--to", "/no/index", "--duration={}"],
    ["search", "adapter", "/no/{}", "a dog"],
    ["search", "{}", "a dog", "--json"],
    ["search", "/no/{}", "/", "a dog"],
    ["convert", "/no/{}", "/no/folder"],
    ["retrieved", "/no/{}"],
    ["retrieved", "run", "{}=1"],
    ["report", "{}"],
    ["ui", "{}"],
    ["ui", "tracking.output=/no/{}"],
    ["methods", "{}"],
    ["doctor", "{}"],
    ["submit", "--address", "http://127.0.0.1:9", "--", "{}"],
    ["throughput", "sweep", "{}"],
    ["throughput", "{}"],
]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "60"})


def is_clean(text: str) -> bool:
    return all(character == "\n" or character == visible(character) for character in text)


def names_it(text: str, name: str) -> bool:
    """Whether the name, or the name as Python quotes it, is whole on one line."""
    quoted = visible(repr(name))[1:-1]
    return any(visible(name) in line or quoted in line for line in text.splitlines())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_in_an_error(words: list[str], name: str) -> None:
    done = run(*(word.replace("{}", name) for word in words))
    assert done.exit_code == 2 and isinstance(done.exception, SystemExit), done.output
    assert is_clean(done.output) and not done.stdout
    if any("=" in word or word.startswith("--{") for word in words):
        return  # the key of an override is parted at dots, its value is YAML, an option's name is escaped by click
    assert names_it(done.stderr, name), done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_in_what_is_printed_of_results(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    hits = [SimpleNamespace(score=0.9, video=name)]
    prepared = SimpleNamespace(failed=[1], report=name)
    swept = SimpleNamespace(name=name, models=[name], run=SimpleNamespace(uri=name, id=name), points=[], rows=[])
    metrics = {f"test/{way}/{key}": 1.0 for way in ("t2v", "v2t") for key in ("R1", "R5", "R10", "MdR", "MnR", "queries")}
    check = SimpleNamespace(name=name, works=False, needed=True, found=name)
    verified = SimpleNamespace(
        table=lambda: (["", "train"], [[name, "1"]]), names=lambda: [name], faults=lambda: [name], tokens=1, report=name
    )
    row = SimpleNamespace(what=name, value=name, target=name, met=True)
    shown: list[tuple[Callable[..., None], Any]] = [
        (tables.print_hits, SimpleNamespace(hits={name: hits}, videos=1, prepared=prepared)),
        (tables.print_points, swept),
        (tables.print_results, {name: metrics}),
        (tables.print_checks, [check]),
        (lambda found: tables.print_verified(found, 1), verified),
        (lambda rows: tables.print_rows(name, rows), [row]),
        (lambda text: say("{}", text), name),
        (fail, name),
        (fail, VopError(name, "second line")),
        (fail, FrameError(name, "decode", name)),
    ]
    for show, what in shown:
        show(what)
        output = "".join(capsys.readouterr())
        assert is_clean(output) and names_it(output, name), output


@pytest.mark.parametrize("name", NAMES)
def test_after_a_training_that_went_well(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.train import run as training

    metrics = {f"test/{way}/{key}": 1.0 for way in ("t2v", "v2t") for key in ("R1", "R5", "R10", "MdR", "MnR", "queries")}
    result = SimpleNamespace(
        experiment=Experiment(),
        metrics=metrics,
        kept=f"/runs/{name}",
        run=SimpleNamespace(uri=name, id="0123"),
    )
    monkeypatch.setattr(training, "run_experiment", lambda experiment: result)
    done = run("train", "toy")
    assert done.exit_code == 0, done.output
    assert is_clean(done.output) and names_it(done.stdout, name) and f"adapter /runs/{visible(name)}" in done.stdout


def test_where_the_encoding_lacks_a_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from pipelines.cli.say import speaking

    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    with speaking():
        say("{}", "犬")
    sys.stdout.flush()
    assert written.getvalue() == b"\\u72ac\n"
