"""Sections as inline SVG: text stays text, and takes the page's own colour, so that it reads in light and in dark."""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from pipelines.report.costs import DRAWN
from pipelines.report.tables import Section

INK = "#010203"  # stands for the page's text colour until the SVG is written
# Near Okabe and Ito's colours, which most colour-blind readers tell apart; all show on white and on black.
COLORS = ("#1F83CC", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
BASELINE = "#8a8f98"
LEADER = {"arrowstyle": "-", "color": INK, "alpha": 0.35, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3}
DPI = 100
GAPS = (8, 12, 18, 25, 34, 45, 58, 74, 93, 116, 143, 175)  # points between a point and its name
ANGLES = tuple(math.radians(angle) for angle in (0, 180, 90, 270, 45, 135, 315, 225, 22, 158, 338, 202, 68, 112, 292, 248))
STYLE = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    **{
        "figure.dpi": DPI,
        "svg.fonttype": "none",
        "svg.hashsalt": "vop",
        "font.family": "sans-serif",
        "font.size": 10,
        "mathtext.default": "regular",
    },
    **{
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.labelpad": 8,
        "legend.frameon": False,
    },
    **{"axes.grid": True, "grid.color": INK, "grid.alpha": 0.12, "savefig.transparent": True},
}


def draw(section: Section) -> str:
    """The SVG of a section, "" if it has no drawing or nothing of ours to draw."""
    painter = {"scatter": _scatter, "bars": _bars, "lines": _lines, "costs": _costs}.get(section.plot)
    if painter is None:
        return ""
    with matplotlib.rc_context(STYLE):
        figure = painter(section)
        return _svg(figure, section) if figure else ""


def _scatter(section: Section) -> Figure | None:
    ours = _points(section, "ours")
    theirs = _points(section, "paper")
    if not ours:
        return None
    figure = Figure(figsize=(9.6, 5.2), layout="constrained")
    panels: Sequence[Axes] = figure.subplots(1, 2)
    for axes, points, title in zip(panels, (ours, theirs), ("ours", "the paper"), strict=True):
        axes.set(title=title, xscale="log", xlabel="trainable parameters", ylabel="gain in t2v R@1")
        axes.axhline(0, color=INK, alpha=0.5, linewidth=1)
        axes.margins(0.16, 0.14)
        for name, (x, y) in points.items():
            marker, color = ("o", COLORS[0]) if name.startswith("VoP") else ("s", BASELINE)
            axes.plot(x, y, marker, color=color, markersize=7)
    figure.draw_without_rendering()  # settles where the points are
    for axes, points in zip(panels, (ours, theirs), strict=True):
        _label(axes, points)
    return figure


def _costs(section: Section) -> Figure | None:
    """A panel for each cost; FLOPs are near each other, the others orders apart, and zero stands at the left."""
    found = {name: own.ours for name, own in section.column("R@1").items() if own.ours is not None}
    if not found:
        return None
    figure = Figure(figsize=(9.6, 12.6), layout="constrained")
    panels: Sequence[Axes] = figure.subplots(len(DRAWN), 1)
    drawn = []
    for axes, column in zip(panels, DRAWN, strict=True):
        cost = section.column(column)
        points = {name: (float(cost[name].ours or 0), score) for name, score in found.items()}
        axes.set(xlabel=column, ylabel="t2v R@1")
        if "FLOPs" not in column:
            axes.set_xscale("symlog", linthresh=min((x for x, _ in points.values() if x), default=1.0))
        axes.margins(0.12, 0.16)
        for name, (x, y) in points.items():
            marker, color = ("o", COLORS[0]) if name.startswith("VoP") else ("s", BASELINE)
            axes.plot(x, y, marker, color=color, markersize=6)
        drawn.append((axes, points))
    figure.draw_without_rendering()
    for axes, points in drawn:
        _label(axes, points)
    return figure


def _points(section: Section, whose: str) -> dict[str, tuple[float, float]]:
    parameters, gains = section.column("parameters"), section.column("gain")
    pairs = {name: (getattr(parameters[name], whose), getattr(gains[name], whose)) for name in gains}
    return {name: (x, y) for name, (x, y) in pairs.items() if x and y is not None}


