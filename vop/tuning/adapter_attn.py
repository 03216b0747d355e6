"""Adapter^ATTN: a bottleneck in parallel to each self-attention (He et al., ICLR 2022).

1,982,976 parameters on ViT-B/32 with a bottleneck of 64. Default learning rate 0.001.
"""

from __future__ import annotations

from vop.model import RetrievalModel
from vop.tuning._bottleneck import AdapterConfig, Bottleneck

LEARNING_RATE = 1e-3
Config = AdapterConfig


def apply(model: RetrievalModel, config: AdapterConfig) -> None:
    """Register a bottleneck where `vop.block.attend` looks for one; it reads what the attention reads."""
    for block in (*model.clip.transformer.resblocks, *model.clip.visual.transformer.resblocks):
        block.attn.parallel = Bottleneck(block.attn.embed_dim, config.bottleneck)
