"""Bias: only the biases are trained (BitFit: Ben Zaken et al., ACL 2022).

171,008 parameters on ViT-B/32; the VoP paper counts 124,928, without the fused query, key and value biases. Default learning
rate 0.0001.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vop.config import TuningConfig

if TYPE_CHECKING:
    from vop.model.retrieval import RetrievalModel

LEARNING_RATE = 1e-4


def apply(model: RetrievalModel, config: TuningConfig) -> None:
    """Unfreeze every bias of CLIP: of its linear layers, layer norms and attentions."""
    for name, parameter in model.clip.named_parameters():
        if name.endswith("bias") and name != "logit_bias":  # which belongs to the loss
            parameter.requires_grad_(True)
