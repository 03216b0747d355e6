"""timm's ViT: SigLIP's and SigLIP 2's, MobileCLIP's, ViTamin's. The first and the last have no class token."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor

from vop.model.block import Layer
from vop.model.walkers._timm import TimmWalker, attention_of


class Walker(TimmWalker):
    """`timm.models.vision_transformer.VisionTransformer`: learned positions or none; stems of convolutions are its own."""

    towers = (VisionTransformer,)

    def embed(self, pixels_NCHW: Tensor) -> Tensor:
        """[N, L, D], before `norm_pre`."""
        return torch.as_tensor(self.tower._pos_embed(self.tower.patch_embed(pixels_NCHW)))

    def layer(self, block: Any, length: int) -> Layer:
        """Norms before attention and MLP, scales or nothing behind."""
        return Layer(block.norm1, attention_of(block.attn), block.ls1, block.norm2, block.mlp, block.ls2)

    def known_blocks(self) -> tuple[type, ...]:
        """The classes of blocks that `run` knows."""
        return (Block,)
