"""How the command line prints: plain text, in which no name is markup, a control character or a line of its own."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.text import Text

from vop.errors import VopError
from vop.messages import ESCAPES, first_line, hide, root_cause, show, visible
from vop.secrets import masked


def console(error: bool = False) -> Console:
    """Of standard output or error, as wide as it is now. Paths and ids are never broken: a terminal wraps long lines itself."""
    return Console(stderr=error, markup=False, highlight=False, emoji=False, soft_wrap=True)


def width() -> int:
    """Columns that a line may take: of the terminal, or COLUMNS; a file or a pipe takes any."""
    shown = console()
    return shown.width if shown.is_terminal or os.environ.get("COLUMNS") else sys.maxsize


def say(template: str, *names: object, style: str = "", error: bool = False) -> None:
    """Print a template with `{}` for each name."""
    console(error).print(Text(template.format(*map(visible, names)), style), soft_wrap=True)


def fail(error: BaseException | str) -> None:
    """Print an error that is meant for the user."""
    cause = root_cause(error) if isinstance(error, BaseException) else error  # it may have come from a Ray worker
    error = cause if isinstance(cause, VopError) else error
    own = isinstance(error, VopError) and type(error).__str__ is VopError.__str__
    lines = [visible(line) for line in (error.args if own and isinstance(error, VopError) else [error])]
    console(error=True).print(Text.assemble(("error ", "bold red"), "\n".join(lines)), soft_wrap=True)


def fail_in_worker(error: BaseException) -> None:
    """Print what went wrong in a worker of Ray's in one line, and keep the rest of what Ray says of it in a file."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", prefix="vop-error-", suffix=".log", delete=False) as file:
        file.write(masked(ESCAPES.sub("", "".join(traceback.format_exception(error)))))
    fail(f"a worker failed: {first_line(error)}; all of it: {file.name}")


def show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What Python prints of an error that nobody expected, without secrets: a library may quote an address."""
    sys.stderr.write(masked("".join(traceback.format_exception(kind, error, trace))))


@contextmanager
def speaking() -> Iterator[None]:
    """For the while, show what the program logs, and in a way that the output can take."""
    if os.environ.get("NO_COLOR"):
        os.environ["TERM"] = "dumb"  # rich and typer then send no escape sequence, not even for bold
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name must not fail where the encoding lacks its letters
    if not _draws():
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    handler = Handler()
    show(handler, logging.DEBUG if _draws() else logging.INFO)
    try:
        yield
    finally:
        handler.close()
        hide()


def _draws() -> bool:
    """Whether standard output is a terminal that can draw a line again."""
    return console().is_terminal and not console().is_dumb_terminal


class Handler(logging.Handler):
    """Log records on the terminal: messages on standard output, warnings on standard error, progress as a bar if it can be."""

    def __init__(self) -> None:
        super().__init__()
        self.status: Any = None

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record, or draw it over the last one while its work goes on."""
        going = getattr(record, "going", None)
        if going and _draws():
            self._draw(self.format(record))
            return
        if going is False:
            self.close()
        if record.levelno >= logging.INFO:
            console(record.levelno >= logging.WARNING).print(Text(self.format(record)), soft_wrap=True)

    def _draw(self, text: str) -> None:
        if self.status is None:
            self.status = console().status("")
            self.status.start()
        self.status.update(Text(text))

    def close(self) -> None:
        """End the line that is drawn."""
        if self.status is not None:
            self.status.stop()
            self.status = None
        super().close()
