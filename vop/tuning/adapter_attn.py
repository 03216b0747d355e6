"""Adapter^ATTN: a bottleneck in parallel to each self-attention (He et al., ICLR 2022).

1,982,976 parameters on ViT-B/32 with a bottleneck of 64. Default learning rate 0.001.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from vop.model.part import Context
from vop.model.walkers import text_of, visual_of
from vop.tuning._bottleneck import AdapterConfig, Bottleneck

if TYPE_CHECKING:
    from vop.model.retrieval import RetrievalModel

LEARNING_RATE = 1e-3
Config = AdapterConfig


class Beside(Bottleneck):
    """It reads what the attention reads."""

    def after_attention(self, read_BRD: Tensor, out_BRD: Tensor, context: Context) -> Tensor:
        """[B, R, D]."""
        return out_BRD + self.forward(read_BRD)


def apply(model: RetrievalModel, config: AdapterConfig) -> None:
    """Put a bottleneck beside each layer's attention."""
    for tower in (text_of(model.clip), visual_of(model.clip)):
        for block in tower.blocks:
            block.attn.add_module("parallel", Beside(tower.width, config.bottleneck))
