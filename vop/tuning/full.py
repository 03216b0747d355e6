"""Full: the whole CLIP is trained, its logit scale included; the only protocol that trains the scale.

151,277,313 parameters on ViT-B/32; the VoP paper (CVPR 2023) counts 119,826,432, without bare tensors. Default learning rate
1e-06.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vop.config import TuningConfig

if TYPE_CHECKING:
    from vop.model.retrieval import RetrievalModel

LEARNING_RATE = 1e-6


def apply(model: RetrievalModel, config: TuningConfig) -> None:
    """Unfreeze every parameter of CLIP, but the bias that a sigmoid loss adds to all logits."""
    for name, parameter in model.clip.named_parameters():
        parameter.requires_grad_(name != "logit_bias")
