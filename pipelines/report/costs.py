"""What a method finds against what it costs: R@1 beside trained parameters, counted FLOPs and bytes in an index."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pipelines.report.cells import Book
from pipelines.report.tables import Section, Value, value
from vop.paper.methods import METHODS

if TYPE_CHECKING:
    from vop.paper.costs import Cost

COLUMNS = ("trained parameters", "GFLOPs of a video", "GFLOPs of a text", "bytes of a video")
FORMS = (",.0f", ".3f", ".4f", ",.0f")
DRAWN = (COLUMNS[0], COLUMNS[1], COLUMNS[3])


def costs(book: Book, benchmark: str, cost_of: Callable[[str], Cost]) -> Section:
    """A row a method. cost_of: what counts a method's cost; what was not run is not counted."""
    rows: list[tuple[str, list[Value | str]]] = []
    for name in METHODS:
        cell = book.method(benchmark, name)
        rows.append((name, [value(cell), *(_values(cost_of(name)) if cell else [Value(None)] * len(COLUMNS))]))
    note = "t2v R@1 on test. FLOPs are counted, of one more item in a batch; bytes are those of a video in an index."
    title = f"R@1 against what a method costs, {benchmark}"
    return Section("costs", title, note, ["R@1", *COLUMNS], rows, plot="costs")


def _values(cost: Cost) -> list[Value]:
    numbers = (cost.trained, cost.video_flops / 1e9, cost.text_flops / 1e9, cost.index_bytes)
    return [Value(float(number), form=form) for number, form in zip(numbers, FORMS, strict=True)]
