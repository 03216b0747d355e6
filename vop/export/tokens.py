"""open_clip's own tokenizer as the `tokenizer.json` that the library `tokenizers` reads, which needs no torch."""

from __future__ import annotations

from typing import Any

from vop.model.backbone import Backbone


def tokenizer_json(backbone: Backbone, length: int) -> dict[str, Any] | None:
    """The tokenizer of a backbone for texts of so many tokens, padded to them; None for one that is not open_clip's own."""
    return None
