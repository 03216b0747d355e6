"""Sections as Markdown, as CSV and as one HTML page that needs nothing beside itself."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from pipelines.look import LOOK, TEMPLATES
from pipelines.report.plots import draw
from pipelines.report.tables import Section, Value
from vop.annotations.cells import written

TEMPLATES.filters["number"] = lambda value: str(value).replace("-", "\N{MINUS SIGN}").replace("± ", "±\N{NO-BREAK SPACE}")
CSV_COLUMNS = ["section", "row", "column", "ours", "std", "seeds", "paper", "learning_rate", "selected_on", "commits", "runs"]


@dataclass(frozen=True)
class Page:
    """A report: what it is of, as (term, text), and its sections."""

    title: str
    facts: list[tuple[str, str]]
    sections: list[Section]


RULES = (
    "Mean ± sample standard deviation over seeds, one run a seed. A run belongs to a cell by its parameters, not by its name; "
    "only FINISHED runs count. Where several learning rates were run, the one that is best on validation counts (mean t2v R@1 "
    "over the seeds that all of them have), never the one that is best on test. † the checkpoint was chosen by its test score. "
    "“not run”: there is no such run; the paper's number never takes its place."
)


def markdown(page: Page) -> str:
    """Tables in GitHub's Markdown; the paper's number in brackets."""
    lines = [f"# {page.title}", "", RULES, "", *(f"- {term}: {text}" for term, text in page.facts), ""]
    for section in page.sections:
        lines += [f"## {section.title}", "", section.note, ""]
        if not section.rows:
            lines += ["None.", ""]
            continue
        lines += [_row([section.first, *section.columns]), _row(["---", *("---:" for _ in section.columns)])]
        for label, values in section.rows:
            lines.append(_row([label, *(_with_paper(value) for value in values)]))
        lines.append("")
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _with_paper(value: Value | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value} (paper {value.paper_text})" if value.paper_text else str(value)


def csv_text(page: Page) -> str:
    """A row a number, ours and the paper's, with the runs behind it."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(CSV_COLUMNS)
    for section in page.sections:
        for label, values in section.rows:
            for column, value in zip(section.columns, values, strict=True):
                if isinstance(value, Value):
                    writer.writerow([written(cell) for cell in (section.slug, label, column, *_csv_cells(value))])
    return file.getvalue()


def _csv_cells(value: Value) -> list[object]:
    numbers = ["" if number is None else f"{number:.6g}" for number in (value.ours, value.std)]
    paper = "" if value.paper is None else f"{value.paper:.6g}"
    entries = [entry for cell in value.cells for entry in cell.entries]
    if value.ours is None or not entries:
        return [*numbers, "", paper, "", "", "", ""]
    seeds = " ".join(str(len(cell.entries)) for cell in value.cells)
    rates = " ".join(dict.fromkeys(f"{e.learning_rate:g}" for e in entries if e.trains))
    selected = "test" if any(entry.on_test for entry in entries) else "val"
    commits = " ".join(sorted({commit for cell in value.cells for commit in cell.commits}))
    return [*numbers, seeds, paper, rates, selected, commits, " ".join(dict.fromkeys(entry.run.id for entry in entries))]


def html(page: Page) -> str:
    """The page, drawings, style and all."""
    drawings = {section.slug: Markup(draw(section)) for section in page.sections}
    template = TEMPLATES.get_template("report/page.html.j2")
    return template.render(look=LOOK, page=page, drawings=drawings, rules=RULES, name=superscript)


def superscript(text: str) -> Markup:
    """ "VoP^F+C" with its superscript, escaped."""
    return Markup(re.sub(r"\^([A-Z+]+)", r"<sup>\1</sup>", str(escape(text))))
