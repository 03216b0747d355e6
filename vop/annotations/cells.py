"""Cells of the CSV files that this project writes: a text of somebody's is never a formula of a spreadsheet."""

from __future__ import annotations

import re

FORMULA = re.compile(r"'*[=+\-@\t\r]")
FIGURES = re.compile(r"[-+.\d\s]*([eE][-+]?\d+)?")


def written(value: object) -> object:
    """A value as a cell: a text that a spreadsheet would run begins with an apostrophe. Numbers stay as they are."""
    if not isinstance(value, str):
        return value
    return f"'{value}" if FORMULA.match(value) and not FIGURES.fullmatch(value) else value


def read(text: str) -> str:
    """The text that was `written` as this cell."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text
