"""Two tiny CLIPs with random weights, what goes into them, and what a slow reference must be met by."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import open_clip
import torch
from torch import Tensor

from vop.config import BackboneConfig
from vop.model.backbone import Backbone, load_backbone
from vop.model.loss import contrastive_loss
from vop.model.retrieval import RetrievalModel

TINY = {
    "tiny-even": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 4, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 24, "vocab_size": 100, "width": 32, "heads": 2, "layers": 4},
    },
    "tiny-odd": {
        "embed_dim": 20,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 48, "layers": 5, "width": 48, "head_width": 16, "patch_size": 12},
        "text_cfg": {"context_length": 16, "vocab_size": 100, "width": 24, "heads": 3, "layers": 3},
    },
}
START, END = 98, 99  # of the tiny vocabulary
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def tiny_clip(name: str, folder: Path) -> Backbone:
    """A tiny random CLIP, away from its initial values: there most biases are 0 and most scales 1."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(TINY[name]))
    open_clip.add_model_config(path)
    backbone = load_backbone(BackboneConfig(name=name, pretrained="random"))
    disturb(p for key, p in backbone.clip.named_parameters() if key != "logit_scale")
    return backbone


def disturb(parameters: Iterable[Tensor], std: float = 0.1) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in parameters:
            parameter += torch.randn(parameter.shape, generator=generator) * std


def random_videos(model: RetrievalModel, count: int, frames: int = 3) -> Tensor:
    size = model.backbone.size
    return torch.randint(0, 256, (count, frames, size, size, 3), dtype=torch.uint8)


def random_captions(model: RetrievalModel, lengths: list[int]) -> Tensor:
    """Captions of so many tokens, both ends included; 0 stands for as many as fit."""
    room = model.backbone.context_length - model.text.shift
    tokens = torch.zeros(len(lengths), room, dtype=torch.int64)
    for row, length in zip(tokens, lengths, strict=True):
        length = length or room
        row[:length] = torch.tensor([START, *torch.randint(1, START, (length - 2,)).tolist(), END])
    return tokens


def assert_meets(model: RetrievalModel, found: tuple[Tensor, Tensor], slow: tuple[Tensor, Tensor]) -> None:
    """Texts and videos are those of the slow reference, and so are the gradients of a loss in all that is trained."""
    for rows, expected in zip(found, slow, strict=True):
        torch.testing.assert_close(rows.double(), expected, atol=1e-5, rtol=0)
    trainable = model.trainable()
    of_found, of_slow = (
        torch.autograd.grad(contrastive_loss(text @ video.T * 10), list(trainable.values())) for text, video in (found, slow)
    )
    for name, gradient, expected in zip(trainable, of_found, of_slow, strict=True):
        assert expected.norm() > 1e-6, f"{name} has no part in the result"
        assert (gradient - expected).norm() <= 1e-4 * expected.norm(), name
