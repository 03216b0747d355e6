"""Partial: only the last layer of each encoder is trained (Partial-1 of VPT: Jia et al., ECCV 2022).

10,240,256 parameters on ViT-B/32; the VoP paper counts 7,680,512, without the fused attention weights. Default learning rate
1e-05.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vop.config import TuningConfig
from vop.model.walkers import text_of, visual_of

if TYPE_CHECKING:
    from vop.model.retrieval import RetrievalModel

LEARNING_RATE = 1e-5


def apply(model: RetrievalModel, config: TuningConfig) -> None:
    """Unfreeze the last transformer block of the text encoder and of the visual encoder."""
    for tower in (text_of(model.clip), visual_of(model.clip)):
        tower.blocks[-1].requires_grad_(True)
