"""timm's EVA: EVA-CLIP's of both generations, PE-Core's. Rotary positions, SwiGLU, norms in places of their own."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.eva import Eva, EvaBlock, EvaBlockPostNorm
from torch import Tensor

from vop.model.block import Layer, Turn
from vop.model.walkers._timm import TimmWalker, attention_of, turn_of


class Walker(TimmWalker):
    """`timm.models.eva.Eva`."""

    towers = (Eva,)

    def embed(self, pixels_NCHW: Tensor) -> Tensor:
        """[N, L, D], before `norm_pre`."""
        return torch.as_tensor(self.tower._pos_embed(self.tower.patch_embed(pixels_NCHW))[0])

    def layer(self, block: Any, length: int) -> Layer:
        """Norms before attention and MLP or behind them, where prompts enter attention as they are."""
        attention, turn = attention_of(block.attn), self._turn(block, length)
        if isinstance(block, EvaBlockPostNorm):
            return Layer(_same, attention, block.norm1, _same, block.mlp, block.norm2, turn)
        scales = (_same if gamma is None else gamma.mul for gamma in (block.gamma_1, block.gamma_2))
        return Layer(block.norm1, attention, next(scales), block.norm2, block.mlp, next(scales), turn)

    @property
    def rotary(self) -> bool:
        """All but the first generation and the largest of the second."""
        return bool(self.tower.rope is not None)

    def _turn(self, block: Any, length: int) -> Turn | None:
        """For sequences of whole frames. Sines, then cosines of each token; a class token is not turned."""
        if not self.rotary:
            return None
        rope_M2d = self.tower.rope.get_embed()
        sines_1d, cosines_1d = torch.zeros_like(rope_M2d[:1]).chunk(2, -1)
        still_12d = torch.cat([sines_1d, cosines_1d + 1], dim=-1)
        rope_L2d = torch.cat([still_12d.expand(self.tower.num_prefix_tokens, -1), rope_M2d]).repeat(length // self.tokens, 1)
        return turn_of(rope_L2d, getattr(block.attn, "rotate_half", False))

    def known_blocks(self) -> tuple[type, ...]:
        """The classes of blocks that `run` knows."""
        return (EvaBlock, EvaBlockPostNorm)


def _same(tokens: Tensor) -> Tensor:
    return tokens
