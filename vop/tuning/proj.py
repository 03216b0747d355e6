"""Proj: only the final projections into the joint space are trained (a baseline of VoP: Huang et al., CVPR 2023).

655,360 parameters on ViT-B/32. Default learning rate 0.0001.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vop.config import ConfigError, TuningConfig
from vop.model.walkers import text_of, visual_of

if TYPE_CHECKING:
    from vop.model.retrieval import RetrievalModel

LEARNING_RATE = 1e-4


def apply(model: RetrievalModel, config: TuningConfig) -> None:
    """Unfreeze the text projection and the visual projection; SigLIP has the former alone."""
    found = [tower.projection for tower in (text_of(model.clip), visual_of(model.clip))]
    if found == [None, None]:
        raise ConfigError("tuning.name: proj: neither encoder of this CLIP ends in a projection")
    for projection in found:
        if projection is not None:
            projection.requires_grad_(True)
