"""Adapter^FFN: a bottleneck in parallel to each feed-forward network (He et al., ICLR 2022).

1,982,976 parameters on ViT-B/32 with a bottleneck of 64. Default learning rate 0.001.
"""

from __future__ import annotations

from torch import Tensor, nn

from vop.model import RetrievalModel
from vop.tuning._bottleneck import AdapterConfig, Bottleneck

LEARNING_RATE = 1e-3
Config = AdapterConfig


class ParallelFeedForward(nn.Module):
    """CLIP's feed-forward network with an adapter beside it; CLIP's own weights keep their names."""

    def __init__(self, mlp: nn.Sequential, adapter: Bottleneck):
        super().__init__()
        self.c_fc, self.gelu, self.c_proj = mlp
        self.parallel = adapter

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        out_BLD: Tensor = self.c_proj(self.gelu(self.c_fc(tokens_BLD))) + self.parallel(tokens_BLD)
        return out_BLD


def apply(model: RetrievalModel, config: AdapterConfig) -> None:
    """Put a bottleneck beside each layer's feed-forward network; it reads what the network reads."""
    for block in (*model.clip.transformer.resblocks, *model.clip.visual.transformer.resblocks):
        block.mlp = ParallelFeedForward(block.mlp, Bottleneck(block.attn.embed_dim, config.bottleneck))
