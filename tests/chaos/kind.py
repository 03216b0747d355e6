"""What a kind of harm is: its name, and a function that does it with a generator in an empty folder, and asserts what holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

Kind = tuple[str, Callable[[Random, Path], None]]


class Skipped(Exception):  # noqa: N818  (as unittest calls it)
    """This machine cannot do the harm; the message says why."""
