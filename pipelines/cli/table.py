"""A table on the terminal, never cut, whatever the width."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.cells import cell_len

from pipelines.cli.say import say, width
from vop.messages import visible

GAP = "  "
LEAST = 24  # columns in which the text of a last column can be read; longer lines are wrapped by the terminal


def print_table(title: str, heads: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[str] = ()) -> None:
    """A line for each row. right: the heads of numbers.

    Where the terminal is too narrow: a table for each name in the first column, if names come again, else a line for each cell.
    """
    cells = [[visible(cell) for cell in row] for row in rows]
    if title:
        say("{}", title, style="bold")
    numbers, names = set(right), list(dict.fromkeys(row[0] for row in cells))
    if _width(heads, cells, numbers) <= width():
        _lines(heads, cells, numbers)
    elif len(names) < len(cells) and _width(heads[1:], [row[1:] for row in cells], numbers) <= width():
        for name in names:
            say("{}", name, style="bold")
            _lines(heads[1:], [row[1:] for row in cells if row[0] == name], numbers)
    else:
        for row in cells:
            for head, cell in zip(heads, row, strict=True):
                if cell:
                    say("{}  {}", head, cell)
            say("")


def _widths(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(cell_len, column)) for column in zip(heads, *cells, strict=True)]


def _width(heads: Sequence[str], cells: Sequence[Sequence[str]], numbers: set[str]) -> int:
    """Columns that a table needs; a text in the last one may go on over lines."""
    *widths, last = _widths(heads, cells)
    return sum(widths) + len(GAP) * len(widths) + (last if heads[-1] in numbers else min(last, LEAST))


def _lines(heads: Sequence[str], cells: Sequence[Sequence[str]], numbers: set[str]) -> None:
    widths = _widths(heads, cells)
    for place, row in enumerate([heads, *cells]):
        parts = [
            " " * (room - cell_len(cell)) + cell if head in numbers else cell + " " * (room - cell_len(cell))
            for head, cell, room in zip(heads, row, widths, strict=True)
        ]
        say("{}", GAP.join(parts).rstrip(), style="" if place else "underline")
    say("")
