"""The paper's tables and figures as rows and columns: our number, and the paper's beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.report.cells import HEADLINE, Book, Cell
from vop.paper.methods import METHODS, paper_key, paper_results, paper_value

PAPER = paper_results()
PAPER_BENCHMARKS = ("msrvtt-9k", "msrvtt-7k", "didemo", "activitynet", "lsmdc")
# The paper gives averages as differences (section 4): here all of them relative to VoP.
AVERAGE_OVER_VOP = {"VoP": 0.0, "VoP^P": 0.5, "VoP^C": 1.0, "VoP^F": 3.1, "VoP^F+P": 4.0, "VoP^F+C": 4.2, "Full": 2.8}
METRICS = {"R@1": "R1", "R@5": "R5", "R@10": "R10", "MdR": "MdR", "MnR": "MnR"}
RESCORED = {"t2v DSL": "dsl/t2v", "t2v QB-Norm": "qbnorm/t2v", "v2t DSL": "dsl/v2t"}
NOT_RUN = "not run"


@dataclass(frozen=True)
class Value:
    """A number of ours (None: not run) with its standard deviation over seeds, and the paper's (None: it has none)."""

    ours: float | None
    std: float | None = None
    paper: float | None = None
    form: str = ".1f"
    cells: tuple[Cell, ...] = ()

    def __str__(self) -> str:
        if self.ours is None:
            return NOT_RUN
        spread = f" ± {self.std:.1f}" if self.std is not None and self.form != ",.0f" else ""
        return f"{self.ours:{self.form}}{spread}{'†' if any(cell.on_test for cell in self.cells) else ''}"

    @property
    def paper_text(self) -> str:
        """The paper's number as it prints it; parameters in millions."""
        if self.paper is None:
            return ""
        return f"{self.paper / 1e6:.1f} M" if self.form == ",.0f" else f"{self.paper:{self.form}}"


@dataclass(frozen=True)
class Section:
    """One table, and how it is drawn ("scatter", "bars", "lines" or not at all)."""

    slug: str
    title: str
    note: str
    columns: list[str]
    rows: list[tuple[str, list[Value | str]]]
    first: str = "method"
    plot: str = ""

    def column(self, name: str) -> dict[str, Value]:
        """The values of one column by row."""
        place = self.columns.index(name)
        return {label: value for label, values in self.rows if isinstance(value := values[place], Value)}


def value(cell: Cell | None, metric: str = HEADLINE, paper: float | None = None, form: str = ".1f") -> Value:
    """A metric of a cell."""
    if cell is None:
        return Value(None, None, paper, form)
    return Value(cell.mean(metric), cell.std(metric), paper, form, (cell,))


def gain(cell: Cell | None, over: Cell | None, paper: float | None = None) -> Value:
    """The difference of two cells' headline numbers; standard deviations add in squares."""
    ours, base = (c.mean(HEADLINE) if c else None for c in (cell, over))
    if cell is None or over is None or ours is None or base is None:
        return Value(None, None, paper, "+.1f")
    spread = [std for std in (cell.std(HEADLINE), over.std(HEADLINE)) if std is not None]
    return Value(ours - base, math.hypot(*spread) if len(spread) == 2 else None, paper, "+.1f", (cell, over))


def paper_of(benchmark: str) -> str:
    """The benchmark whose numbers of the paper stand beside ours: the same, or MSR-VTT-9k."""
    return benchmark if benchmark in PAPER else PAPER_BENCHMARKS[0]


def beside(benchmark: str) -> str:
    """What the paper's numbers beside ours are."""
    same = "" if benchmark in PAPER else f" The paper has none on {benchmark}: compare the order of methods, not the level."
    return f"The paper's numbers are its own, on {paper_of(benchmark)} with ViT-B/32.{same}"


