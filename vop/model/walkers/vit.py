"""timm's ViT: SigLIP's and SigLIP 2's, MobileCLIP's, ViTamin's. The first and the last have no class token."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from vop.model.block import take, with_beside
from vop.model.walkers._timm import TimmWalker, attended


class Walker(TimmWalker):
    """`timm.models.vision_transformer.VisionTransformer`: learned positions or none; stems of convolutions are its own."""

    towers = (VisionTransformer,)

    def embed(self, pixels_NCHW: Tensor) -> Tensor:
        """[N, L, D], before `norm_pre`."""
        return torch.as_tensor(self.tower._pos_embed(self.tower.patch_embed(pixels_NCHW)))

    def run(self, block: nn.Module, tokens_BLD: Tensor, prompts_GPD: Tensor | None = None, rows: slice = slice(None)) -> Tensor:
        """[B, R, D]."""
        assert isinstance(block, Block)
        normed_BLD = block.norm1(tokens_BLD)
        prompts_GPD = None if prompts_GPD is None else block.norm1(prompts_GPD)
        out_BRD = attended(block.attn, take(normed_BLD, rows), normed_BLD, prompts_GPD, rows)
        out_BRD = take(tokens_BLD, rows) + block.ls1(out_BRD)
        normed_BRD = block.norm2(out_BRD)
        return torch.as_tensor(out_BRD + block.ls2(with_beside(block.mlp, normed_BRD, block.mlp(normed_BRD))))

    def known_blocks(self) -> tuple[type, ...]:
        """The classes of blocks that `run` knows."""
        return (Block,)
