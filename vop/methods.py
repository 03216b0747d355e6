"""Every method that the paper compares, and LoRA: what its recipe sets, and what the paper prints of it.

Plain data, importable without torch: sweeps, reports and `vop methods` read it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SPLIT_LAYER = 8  # K_s of the paper, in the 12 layers of ViT-B

# Display name -> the dotted overrides that make it out of the default experiment.
METHODS: dict[str, dict[str, Any]] = {
    "zero-shot": {"tuning.name": "zero-shot"},
    "Full": {"tuning.name": "full"},
    "Bias": {"tuning.name": "bias"},
    "Proj": {"tuning.name": "proj"},
    "Partial": {"tuning.name": "partial"},
    "Adapter^ATTN": {"tuning.name": "adapter-attn"},
    "Adapter^FFN": {"tuning.name": "adapter-ffn"},
    "LoRA": {"tuning.name": "lora"},
    "VoP text only": {"video_prompt.length": 0},
    "VoP visual only": {"text_prompt.length": 0},
    "VoP": {"video_prompt.name": "shared"},
    "VoP^P": {"video_prompt.name": "position"},
    "VoP^C": {"video_prompt.name": "context"},
    "VoP^F": {"video_prompt.name": "shared", "video_encoder.split_layer": SPLIT_LAYER},
    "VoP^F+P": {"video_prompt.name": "position", "video_encoder.split_layer": SPLIT_LAYER},
    "VoP^F+C": {"video_prompt.name": "context", "video_encoder.split_layer": SPLIT_LAYER},
}


def overrides_of(name: str, layers: int = 12) -> dict[str, Any]:
    """A method's overrides for a visual encoder of so many layers: the split stays at two thirds of the depth."""
    overrides = dict(METHODS[name])
    if "video_encoder.split_layer" in overrides:
        overrides["video_encoder.split_layer"] = max(1, layers * SPLIT_LAYER // 12)
    return overrides


def paper_results() -> dict[str, Any]:
    """What the paper reports (`paper_results.json`): benchmark -> `paper_key` of a method -> its numbers."""
    results: dict[str, Any] = json.loads((Path(__file__).parent / "paper_results.json").read_text(encoding="utf-8"))
    return results


def paper_key(name: str) -> str:
    """The name of a method in `paper_results.json`: "VoP^F+P" -> "vop-f+p"."""
    return name.lower().replace("^", "-").replace(" ", "-")
