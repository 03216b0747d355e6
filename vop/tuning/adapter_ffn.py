"""Adapter^FFN: a bottleneck in parallel to each feed-forward network (He et al., ICLR 2022).

1,982,976 parameters on ViT-B/32 with a bottleneck of 64. Default learning rate 0.001.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vop.model.block import put_beside
from vop.model.walkers import text_of, visual_of
from vop.tuning._bottleneck import AdapterConfig, Bottleneck

if TYPE_CHECKING:
    from vop.model.retrieval import RetrievalModel

LEARNING_RATE = 1e-3
Config = AdapterConfig


def apply(model: RetrievalModel, config: AdapterConfig) -> None:
    """Put a bottleneck beside each layer's feed-forward network."""
    for tower in (text_of(model.clip), visual_of(model.clip)):
        for block in tower.blocks:
            put_beside(block.mlp, Bottleneck(tower.width, config.bottleneck))
