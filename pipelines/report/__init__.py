"""MLflow runs -> the paper's tables and figures, each with the paper's number beside ours."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.environment import commit
from pipelines.locations import tracking_uri
from pipelines.report.ablations import AXES, ablation, context_modules, context_roles, cooperation
from pipelines.report.cells import Book, Cell, book_of
from pipelines.report.page import Page, csv_text, html, markdown
from pipelines.report.tables import (
    PAPER_BENCHMARKS,
    Section,
    Value,
    figure_1,
    figure_3,
    gains,
    groups,
    rescored,
    table_1,
    table_2,
    value,
)
from pipelines.tracking import LoggedRun, Run, log_report, logged_runs
from vop.config import ConfigError, Experiment, load_experiment, params_of
from vop.paper.methods import METHODS
from vop.secrets import masked


@dataclass(frozen=True)
class Written:
    """The files of a report, the MLflow run that holds them, and how many runs stand behind its cells."""

    files: list[Path]
    run: Run
    counted: int


def report(experiment: Experiment, benchmark: str, folder: Path, with_protocol: bool) -> Written:
    """Write report.md, report.csv and report.html into `folder` and log them to MLflow.

    experiment: where the runs are; with `with_protocol`, also the protocol (frames, training, ...) that counts on its
    benchmark. Raises ConfigError where there are no finished runs on `benchmark`.
    """
    runs = logged_runs(experiment.tracking)
    params = params_of(experiment) if with_protocol else None
    book = book_of(runs, params)
    if not any(where == benchmark for where, _ in book.cells):
        known = ", ".join(sorted({where for where, _ in book.cells})) or "none"
        raise ConfigError(f"no finished run on benchmark {benchmark!r} counts here; benchmarks with runs: {known}")
    page = page_of(
        book, benchmark, [("runs read from", f"{masked(tracking_uri(experiment.tracking))}, {experiment.tracking.experiment}")]
    )
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, text in (("report.md", markdown(page)), ("report.csv", csv_text(page)), ("report.html", html(page))):
        files.append(folder / name)
        files[-1].write_text(text, encoding="utf-8", newline="")
    counted = sum(len(cell.entries) for cell in book.cells.values())
    run = log_report(experiment.tracking, f"report-{benchmark}", {"report": benchmark, "runs_counted": counted}, files)
    return Written(files, run, counted)


def page_of(book: Book, benchmark: str, facts: Sequence[tuple[str, str]] = ()) -> Page:
    """All sections for one benchmark, with the other benchmarks where the paper compares them."""
    shown = [*PAPER_BENCHMARKS, *sorted(set(book.protocols) - set(PAPER_BENCHMARKS))]
    sections = [
        table_1(book, benchmark),
        figure_1(book, benchmark),
        table_2(book, shown),
        figure_3(book, shown),
        cooperation(book, benchmark),
        context_modules(book, shown),
        context_roles(book, benchmark),
        *(ablation(book, benchmark, axis) for axis in AXES),
        *filter(None, (groups(book, benchmark), gains(book, benchmark))),
        rescored(book, benchmark),
    ]
    used = {
        id(cell) for section in sections for _, row in section.rows for v in row if isinstance(v, Value) for cell in v.cells
    }
    sections += [_counted(book, used), _left_out(book, used)]
    about = [
        *facts,
        *((f"protocol, {name}", _protocol(book, name)) for name in sorted(book.protocols)),
        ("made at commit", commit()),
    ]
    return Page(f"Text-video retrieval with VoP: {benchmark}", about, sections)


def _protocol(book: Book, benchmark: str) -> str:
    """What all methods on a benchmark share, as far as it differs from the defaults."""
    default = params_of(load_experiment({"benchmark": {"name": benchmark}}))
    differs = [f"{key}={text}" for key, text in sorted(book.protocols[benchmark].items()) if text != default.get(key)]
    return ", ".join(differs) or "the defaults"


def _counted(book: Book, used: set[int]) -> Section:
    rows: list[tuple[str, list[Value | str]]] = []
    for (benchmark, tuned), cell in sorted(book.cells.items(), key=lambda item: (item[0][0], sorted(item[0][1]))):
        if id(cell) not in used:
            continue
        for entry in cell.entries:
            run = entry.run
            validation = "" if run.validation is None else f"{run.validation:.1f}"
            rate = f"{entry.learning_rate:g}" if entry.trains else ""
            about = [benchmark, _name(book, benchmark, tuned), entry.params["seed"], rate, validation]
            rows.append((run.id[:8], [*about, str(value(Cell((entry,)))), run.tags.get("commit", "unknown")]))
    columns = ["benchmark", "experiment", "seed", "learning rate", "val t2v R@1", "test t2v R@1", "commit"]
    return Section("runs", "Runs that count", "Every run behind a number above, by the start of its id.", columns, rows, "run")


def _name(book: Book, benchmark: str, tuned: frozenset[tuple[str, str]]) -> str:
    """The method of a cell, or the keys in which it differs from basic VoP."""
    for name in METHODS:
        if book.method(benchmark, name) is book.cells[benchmark, tuned]:
            return name
    basic = book.tuned(benchmark, {})
    return ", ".join(f"{key}={text}" for key, text in sorted(tuned) if basic.get(key) != text)


def _left_out(book: Book, used: set[int]) -> Section:
    reasons: dict[str, list[LoggedRun]] = defaultdict(list)
    for run, reason in book.left_out:
        reasons[reason].append(run)
    for (benchmark, tuned), cell in book.cells.items():
        if id(cell) not in used:
            reasons[f"in no table: {_name(book, benchmark, tuned)} on {benchmark}"] += [entry.run for entry in cell.entries]
    rows: list[tuple[str, list[Value | str]]] = [
        (reason, [str(len(runs)), " ".join(run.id[:8] for run in runs[:12]) + (" ..." if len(runs) > 12 else "")])
        for reason, runs in sorted(reasons.items(), key=lambda item: -len(item[1]))
    ]
    note = "Runs of the same MLflow experiment that stand behind no number above, and why."
    return Section("left-out", "Runs that do not count", note, ["runs", "ids"], rows, "reason")
