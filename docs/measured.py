"""Tables and figures of the runs and measurements in docs/results/, as Markdown and SVG. For `docs/generate.py`."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

from reference import table

from pipelines.cli.tables import print_results
from pipelines.report.ablations import AXES, ablation, context_modules, context_roles
from pipelines.report.cells import Book, book_of
from pipelines.report.costs import costs as costs_of_runs
from pipelines.report.plots import draw
from pipelines.report.results import read_results
from pipelines.report.tables import NOT_RUN, Section, figure_1, value
from pipelines.sweep.space import load_space
from pipelines.tracking import LoggedRun
from vop.config import load_experiment, params_of
from vop.paper.costs import cost_of_method
from vop.paper.methods import METHODS

DOCS = Path(__file__).resolve().parent
RESULTS, MKL, SPEED, FIGURES = (DOCS / name for name in ("results/toy", "results/toy-mkl", "results/speed", "figures"))
NOTHING = f"{NOT_RUN[0].upper()}{NOT_RUN[1:]}."
SHORT = ("zero-shot", "Full", "LoRA", "VoP", "VoP^P", "VoP^F+P")  # the README's rows
COLUMNS = {
    "trained parameters": "trainable_parameters",
    "t2v R@1": "test/t2v/R1",
    "ordinary": "test/ordinary/t2v/R1",
    "time pairs": "test/time_pairs/t2v/R1",
    "v2t R@1": "test/v2t/R1",
    "time pairs right": "test/pair_accuracy",
}


def runs() -> list[LoggedRun]:
    """All runs on toy that are kept here."""
    return read_results(RESULTS)


def book(found: list[LoggedRun] | None = None) -> Book:
    """Them, or others, in cells, under the protocol of the recipe."""
    return book_of(runs() if found is None else found, params_of(load_experiment("toy")))


def libraries() -> str:
    """What each method finds with frozen layers by oneDNN and by MKL, and on how many seeds all numbers are the same."""
    kept, rows = (book(), book(read_results(MKL))), []
    shown = [(COLUMNS[column], one) for column in ("t2v R@1", "time pairs right") for one in kept]
    for name in METHODS:
        cells = [one.method("toy", name) for one in kept]
        if None not in cells:
            onednn, mkl = ({e.params["seed"]: [e.run.metrics[m] for m in COLUMNS.values()] for e in c.entries} for c in cells)
            same = sum(numbers == onednn.get(seed) for seed, numbers in mkl.items())
            rows.append([name, *(value(one.method("toy", name), metric) for metric, one in shown), f"{same} of {len(mkl)}"])
    heads = [f"{text}, {library}" for text in ("t2v R@1", "time pairs right") for library in ("oneDNN", "MKL")]
    return table(["method", *heads, "seeds with the same numbers"], rows)


def results(names: Iterable[str]) -> str:
    """A row per method: the columns above, seeds, learning rate."""
    kept, rows = book(), []
    for name in names:
        cell = kept.method("toy", name)
        numbers = [
            value(cell, metric, form=",.0f" if metric == "trainable_parameters" else ".1f") for metric in COLUMNS.values()
        ]
        seeds = "" if cell is None else str(len(cell.entries))
        rate = "" if cell is None or not cell.entries[0].trains else f"{cell.entries[0].learning_rate:g}"
        rows.append([name, *numbers, seeds, rate])
    return table(["method", *COLUMNS, "seeds", "learning rate"], rows)


@cache
def costs_section() -> Section:
    """What methods find on toy, and what they cost there."""
    recipe = load_experiment("toy").tree()
    model = {"backbone": recipe["backbone"], "frames": recipe["frames"]}
    return costs_of_runs(book(), "toy", lambda name: cost_of_method(name, model))


def costs() -> str:
    """It as a table, with its figure."""
    return as_markdown(costs_section())


def ablations() -> str:
    """Tables 3 and 4, figures 4 to 6 of the paper, on toy."""
    kept = book()
    sections = [*(ablation(kept, "toy", axis) for axis in AXES), context_roles(kept, "toy"), context_modules(kept, ["toy"])]
    return "\n\n".join(as_markdown(section) for section in sections)


def as_markdown(section: Section) -> str:
    """A section of the report without the paper's numbers, and its figure where there is one."""
    figure = f"\n\n![{section.title}](figures/{section.slug}.svg)" if (FIGURES / f"{section.slug}.svg").is_file() else ""
    title = section.title.rpartition(": ")[2]
    rows = [[label, *values] for label, values in section.rows]
    return f"### {title[0].upper()}{title[1:]}\n\n" + table([section.first, *section.columns], rows) + figure


