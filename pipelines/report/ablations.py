"""Tables 3 and 4, figures 4 to 6: what changes when one choice moves and all else stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.report.cells import DEPTHS, HEADLINE, SPLIT, Book, Cell
from pipelines.report.tables import METRICS, Section, Value, beside, module_paper, paper_of, value
from vop.config import NOTHING
from vop.paper.methods import METHODS, overrides_of, paper_value


@dataclass(frozen=True)
class Axis:
    """The keys that move, together or one alone, and the methods that have them."""

    slug: str
    title: str
    keys: tuple[str, ...]
    methods: tuple[str, ...]


MODULES = {"BiLSTM": "bilstm", "LSTM": "lstm", "Transformer": "transformer"}
PROMPTED = tuple(name for name in METHODS if name.startswith("VoP") and "only" not in name)
AXES = (
    Axis("prompt-depth", "Figures 4 to 6: prompt depth", DEPTHS, PROMPTED),
    Axis("prompt-length", "Figures 4 to 6: prompt length", ("text_prompt.length", "video_prompt.length"), PROMPTED),
    Axis(
        "specific-length",
        "Figures 4 to 6: video-specific prompt length",
        ("video_prompt.specific_length",),
        tuple(name for name in PROMPTED if name.endswith(("P", "C")) and "^" in name),
    ),
    Axis("split-layer", "Figures 4 to 6: split layer", (SPLIT,), tuple(name for name in PROMPTED if "^F" in name)),
    Axis(
        "context-start",
        "Beside the paper: how large the context's prompts begin",
        ("video_prompt.init_scale",),
        tuple(name for name in PROMPTED if name.endswith("C")),
    ),
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
    moves = f"{' and '.join(axis.keys)} {'move together' if len(axis.keys) > 1 else 'moves'}"
    note = (
        f"t2v R@1 on {benchmark}; {moves}, all else as in Table 1. The paper's number, on {paper_of(benchmark)}, is that of "
        "its Table 1, so it is known at the default alone."
    )
    return Section(axis.slug, axis.title, note, columns, rows, plot="lines")


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
    if key == SPLIT and text == NOTHING:
        return str(layers)
    return f"1-{layers}" if key in DEPTHS and text == "all" else text


def _place(x: str) -> tuple[float, ...]:
    return tuple(float(part) for part in x.split("-") if part[:1].isdigit())


def _without(params: Mapping[str, str], keys: tuple[str, ...]) -> dict[str, str]:
    return {key: text for key, text in params.items() if key not in keys}


def cooperation(book: Book, benchmark: str) -> Section:
    """Text prompts, visual prompts, both, neither."""
    names = {"neither (zero-shot)": "zero-shot", "text prompts only": "VoP text only"}
    names |= {"visual prompts only": "VoP visual only", "both (VoP)": "VoP"}
    rows = [(label, _both_ways(book.method(benchmark, name), benchmark, name)) for label, name in names.items()]
    note = f"Which encoder is prompted, on {benchmark}. {beside(benchmark)}"
    return Section("table-3", "Tables 3 and 4: co-operation of text and visual prompts", note, _columns(), rows, "prompts")


def context_roles(book: Book, benchmark: str) -> Section:
    """What the context module makes: prompts, or another class token."""
    rows = [
        ("generates prompts (VoP^C)", _both_ways(book.method(benchmark, "VoP^C"), benchmark, "VoP^C")),
        (
            "replaces the class token",
            _both_ways(book.method(benchmark, "VoP^C", **{"video_prompt.role": "cls"}), benchmark, "vop-c role=cls"),
        ),
    ]
    note = f"The role of the context modelling module, on {benchmark}. {beside(benchmark)}"
    return Section("table-4-role", "Tables 3 and 4: role of the context module", note, _columns(), rows, "context")


def _columns() -> list[str]:
    return [f"{d} {m}" for d in ("t2v", "v2t") for m in METRICS]


def _both_ways(cell: Cell | None, benchmark: str, name: str) -> list[Value | str]:
    source = paper_of(benchmark)
    return [
        value(cell, f"test/{direction}/{metric}", paper_value(source, name, direction, shown))
        for direction in ("t2v", "v2t")
        for shown, metric in METRICS.items()
    ]


def context_modules(book: Book, shown: Sequence[str]) -> Section:
    """VoP^C with each context modelling module, on every benchmark."""
    rows: list[tuple[str, list[Value | str]]] = []
    for place, metric in enumerate(("R1", "R5", "R10")):
        for label, module in MODULES.items():
            cells = [book.method(benchmark, "VoP^C", **{"video_prompt.module": module}) for benchmark in shown]
            values: list[Value | str] = [
                value(cell, f"test/t2v/{metric}", module_paper(module, benchmark, place))
                for cell, benchmark in zip(cells, shown, strict=True)
            ]
            rows.append((f"{label}, R@{metric[1:]}", values))
    note = "VoP^C, text to video, by context modelling module."
    return Section("table-4-module", "Tables 3 and 4: context modelling module", note, list(shown), rows, "module")
