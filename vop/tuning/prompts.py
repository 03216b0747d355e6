"""VoP, all variants: only the prompts are trained (Huang et al., CVPR 2023).

On ViT-B/32 122,880 parameters for VoP, 528,384 for VoP^P, 14,257,152 for VoP^C, 132,096 for VoP^F, 402,432 for VoP^F+P,
14,278,656 for VoP^F+C, 433,664 for DGL and 9,575,168 for its transformer. Default learning rate 0.01.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vop.config import TuningConfig

if TYPE_CHECKING:
    from vop.model.retrieval import RetrievalModel

LEARNING_RATE = 1e-2


def apply(model: RetrievalModel, config: TuningConfig) -> None:
    """Unfreeze the text and video prompts with all that makes them."""
    model.text.requires_grad_(True)
    model.video.requires_grad_(True)
