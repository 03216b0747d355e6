"""VoP, all variants: only the prompts are trained (Huang et al., CVPR 2023; 0.1 M parameters for basic VoP)."""

from __future__ import annotations

from vop.config import TuningConfig
from vop.model import RetrievalModel

LEARNING_RATE = 1e-2


def apply(model: RetrievalModel, config: TuningConfig) -> None:
    """Unfreeze the text and video prompts with all that makes them."""
    model.text.requires_grad_(True)
    model.video.requires_grad_(True)
