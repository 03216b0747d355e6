"""Every method that the paper compares, others since, and VoP with other heads: what each sets, and what the paper prints.

Plain data, importable without torch: sweeps, reports and `vop methods` read it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
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
    "IA3": {"tuning.name": "ia3"},
    "ST-Adapter": {"tuning.name": "st-adapter"},
    "Cross-Modal Adapter": {"tuning.name": "cross-modal"},
    "MV-Adapter": {"tuning.name": "mv-adapter"},
    "TempMe": {"tuning.name": "tempme"},
    "DiscoVLA": {"tuning.name": "discovla", "head.name": "discovla"},
    "VoP text only": {"video_prompt.length": 0},
    "VoP visual only": {"text_prompt.length": 0},
    "VoP": {"video_prompt.name": "shared"},
    "VoP^P": {"video_prompt.name": "position"},
    "VoP^C": {"video_prompt.name": "context"},
    "VoP^F": {"video_prompt.name": "shared", "video_encoder.split_layer": SPLIT_LAYER},
    "VoP^F+P": {"video_prompt.name": "position", "video_encoder.split_layer": SPLIT_LAYER},
    "VoP^F+C": {"video_prompt.name": "context", "video_encoder.split_layer": SPLIT_LAYER},
    "DGL": {"video_prompt.name": "dgl", "video_prompt.length": 4, "text_prompt.length": 4},
    "DGL transformer": {"video_prompt.name": "dgl-transformer", "video_prompt.length": 4, "text_prompt.length": 4},
    # On VoP; `head.name` goes with every other method too.
    "X-Pool": {"head.name": "xpool"},
    "WTI": {"head.name": "wti"},
    "seqTransf": {"head.name": "seqtransf"},
    "seqTransf+WTI": {"head.name": "seqtransf+wti"},
    "seqLSTM": {"head.name": "seqlstm"},
}


# Those that learn from any benchmark: DiscoVLA needs captions of frames.
ANYWHERE = [name for name in METHODS if name != "DiscoVLA"]
VOP = {"text_prompt.length": 8, "video_prompt.length": 8, "video_prompt.name": "shared"}


def overrides_of(name: str, layers: int = 12) -> dict[str, Any]:
    """A method's overrides for a visual encoder of so many layers: the split stays at two thirds of the depth."""
    overrides = dict(METHODS[name])
    if "video_encoder.split_layer" in overrides:
        overrides["video_encoder.split_layer"] = max(1, layers * SPLIT_LAYER // 12)
    return overrides


def method_of(flat: Mapping[str, Any]) -> str:
    """The method that an experiment (its flat keys) trains, whatever its lengths and layers; "" for none of METHODS."""
    tuning, head = flat["tuning.name"], flat.get("head.name", "mean")
    if tuning != "prompts" or head != "mean":
        vop = tuning != "prompts" or _kind(flat) == _kind(VOP)
        return next((name for name, own in METHODS.items() if vop and _parts(own) == (tuning, head)), "")
    found = _kind(flat)
    plain = {name: own for name, own in METHODS.items() if not own.keys() & {"tuning.name", "head.name"}}
    return next((name for name, own in plain.items() if _kind({**VOP, **own}) == found), "")


def _parts(own: Mapping[str, Any]) -> tuple[str, str]:
    """Tuning protocol and head of a row."""
    return own.get("tuning.name", "prompts"), own.get("head.name", "mean")


def _kind(flat: Mapping[str, Any]) -> tuple[bool, bool, str, bool]:
    """Whether text and video have prompts; the kind of the video's, and whether there is a split."""
    text, video = bool(flat["text_prompt.length"]), bool(flat["video_prompt.length"])
    split = flat.get("video_encoder.split_layer") is not None
    return text, video, flat["video_prompt.name"] if video else "", split and video


@cache
def paper_results() -> dict[str, Any]:
    """What the paper reports (`results.json`): benchmark -> `paper_key` of a method -> its numbers."""
    results: dict[str, Any] = json.loads((Path(__file__).parent / "results.json").read_text(encoding="utf-8"))
    return results


def paper_key(name: str) -> str:
    """The name of a method in `results.json`: "VoP^F+P" -> "vop-f+p"."""
    return name.lower().replace("^", "-").replace(" ", "-")


def paper_value(benchmark: str, name: str, direction: str = "t2v", metric: str = "R@1") -> float | None:
    """The paper's number for a method (a name of METHODS, or a key of `results.json`); None if it has none."""
    rows = paper_results().get(benchmark, {})
    row = rows.get(name) or rows.get(paper_key(name)) or {}
    found: float | None = row.get(direction, {}).get(metric)
    return found