def table_1(book: Book, benchmark: str) -> Section:
    """All methods on one benchmark, both directions."""
    columns = ["parameters", *(f"{d} {m}" for d in ("t2v", "v2t") for m in METRICS)]
    columns += ["queries", "seeds", "learning rate", "commit"]
    rows: list[tuple[str, list[Value | str]]] = []
    for name in METHODS:
        cell, source = book.method(benchmark, name), paper_of(benchmark)
        millions = PAPER[source].get(paper_key(name), {}).get("params_m")
        values: list[Value | str] = [value(cell, "trainable_parameters", millions and millions * 1e6, ",.0f")]
        for direction in ("t2v", "v2t"):
            for shown, metric in METRICS.items():
                values.append(value(cell, f"test/{direction}/{metric}", paper_value(source, name, direction, shown)))
        rows.append((name, [*values, *_about(cell)]))
    note = f"Every method on {benchmark}; R@K in percent, ranks from 1, raw scores. {beside(benchmark)}"
    return Section("table-1", f"Table 1: all methods on {benchmark}", note, columns, rows)


def _about(cell: Cell | None) -> list[str]:
    if cell is None:
        return ["", "", "", ""]
    trained = cell.entries[0].trains
    rate = f"{cell.entries[0].learning_rate:g}" + (f" of {len(cell.tried)}" if len(cell.tried) > 1 else "")
    queries = ", ".join(f"{count:.0f}" for count in sorted(set(cell.values("test/t2v/queries"))))
    return [queries, str(len(cell.entries)), rate if trained else "", ", ".join(cell.commits)]


def figure_1(book: Book, benchmark: str) -> Section:
    """R@1 gain over zero-shot CLIP, or over Full where zero-shot was not run, against trainable parameters."""
    base = "zero-shot" if book.method(benchmark, "zero-shot") or not book.method(benchmark, "Full") else "Full"
    over, source = book.method(benchmark, base), paper_of(benchmark)
    paper_base = paper_value(source, base)
    rows: list[tuple[str, list[Value | str]]] = []
    for name in METHODS:
        if name in (base, "VoP text only", "VoP visual only"):
            continue
        cell, paper = book.method(benchmark, name), paper_value(source, name)
        printed = PAPER[source].get(paper_key(name), {}).get("params_m")
        difference = None if paper is None or paper_base is None else paper - paper_base
        parameters = value(cell, "trainable_parameters", printed and printed * 1e6, ",.0f")
        rows.append((name, [parameters, gain(cell, over, difference)]))
    title = f"Figure 1: gain over {base} against trainable parameters, {benchmark}"
    note = f"t2v R@1 minus that of {base}. {beside(benchmark)}"
    return Section("figure-1", title, note, ["parameters", "gain"], rows, plot="scatter")


def figure_3(book: Book, shown: Sequence[str]) -> Section:
    """Gain over Full on each benchmark and on average."""
    full = {benchmark: book.method(benchmark, "Full") for benchmark in shown}
    averaged = [b for b in shown if full[b] and b in PAPER_BENCHMARKS] or [b for b in shown if full[b]]
    rows: list[tuple[str, list[Value | str]]] = []
    for name in METHODS:
        if name in ("zero-shot", "Full", "VoP text only", "VoP visual only"):
            continue
        values: list[Value | str] = []
        for benchmark in shown:
            paper, paper_full = paper_value(benchmark, name), paper_value(benchmark, "Full")
            difference = None if paper is None or paper_full is None else paper - paper_full
            values.append(gain(book.method(benchmark, name), full[benchmark], difference))
        average = AVERAGE_OVER_VOP.get(name)
        printed = None if average is None else average - AVERAGE_OVER_VOP["Full"]
        rows.append((name, [*values, _average(book, name, "Full", averaged, printed)]))
    note = (
        f"t2v R@1 minus that of Full. The average is over {', '.join(averaged) or 'no benchmark yet'}, where Full was run; the "
        "paper's, over its five benchmarks, is derived from the differences that it states."
    )
    return Section("figure-3", "Figure 3: gain over Full by benchmark", note, [*shown, "average"], rows, plot="bars")


def table_2(book: Book, shown: Sequence[str]) -> Section:
    """t2v R@1 of every method on every benchmark."""
    ran = [b for b in shown if book.method(b, "VoP")]
    averaged = [b for b in ran if b in PAPER_BENCHMARKS] or ran
    rows: list[tuple[str, list[Value | str]]] = []
    for name in METHODS:
        values: list[Value | str] = []
        for benchmark in shown:
            paper = paper_value(benchmark, name)
            if name == "VoP^C" and paper is None and benchmark in PAPER_BENCHMARKS:
                paper = module_paper("bilstm", benchmark, 0)
            values.append(value(book.method(benchmark, name), paper=paper))
        rows.append((name, [*values, _average(book, name, "VoP", averaged, AVERAGE_OVER_VOP.get(name))]))
    note = (
        f"t2v R@1. The last column is the average gain over VoP on {', '.join(averaged) or 'no benchmark yet'}; the paper's is "
        "over its five benchmarks. Where no number of the paper is given, it is not among the paper's facts kept here."
    )
    return Section("table-2", "Table 2: methods by benchmark", note, [*shown, "average over VoP"], rows)