def learning_rates() -> str:
    """Validation R@1 of each method and learning rate, in the sweep that chooses them; the best of a whole row is bold."""
    rates = load_space("learning_rate").parts[0]["training.learning_rate"]["grid_search"]
    found = [run for run in runs() if run.params.get("training.epochs") == "2"]
    scores = {(method_of(run), float(run.params["training.learning_rate"])): run.validation for run in found}
    rows = []
    for name in [name for name in METHODS if name != "zero-shot"]:
        known = [scores.get((name, rate)) for rate in rates]
        whole = [score for score in known if score is not None]
        best = known.index(max(whole)) if len(whole) == len(rates) else None
        texts = [NOT_RUN if score is None else f"{score:.1f}" for score in known]
        rows.append([name, *(f"**{text}**" if place == best else text for place, text in enumerate(texts))])
    return table(["method", *(f"{rate:g}" for rate in rates)], rows)


def method_of(run: LoggedRun) -> str:
    """The method in the name of a sweep's run."""
    return run.name.partition(",")[0]


def provenance() -> str:
    """Which commits, processors and libraries the runs come from."""
    kept = runs()
    if not kept:
        return NOTHING
    made = {
        text: sorted({run.tags.get(tag, "unknown") for run in kept})
        for tag, text in (("commit", "commit"), ("cpu", "processor"))
    }
    return f"{len(kept)} runs; " + "; ".join(f"{text} {', '.join(found)}" for text, found in made.items()) + "."


def demo() -> str:
    """What `make demo` prints at its end, from the runs that it left."""
    ordered = sorted(runs(), key=lambda run: run.started)
    kept = {run.name: run.metrics for run in ordered if run.name in ("toy-zero-shot", "toy-vop")}
    text = io.StringIO()
    with redirect_stdout(text):
        print_results(kept)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    return "```text\n" + "\n".join(line for line in lines if line) + "\n```" if kept else NOTHING


SPEED_SHORT = (  # what, with its page; the file and row that hold its number
    ("a training step of VoP over the plain way to compute the same, CPU time", "a-training-step", "model", "VoP"),
    ("the same on an Intel Xeon, where oneDNN gains nothing", "a-training-step", "model-intel", "VoP"),
    ("the same there in bf16", "a-training-step", "model-intel", "VoP, bf16"),
    (
        "the first with visual prompts in the last 4 layers, the output of those below reused",
        "a-training-step",
        "model",
        "VoP, visual prompts in the last 4 layers, reused",
    ),
    (
        "X-Pool's way to read frames over ours, CPU time",
        "decoding-and-the-store",
        "data",
        "seek per frame (OpenCV), CPU, over ours, GOP 250",
    ),
    ("20,000 files, 1 in 100 of them broken: stored", "decoding-and-the-store", "scale", "clips stored"),
    ("a sweep of six trials over the epochs in it, CPU time", "a-sweep", "sweep", "CPU time of the sweep / of its epochs"),
)


def speed_short() -> str:
    """The README's numbers of speed and reliability."""
    rows = []
    for what, anchor, name, row in SPEED_SHORT:
        found = rows_of(name).get("rows", [])
        values = [f"{r['cpu']:.2g}" if "cpu" in r else r["value"] for r in found if row in (r.get("name"), r.get("what"))]
        if found and not values:
            raise LookupError(f"{name}.json has no row {row!r}")
        rows.append([f"[{what}](docs/speed.md#{anchor})", values[0] if values else NOT_RUN])
    return table(["", "measured"], rows)


def rows_of(name: str) -> dict[str, Any]:
    """The file of one measurement, or nothing."""
    file = SPEED / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def speed(name: str) -> str:
    """The rows of one measurement, with the command that made them."""
    found = rows_of(name)
    if not found:
        return NOTHING
    about = f"`{found['command']}`, commit {found['commit']}, {found['cpu']}, torch {found['version.torch']}:\n\n"
    if not name.startswith("model"):
        return about + table(["", "measured", "wanted"], ([row["what"], row["value"], row["target"]] for row in found["rows"]))
    rows = (
        [
            row["name"],
            row["against"],
            f"{row['cpu']:.3g}",
            "" if row["target"] is None else f"{row['target']:.2f}",
            "" if row["memory"] is None else f"{row['memory']:.0f}",
        ]
        for row in found["rows"]
    )
    return about + table(["a training step", "over", "CPU time", "at most", "peak memory, MiB"], rows)


def digest() -> str:
    """Of all results: a figure says from which it was drawn."""
    parts = (file.read_bytes() for file in sorted(RESULTS.glob("*.json")))
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def figures() -> dict[Path, str]:
    """The SVGs of what has numbers, dark on white so that they read on any page."""
    kept = book()
    sections = [figure_1(kept, "toy"), costs_section(), *(ablation(kept, "toy", axis) for axis in AXES)]
    sections = sections if "toy" in kept.protocols else []
    drawn = {FIGURES / f"{section.slug}.svg": draw(section) for section in sections}
    style = f'<svg style="background: #fff" data-results="{digest()}"'
    return {file: text.replace("currentColor", "#1c2430").replace("<svg", style, 1) for file, text in drawn.items() if text}
