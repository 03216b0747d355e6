"""Figures 4 to 6: what changes when one choice moves and all else stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.report.cells import DEPTHS, HEADLINE, SPLIT, Book, Cell
from pipelines.report.tables import Section, Value, paper_of, paper_value, value
from vop.methods import METHODS, overrides_of


@dataclass(frozen=True)
class Axis:
    """The keys that move, together or one alone, and the methods that have them."""

    slug: str
    title: str
    keys: tuple[str, ...]
    methods: tuple[str, ...]


PROMPTED = tuple(name for name in METHODS if name.startswith("VoP") and "only" not in name)
AXES = (
    Axis("prompt-depth", "prompt depth", DEPTHS, PROMPTED),
    Axis("prompt-length", "prompt length", ("text_prompt.length", "video_prompt.length"), PROMPTED),
    Axis(
        "specific-length",
        "video-specific prompt length",
        ("video_prompt.specific_length",),
        tuple(name for name in PROMPTED if name.endswith(("P", "C")) and "^" in name),
    ),
    Axis("split-layer", "split layer", (SPLIT,), tuple(name for name in PROMPTED if "^F" in name)),
)


def ablation(book: Book, benchmark: str, axis: Axis) -> Section:
    """One line a method that was run at a point that is no method of Table 1; if there is none, the first method alone."""
    methods = {id(cell) for name in METHODS if (cell := book.method(benchmark, name))}
    lines: dict[str, tuple[str, dict[str, Cell]]] = {}
    for name in axis.methods:
        for keys in (axis.keys, *([(key,) for key in axis.keys] if len(axis.keys) > 1 else [])):
            points = _points(book, benchmark, name, keys)
            moved = "" if keys == axis.keys else f", only {keys[0].partition('_')[0]}"
            if {id(cell) for cell in points.values()} - methods:
                lines[name + moved] = name, points
    if not lines:
        lines = {axis.methods[0]: (axis.methods[0], _points(book, benchmark, axis.methods[0], axis.keys))}
    default = {name: _default(book, benchmark, name, axis) for name in axis.methods}
    columns = sorted({x for _, points in lines.values() for x in points} | {default[n] for n, _ in lines.values()}, key=_place)
    rows: list[tuple[str, list[Value | str]]] = []
    for label, (name, points) in lines.items():
        paper = paper_value(paper_of(benchmark), name)
        rows.append((label, [value(points.get(x), HEADLINE, paper if x == default[name] else None) for x in columns]))
    note = (
        f"t2v R@1 on {benchmark}; {' and '.join(axis.keys)} {'move together' if len(axis.keys) > 1 else 'moves'}, all else as in "
        f"Table 1. The paper draws this without printing numbers, so its own, on {paper_of(benchmark)}, stands at its default alone."
    )
    return Section(axis.slug, f"Figures 4 to 6: {axis.title}", note, columns, rows, plot="lines")


def _points(book: Book, benchmark: str, name: str, keys: tuple[str, ...]) -> dict[str, Cell]:
    if benchmark not in book.protocols:
        return {}
    layers = book.layers[benchmark]
    fixed = _without(book.tuned(benchmark, overrides_of(name, layers)), keys)
    points = {}
    for (where, tuned), cell in book.cells.items():
        own = dict(tuned)
        if where == benchmark and _without(own, keys) == fixed and len({own.get(key) for key in keys}) == 1 and keys[0] in own:
            points[_shown(own[keys[0]], keys[0], layers)] = cell
    return points


def _default(book: Book, benchmark: str, name: str, axis: Axis) -> str:
    layers = book.layers.get(benchmark, 12)
    tuned = book.tuned(benchmark, overrides_of(name, layers)) if benchmark in book.protocols else {}
    return _shown(tuned.get(axis.keys[0], ""), axis.keys[0], layers)


def _shown(text: str, key: str, layers: int) -> str:
    if key == SPLIT and text == "None":
        return str(layers)
    return f"1-{layers}" if key in DEPTHS and text == "all" else text


def _place(x: str) -> tuple[int, ...]:
    return tuple(int(part) for part in x.split("-") if part.isdigit())


def _without(params: Mapping[str, str], keys: tuple[str, ...]) -> dict[str, str]:
    return {key: text for key, text in params.items() if key not in keys}