def _average(book: Book, name: str, base: str, benchmarks: Sequence[str], paper: float | None) -> Value:
    gains = [gain(book.method(b, name), book.method(b, base)) for b in benchmarks]
    ours = [g.ours for g in gains if g.ours is not None]
    complete = bool(gains) and len(ours) == len(gains)
    return Value(sum(ours) / len(ours) if complete else None, None, paper, "+.1f", tuple(c for g in gains for c in g.cells))


def module_paper(module: str, benchmark: str, place: int) -> float | None:
    """The paper's R@1, R@5 or R@10 (`place` 0, 1, 2) of VoP^C with a context module."""
    numbers: dict[str, Any] = PAPER["vop-c by context module, t2v R@1/R@5/R@10"][module]
    return float(numbers[benchmark][place]) if benchmark in numbers else None


def rescored(book: Book, benchmark: str) -> Section:
    """Raw R@1 beside dual softmax and QB-Norm."""
    columns = ["t2v raw", "t2v DSL", "t2v QB-Norm", "v2t raw", "v2t DSL"]
    metrics = ["t2v", "dsl/t2v", "qbnorm/t2v", "v2t", "dsl/v2t"]
    rows: list[tuple[str, list[Value | str]]] = [
        (name, [value(cell, f"test/{metric}/R1") for metric in metrics])
        for name in METHODS
        if (cell := book.method(benchmark, name))
    ]
    note = (
        "R@1. Raw scores are the result; these corrections use more than one query knows. Dual softmax (DSL, arXiv 2109.04290) "
        "assumes that all test queries are known at once. QB-Norm (CVPR 2022, dynamic inverted softmax) assumes a bank of "
        "training captions at search time, and corrects the videos that are hubs among them; text to video only."
    )
    return Section("rescored", f"Corrected scores on {benchmark}: dual softmax and QB-Norm", note, columns, rows)


def gains(book: Book, benchmark: str) -> Section | None:
    """nDCG@10 and MAP beside R@1, of runs that logged them."""
    columns = {"R@1": "R1", "nDCG@10": "nDCG10", "MAP": "MAP"}
    rows: list[tuple[str, list[Value | str]]] = [
        (name, [value(cell, f"test/t2v/{metric}") for metric in columns.values()])
        for name in METHODS
        if (cell := book.method(benchmark, name)) and cell.values("test/t2v/nDCG10")
    ]
    note = "Text to video, in percent, as MTEB and trec_eval count them: each query has one true video, so MAP is MRR."
    return Section("gains", f"nDCG@10 and MAP on {benchmark}", note, list(columns), rows) if rows else None


def groups(book: Book, benchmark: str) -> Section | None:
    """R@1 by group of queries, for a benchmark that has groups."""
    cells = {name: cell for name in METHODS if (cell := book.method(benchmark, name))}
    keys = {key for cell in cells.values() for entry in cell.entries for key in entry.run.metrics}
    split = sorted(p[1] for key in keys if len(p := key.split("/")) == 4 and p[0] == "test" and key.endswith("/t2v/R1"))
    names = [name for name in split if name not in ("dsl", "qbnorm")]
    if not names:
        return None
    columns = {f"{name} {d} R@1": f"test/{name}/{d}/R1" for name in names for d in ("t2v", "v2t")}
    if "test/pair_accuracy" in keys:
        columns["time pairs right"] = "test/pair_accuracy"
    rows: list[tuple[str, list[Value | str]]] = [
        (name, [value(cell, metric) for metric in columns.values()]) for name, cell in cells.items()
    ]
    note = (
        "Each query is ranked against the whole gallery. Time pairs right: a clip against its own reverse, chance 50 percent."
    )
    return Section("groups", f"Groups of queries on {benchmark}", note, list(columns), rows)
