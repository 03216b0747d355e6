"""R@1 beside what methods cost: what was not run is said so, not counted and not drawn."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any, cast

from matplotlib.figure import Figure

from pipelines.report import plots
from pipelines.report.cells import Book
from pipelines.report.costs import COLUMNS, costs
from pipelines.report.plots import draw
from pipelines.report.tables import NOT_RUN
from vop.paper.costs import Cost
from vop.paper.methods import METHODS

RUN = {"zero-shot": 7.5, "VoP": 26.5, "X-Pool": 30.0}


def book(scores: dict[str, float]) -> Book:
    def method(benchmark: str, name: str) -> Any:
        assert benchmark == "toy"
        score = scores.get(name)
        return None if score is None else SimpleNamespace(mean=lambda _: score, std=lambda _: None, on_test=False)

    return cast(Book, SimpleNamespace(method=method))


def cost_of(name: str) -> Cost:
    assert name in RUN, f"{name} was not run, so nothing needs its cost"
    return Cost(0 if name == "zero-shot" else 12_288, 172_000_000, 38_800_000, 52_576 if name == "X-Pool" else 128)


def test_a_row_a_method_and_a_point_a_run() -> None:
    section = costs(book(RUN), "toy", cost_of)
    rows = {label: [str(value) for value in values] for label, values in section.rows}
    assert list(rows) == list(METHODS) and section.columns == ["R@1", *COLUMNS]
    assert rows["X-Pool"] == ["30.0", "12,288", "0.172", "0.0388", "52,576"] and rows["zero-shot"][1] == "0"
    assert all(values == [NOT_RUN] * 5 for name, values in rows.items() if name not in RUN)
    drawing = draw(section)
    assert drawing.count(">X-Pool<") == 3 and "seqLSTM" not in drawing and "bytes of a video" in drawing


def test_nothing_is_drawn_of_nothing() -> None:
    assert draw(costs(book({}), "toy", cost_of)) == ""


def test_names_of_near_points_cover_neither_each_other_nor_points() -> None:
    figure = Figure(figsize=(9.6, 4.2), dpi=plots.DPI)
    axes = figure.subplots()
    points = {f"method {n}": (1 + n % 5 / 100, 20 + n / 2) for n in range(28)}
    axes.set(xlim=(0, 2), ylim=(0, 50))
    figure.draw_without_rendering()
    plots._label(axes, points)
    names = [text.get_window_extent() for text in axes.texts if text.get_text()]
    spots = [axes.transData.transform(xy) for xy in points.values()]
    assert len(names) == len(points)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(names, 2))
    assert not any(name.contains(*spot) for name in names for spot in spots)
