"""What the program says while it works: log records of its modules, with names in them that are safe to show.

A program that imports this one sees nothing of it unless it configures `logging`; the command line shows all of it.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import unicodedata
from typing import Self

from vop.errors import VopError
from vop.secrets import masked

ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\].*?(\x07|\x1b\\))")  # colours and titles of terminals
LOGGERS = ("vop", "pipelines")
EVERY = 30.0  # seconds between two lines about work that goes on
LIVE = 0.2  # seconds between two looks at it, for a display that is drawn again
KNOWN = 0.05  # of work must be done before it is said how long the rest takes


def visible(name: object) -> str:
    """A name on one line: control characters, marks that turn the direction of text and bytes that are no text as escapes.

    Secrets in addresses are masked.
    """
    text = masked(str(name))
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    shown = character.isprintable() or unicodedata.category(character) == "Zs"
    return character if shown else character.encode("unicode_escape").decode()


class Plain(logging.Formatter):
    """The message alone. Lines that its template has stay; a name in its arguments cannot add one."""

    def format(self, record: logging.LogRecord) -> str:
        """The text of a record, and of the exception that belongs to it."""
        message = str(record.msg)
        if isinstance(record.args, tuple) and record.args:
            message %= tuple(arg if isinstance(arg, int | float) else visible(arg) for arg in record.args)
        text = "\n".join(map(visible, message.split("\n")))
        return f"{text}\n{masked(self.formatException(record.exc_info))}" if record.exc_info else text


def show(handler: logging.Handler, level: int = logging.INFO) -> None:
    """Show what the program logs with a handler, and nowhere else."""
    handler.setFormatter(Plain())
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


def hide() -> None:
    """As before `show`: what the program logs goes where `logging` is configured to put it."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.NOTSET)


class Progress:
    """How far work of `total` parts is, for the while: an INFO record every EVERY seconds and at the end of the work.

    Between them are DEBUG records. All carry `going`, so that a terminal can draw one over the other. says_end: False where
    another record tells of the end.
    """

    def __init__(self, logger: logging.Logger, doing: str, total: int, unit: str = "", says_end: bool = True):
        self.logger, self.doing, self.total, self.unit, self.says_end = logger, doing, total, unit, says_end
        self.done, self.note = 0, ""
        self.started = self.drawn = time.monotonic()
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._say, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self.total = max(self.total, self.done)
        self._log(logging.INFO if self.says_end and not any(error) else logging.DEBUG, ended=True)

    def add(self, done: int = 1, note: str = "") -> None:
        """So many parts more are done."""
        self.done, self.note = self.done + done, note
        if time.monotonic() - self.drawn >= LIVE:
            self._log(logging.DEBUG)

    def _say(self) -> None:
        while not self._ended.wait(EVERY):
            self._log(logging.INFO)

    def _log(self, level: int, ended: bool = False) -> None:
        self.drawn = time.monotonic()
        seconds, share = self.drawn - self.started, self.done / max(1, self.total)
        left = "" if ended or share < KNOWN else f", {clock(seconds / share - seconds)} left"
        note = f", {self.note}" if self.note else ""
        self.logger.log(
            *(level, "%s: %d of %d%s%s, %s%s"),
            *(self.doing, self.done, self.total, self.unit and f" {self.unit}", note, clock(seconds), left),
            extra={"going": not ended},
        )


def clock(seconds: float) -> str:
    """A duration: `12 s`, `3:05 min`, `2:03:05 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02} h"


def one_line(error: BaseException) -> str:
    """What an error says, of its lines one."""
    return masked("; ".join(line.strip() for line in str(error).splitlines() if line.strip()))


def root_cause(error: BaseException) -> BaseException:
    """What an error is about: of what Ray's workers raised the error in them, else what it was raised from.

    An error that is meant for users (`vop.errors`) says it already: what it was raised from is behind it.
    """
    for _ in range(20):  # a chain of causes may be a ring
        failures = getattr(error, "worker_failures", None) or {}
        inside = [*failures.values(), *(getattr(error, name, None) for name in ("controller_failure", "_base_exc", "cause"))]
        found = [each for each in inside if isinstance(each, BaseException)]
        cause = next((each for each in found if isinstance(each, VopError)), found[0] if found else None)
        if cause is None and not isinstance(error, VopError):
            cause = error.__cause__
        if cause is None:
            return error
        error = cause
    return error


def first_line(error: BaseException) -> str:
    """The root cause of an error in one line: its kind, and the first line of what it says, without terminal codes."""
    cause = root_cause(error)
    lines = [line.strip() for line in ESCAPES.sub("", str(cause)).splitlines() if line.strip()]
    if lines and lines[0].startswith("Traceback "):
        lines = lines[-1:]
    return f"{type(cause).__name__}: {visible(lines[0])}"[:1000] if lines else type(cause).__name__
