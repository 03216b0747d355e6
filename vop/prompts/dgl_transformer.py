"""DGL with prompts that a transformer makes, others for each frame, as its published numbers are (Yang et al., AAAI 2024).

9,575,168 parameters with 4 prompts in each layer of ViT-B/32 and 12 frames. In each layer the prompts of a text and those of
all frames are one sequence through a block that all layers share. A text has as many rows there again, published as prompts
behind it: where attention is causal they change that sequence alone, so they are only there. Frames of padding are not seen.
Published learning rate: 0.002.
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from torch import Tensor, nn

from vop.prompts import TextShape
from vop.prompts.dgl import Config as DGLConfig
from vop.prompts.dgl import Prompts as DGLPrompts

HEAD_WIDTH = 64


class Config(DGLConfig):
    """Options of DGL's transformer."""


class Prompts(DGLPrompts):
    """A table of rows by layer: twice a text's prompts, then each frame's; a block, and two layers to the width of texts."""

    def __init__(self, config: Config, layers: int, frames: int, width: int, text: TextShape):
        super().__init__(config, layers, frames, width, text)
        rows = 2 * text.length + (config.length * frames if layers else 0)
        heads = next(heads for heads in range(max(1, width // HEAD_WIDTH), 0, -1) if width % heads == 0)
        self.generic = nn.Parameter(torch.randn(max(layers, text.layers), rows, width))
        self.block: Any = ResidualAttentionBlock(width, heads, act_layer=QuickGELU)
        if text.layers:
            self.project = nn.Sequential(nn.Linear(width, 2 * width), QuickGELU(), nn.Linear(2 * width, text.width))

    def forward(self, index: int, cls_BFD: Tensor) -> Tensor:
        """[F, P, D]."""
        return torch.as_tensor(self._made(index)[2 * self.text_length :].unflatten(0, (-1, self.length)))

    def of_text(self, index: int) -> Tensor:
        """[1, P, D] of the text tower."""
        assert self.project is not None
        return torch.as_tensor(self.project(self._made(index)[: self.text_length])).unsqueeze(0)

    def _made(self, index: int) -> Tensor:
        """What the block makes of a layer's rows [rows, D]."""
        return torch.as_tensor(self.block(self.generic[index].unsqueeze(0))).squeeze(0)
