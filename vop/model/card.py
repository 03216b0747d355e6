"""An adapter's two files as a stranger may have made them: read with limits, and nothing in them is believed.

`adapter.json` is a card: the model that the tensors belong to. `adapter.safetensors` begins with a header, which is compared
with that model before a tensor is read.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from vop.errors import AdapterError
from vop.messages import one_line

FORMAT = 3
TENSORS, CARD = "adapter.safetensors", "adapter.json"
PEFT_TENSORS, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"  # `vop/model/low_rank.py`
CARD_BYTES, HEADER_BYTES = 2**20, 2**22
SHOWN = 500  # characters of what a file says, in a message
HASH = re.compile(r"[0-9a-f]{64}")


class Card(BaseModel):
    """What `adapter.json` holds. model: settings by section; backbone: an identity; notes: for people."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    format: Literal[1, 2, 3]
    model: dict[str, Any]
    backbone: dict[str, Any]
    notes: dict[str, Any] = {}


def read_card(folder: Path) -> Card:
    """The card of an adapter. Raises AdapterError, which names the file, for anything that is not one."""
    file = file_of(folder, CARD)
    if file.stat().st_size > CARD_BYTES:
        raise AdapterError(f"{file}: {file.stat().st_size:,} bytes, a card has at most {CARD_BYTES:,}")
    try:
        found = strict_json(file.read_bytes())
        known = found.get("format")
        if type(known) is not int or not 1 <= known <= FORMAT:
            raise ValueError(f"format {known!r}, this version reads 1 to {FORMAT}")
        if known < FORMAT:  # the whole experiment, of which the model is a part
            found["model"] = found.get("experiment")
        if known == 1:
            found["backbone"] = {"weights": found.get("backbone_weights")}
        card = Card.model_validate(found)
        if not isinstance(weights := card.backbone.get("weights"), str) or not HASH.fullmatch(weights):
            raise ValueError("backbone.weights: expected a SHA-256, 64 hexadecimal digits")
        return card
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in error.errors())
        raise AdapterError(f"{file}: {said[:SHOWN]}") from None
    except (ValueError, RecursionError, OSError) as error:
        raise AdapterError(f"{file} is not the card of an adapter: {one_line(error)[:SHOWN]}") from None


def check_header(folder: Path, expected: Mapping[str, list[int]], name: str = TENSORS) -> Path:
    """The file of an adapter's tensors, whose header says float32 and these shapes. Raises AdapterError, which names it."""
    file = file_of(folder, name)
    size = file.stat().st_size
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if size < 8 or length > min(HEADER_BYTES, size - 8):
                raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
            header = strict_json(opened.read(length))
    except (ValueError, RecursionError, OSError) as error:
        raise AdapterError(f"{file} is not a file of safetensors: {one_line(error)[:SHOWN]}") from None
    header.pop("__metadata__", None)
    if header.keys() != expected.keys():
        missing, extra = sorted(expected.keys() - header.keys()), sorted(header.keys() - expected.keys())
        raise AdapterError(f"{file}: tensor names differ: missing {_some(missing)}, not expected {_some(extra)}")
    for tensor, shape in expected.items():
        said = header[tensor] if isinstance(header[tensor], dict) else {}
        if said.get("shape") != shape:
            raise AdapterError(f"{file}: tensor {tensor}: expected shape {shape}, found {said.get('shape')}"[:SHOWN])
        if said.get("dtype") != "F32":
            raise AdapterError(f"{file}: tensor {tensor}: expected float32 (F32), found {said.get('dtype')}"[:SHOWN])
    if size != 8 + length + sum(4 * math.prod(shape) for shape in expected.values()):
        raise AdapterError(f"{file}: it is cut off, or holds more than its tensors")
    return file


def _some(names: list[str]) -> str:
    return f"{names[:5]}"[:SHOWN] if names else "none"


def file_of(folder: Path, name: str) -> Path:
    """A plain file in a folder. Raises AdapterError for one that is not there, is none, or lies elsewhere."""
    file = folder / name
    try:
        plain, inside = file.is_file(), file.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError) as error:
        raise AdapterError(f"{file}: {error}") from None
    if not plain:
        problem = "it is no plain file" if file.exists() or file.is_symlink() else "it is not there"
        raise AdapterError(f"{folder} is not an adapter: it has no {name} ({problem})")
    if not inside:
        raise AdapterError(f"{file} is a link to {file.resolve()}, out of the adapter's folder: copy the file itself")
    return file


def strict_json(raw: bytes) -> dict[str, Any]:
    """A JSON object in UTF-8, in which no key is there twice and every number is finite. ValueError or RecursionError."""
    found = json.loads(raw.decode("utf-8"), object_pairs_hook=_once, parse_constant=_finite, parse_float=_finite)
    if not isinstance(found, dict):
        raise ValueError(f"expected an object, found {type(found).__name__}")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice[:SHOWN]!r} is there twice")
    return found


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"the number {text[:SHOWN]} is not finite")
    return number