def _label(axes: Axes, points: dict[str, tuple[float, float]]) -> None:
    """Names beside their points, at the nearest place where they cover no name and no point; a line leads to one far away."""
    frame, dot = axes.get_window_extent(), DPI / 72
    spots = {name: axes.transData.transform(xy) for name, xy in points.items()}
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in spots.values()]

    def fits(box: Bbox) -> bool:
        inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
        return inside and not any(box.overlaps(other) for other in taken)

    for name, xy in sorted(points.items(), key=lambda item: -item[1][1]):
        text = axes.annotate(math_name(name), xy, (0, 0), textcoords="offset points", fontsize=9, ha="center", va="center")
        box = text.get_window_extent().padded(1)
        half = box.width / 2, box.height / 2
        for gap, angle in itertools.product(GAPS, ANGLES):
            way = math.cos(angle), math.sin(angle)
            x, y = (cosine * (gap * dot + side) for cosine, side in zip(way, half, strict=True))
            if fits(moved := box.translated(x, y)):
                break
        text.set_position((x / dot, y / dot))
        taken.append(moved)
        if gap > GAPS[1]:
            end = [(place - cosine * side) / dot for place, cosine, side in zip((x, y), way, half, strict=True)]
            axes.annotate("", xy, (end[0], end[1]), textcoords="offset points", arrowprops=LEADER)


def _bars(section: Section) -> Figure | None:
    columns = [name for name in section.columns if any(value.ours is not None for value in section.column(name).values())]
    names = [label for label, _ in section.rows if any(section.column(c)[label].ours is not None for c in columns)]
    if not columns:
        return None
    columns = columns if len(columns) > 2 else columns[:1]  # the average of one benchmark is that benchmark
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    axes = figure.subplots()
    width = 0.84 / len(names)
    looks = _looks(names)
    for place, name in enumerate(names):
        values = [section.column(column)[name] for column in columns]
        xs = [x - 0.42 + width * (place + 0.5) for x, value in enumerate(values) if value.ours is not None]
        known = [value for value in values if value.ours is not None]
        color, hatch = looks[name]
        heights = [float(value.ours or 0) for value in known]
        axes.bar(xs, heights, width * 0.9, color=color, hatch=hatch, edgecolor=INK, linewidth=0.4, label=math_name(name))
        errors = [value.std if value.std else math.nan for value in known]  # no bar where there is none
        if not all(map(math.isnan, errors)):
            axes.errorbar(xs, heights, errors, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
    axes.axhline(0, color=INK, linewidth=1)
    axes.grid(visible=False, axis="x")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_ylabel("gain over Full, t2v R@1")
    figure.legend(loc="outside right upper", fontsize=9)
    return figure


def _looks(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Baselines are grey with a hatch each, the paper's methods have a colour each."""
    colors, hatches = iter(COLORS * 3), iter(("", "///", "...", "xxx", "\\\\\\", "+++", "ooo") * 3)
    return {name: (next(colors), "") if name.startswith("VoP") else (BASELINE, next(hatches)) for name in names}


def _lines(section: Section) -> Figure | None:
    if not any(value.ours is not None for _, values in section.rows for value in values if not isinstance(value, str)):
        return None
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    axes = figure.subplots()
    for place, (label, values) in enumerate(section.rows):
        points = [(x, v) for x, v in enumerate(values) if not isinstance(v, str) and v.ours is not None]
        xs, ys = [x for x, _ in points], [float(v.ours or 0) for _, v in points]
        errors = [v.std or 0.0 for _, v in points]
        color, marker = COLORS[place % len(COLORS)], MARKERS[place % len(MARKERS)]
        axes.errorbar(
            xs, ys, errors, label=math_name(label), color=color, marker=marker, capsize=3, linewidth=1.8, markersize=6
        )
    axes.set_xticks(range(len(section.columns)), section.columns)
    axes.set_xlim(-0.4, len(section.columns) - 0.6)
    axes.set(xlabel=section.title.rpartition(": ")[2], ylabel="t2v R@1")
    figure.legend(loc="outside right upper", fontsize=9)
    return figure


def math_name(name: str) -> str:
    """ "VoP^F+C" with its superscript, as matplotlib writes it."""
    return re.sub(r"\^([A-Z+]+)", lambda match: "$^{\\mathrm{" + match[1].replace("+", "{+}") + "}}$", name)


def _svg(figure: Figure, section: Section) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL).replace(INK, "currentColor")
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{section.slug}-", text)  # several drawings share a page
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    return text.replace("<svg", f'<svg role="img" aria-label="{_plain(section.title)}"', 1)


def _plain(title: str) -> str:
    return "".join(character for character in title if character not in '<>&"')
