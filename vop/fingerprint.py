"""The one way in which a cache is named after what its content depends on."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def fingerprint(what: Any, length: int = 16) -> str:
    """The first `length` hexadecimal digits of the SHA-256 of `what` as canonical JSON (sorted keys, tuples as lists).

    what: dictionaries, lists, texts, numbers, None. Anything else is a TypeError: its text could change from run to run.
    """
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:length]
