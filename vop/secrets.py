"""What must not be shown: passwords, keys and tokens inside addresses (`s3://KEY:SECRET@bucket`, `?sig=...`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"
# What stands before the @ of an address. A password may hold a slash (S3's do): after a colon that no port follows, all up to
# the last @ counts. A name alone counts too: it may be a token. One slash: of an address that was taken for a path.
_USER = re.compile(
    r"(?<=:/)(/?)(?:[^\s/@:?#\"']{0,512}:(?!\d{0,5}(?:[/?#\s\"']|$))[^\s\"]{0,512}|(?<=//)[^\s/@:?#\"']{1,512})@"
)
_VALUE = re.compile(
    r"([?&;][\w.-]{0,64}(?:key|secret|token|passw|pwd|sig|signature|credential|accessid)[\w.-]{0,64}=)[^&;\s\"']+",
    re.IGNORECASE,
)


def masked(text: str) -> str:
    """A text in which the secrets of addresses cannot be read any more; what names the place stays."""
    return _VALUE.sub(rf"\1{MASK}", _USER.sub(rf"\1{MASK}@", text)) if ":/" in text else text


def is_masked(value: object) -> bool:
    """Whether a value is an address that has lost its secrets."""
    return isinstance(value, str) and "://" in value and (f"{MASK}@" in value or f"={MASK}" in value)


def masked_tree(value: Any) -> Any:
    """Nested dictionaries and lists with every text in them masked."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, Mapping):
        return {key: masked_tree(item) for key, item in value.items()}
    return [masked_tree(item) for item in value] if isinstance(value, list | tuple) else value
