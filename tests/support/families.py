"""Families of CLIPs, each cut to two blocks of width 64 where that can be, with random weights and a tokenizer of their own."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import open_clip
import timm
import torch

from vop.config import BackboneConfig
from vop.model.backbone import Backbone, load_backbone

VOCABULARY, SIDE = 1000, 112
NARROW = {"embed_dim": 64, "depth": 2, "num_heads": 2, "img_size": SIDE}
DEEP = {"depth": 2, "img_size": SIDE}  # whose stem of convolutions is made for one width
# A model of each family, and how timm is to cut it; what is open_clip's own is cut by its configuration.
FAMILIES: dict[str, dict[str, Any]] = {
    "ViT-B-32": {},
    "ViT-L-14-CLIPA": {},
    "ViT-H-14-worldwide-quickgelu": {},  # MetaCLIP 2
    "ViT-B-32-SigLIP2-256": {**NARROW, "img_size": 128},
    "ViT-SO400M-16-SigLIP-i18n-256": NARROW,  # without projections
    "PE-Core-B-16": NARROW,
    "PE-Core-bigG-14-448": NARROW,  # without a class token
    "EVA01-g-14": NARROW,
    "EVA02-B-16": NARROW,
    "EVA02-E-14": NARROW,
    "MobileCLIP-B": DEEP,
    "MobileCLIP2-L-14": NARROW,
    "ViTamin-S": DEEP,
}


class Words:
    """A tokenizer: words are numbers, then the end token, then padding, as long as asked for."""

    def __init__(self, end: int, padding: int) -> None:
        self.end, self.padding = end, padding

    def __call__(self, texts: list[str], context_length: int) -> torch.Tensor:
        rows = [[3 + sum(map(ord, word)) % (VOCABULARY - 4) for word in text.split()][: context_length - 1] for text in texts]
        rows = [[*row, self.end] for row in rows]
        return torch.tensor([[*row, *[self.padding] * (context_length - len(row))] for row in rows])


def config_of(name: str, **changes: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a family's model, cut; changes: of its `text_cfg` and its `vision_cfg`."""
    config: dict[str, Any] = copy.deepcopy(open_clip.get_model_config(name))
    text, vision = config["text_cfg"], config["vision_cfg"]
    for key in ("hf_tokenizer_name", "tokenizer_kwargs"):
        text.pop(key, None)
    text |= {"width": 64, "heads": 2, "layers": 2, "vocab_size": VOCABULARY}
    if "timm_model_name" in vision:
        vision["image_size"] = FAMILIES[name]["img_size"]
    else:
        vision |= {"width": 64, "layers": 2, "head_width": 32, "image_size": SIDE, "patch_size": 28}
    config["embed_dim"] = 64 if vision.get("timm_proj") == "none" else 48
    text |= changes.get("text_cfg", {})
    vision |= changes.get("vision_cfg", {})
    return config


@contextmanager
def as_open_clip(folder: Path, name: str, config: dict[str, Any]) -> Iterator[BackboneConfig]:
    """open_clip knows a small model by the name that is given."""
    text = config["text_cfg"]
    own = f"small-{name}"
    (folder / f"{own}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    end = text.get("eos_id", 2) if text.get("pool_type") == "eos" else VOCABULARY - 1
    words = Words(end, padding=1 if text.get("pool_type") in ("eos", "last") else 0)
    small = functools.partial(timm.create_model, **FAMILIES.get(name, {}))
    with patch("timm.create_model", small), patch("open_clip.get_tokenizer", lambda name: words):
        yield BackboneConfig(name=own, pretrained="random")


def disturb(module: torch.nn.Module, std: float = 0.05) -> None:
    """Weights away from their start, where many biases are 0 and scales 1."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not name.startswith("logit_"):
                parameter += torch.randn(parameter.shape, generator=generator) * std


def family(folder: Path, name: str) -> Backbone:
    """The small model of a family."""
    with as_open_clip(folder, name, config_of(name)) as config:
        backbone = load_backbone(config)
    disturb(backbone.clip)
    return backbone
