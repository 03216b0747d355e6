"""Stops mean stop: Ctrl-C and SIGTERM unwind the program, whatever handlers the libraries have put in their place."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Timer
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGAIN = 0.05  # seconds
LAST: list[int] = []  # the signals that came since `stoppable` began


class Stopped(KeyboardInterrupt):
    """The program was asked to stop; `code` is the exit code that says so (130 for Ctrl-C, 143 for SIGTERM)."""

    def __init__(self, signum: int = signal.SIGINT):
        super().__init__(signum)
        self.code = 128 + signum


@contextmanager
def stoppable() -> Iterator[None]:
    """For the while Ctrl-C and SIGTERM raise Stopped; afterwards the handlers are those from before.

    Around a call of a library that leaves a handler of its own behind, it takes the signals back. Nothing is done outside of
    the main thread, where Python allows no handlers. A process that was started to ignore Ctrl-C (nohup) goes on doing so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, hook = {signum: signal.getsignal(signum) for signum in SIGNALS}, sys.unraisablehook
    take_signals()
    LAST.clear()
    sys.unraisablehook = partial(_dropped, hook)
    try:
        yield
    except KeyboardInterrupt as stop:
        if LAST and not isinstance(stop, Stopped):  # Ray makes a bare one of it, in calls that wait
            raise Stopped(LAST[-1]) from stop
        raise
    finally:
        sys.unraisablehook = hook
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)


def take_signals() -> None:
    """Put our handlers where a library has put its own (Ray's start does so for SIGTERM, below Python)."""
    if threading.current_thread() is threading.main_thread():
        for signum in SIGNALS:
            if signal.getsignal(signum) != signal.SIG_IGN:
                signal.signal(signum, _stop)


def _dropped(hook: Callable[[Any], Any], dropped: Any) -> None:
    """Where Python drops an exception (`__del__`, callbacks, hooks of a fork), the signal comes once more, a little later."""
    if issubclass(dropped.exc_type, Stopped) and LAST:
        Timer(AGAIN, os.kill, (os.getpid(), LAST[-1])).start()
    else:
        hook(dropped)


def _stop(signum: int, frame: Any) -> None:
    LAST.append(signum)
    raise Stopped(signum)
