"""What a method finds against what it costs: R@1 beside trained parameters, counted FLOPs and bytes in an index."""

from __future__ import annotations

from pipelines.report.cells import Book, Cell
from pipelines.report.tables import Section, Value, value
from vop.config import Experiment, load_experiment
from vop.paper.costs import Cost, cost_of
from vop.paper.methods import METHODS, overrides_of

COLUMNS = ("trained parameters", "GFLOPs of a video", "GFLOPs of a text", "bytes of a video")
DRAWN = (COLUMNS[0], COLUMNS[1], COLUMNS[3])


def costs(book: Book, benchmark: str, recipe: Experiment) -> Section:
    """A row a method. recipe: of the runs, for backbone and frames; what was not run is not counted either."""
    rows: list[tuple[str, list[Value | str]]] = []
    for name in METHODS:
        cell = book.method(benchmark, name)
        cost = None if cell is None else cost_of(_with(recipe, name))
        rows.append((name, [value(cell), *_values(cell, cost)]))
    note = "t2v R@1 on test. FLOPs are counted, of one more item in a batch; bytes are those of a video in an index."
    title = f"R@1 against what a method costs, {benchmark}"
    return Section("costs", title, note, ["R@1", *COLUMNS], rows, plot="costs")


def _with(recipe: Experiment, name: str) -> Experiment:
    tree = recipe.tree()
    model = {"backbone": tree["backbone"], "frames": tree["frames"]}
    return load_experiment(model, [f"{key}={way}" for key, way in overrides_of(name).items()])


def _values(cell: Cell | None, cost: Cost | None) -> list[Value]:
    if cell is None or cost is None:
        return [Value(None)] * len(COLUMNS)
    numbers = (cost.trained, cost.video_flops / 1e9, cost.text_flops / 1e9, cost.index_bytes)
    return [Value(float(number), form=form) for number, form in zip(numbers, (",.0f", ".3f", ".4f", ",.0f"), strict=True)]
