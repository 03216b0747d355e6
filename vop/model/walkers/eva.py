"""timm's EVA: EVA-CLIP's of both generations, PE-Core's. Rotary positions, SwiGLU, norms in places of their own."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.eva import Eva, EvaBlock, EvaBlockPostNorm
from torch import Tensor, nn

from vop.model.block import take, with_beside
from vop.model.walkers._timm import TimmWalker, attended


class Walker(TimmWalker):
    """`timm.models.eva.Eva`."""

    towers = (Eva,)

    def embed(self, pixels_NCHW: Tensor) -> Tensor:
        """[N, L, D], before `norm_pre`."""
        return torch.as_tensor(self.tower._pos_embed(self.tower.patch_embed(pixels_NCHW))[0])

    def run(self, block: nn.Module, tokens_BLD: Tensor, prompts_GPD: Tensor | None = None, rows: slice = slice(None)) -> Tensor:
        """[B, R, D]."""
        rope_L2d = self._rope(tokens_BLD.shape[1] // self.tokens)
        step = _post_norm if isinstance(block, EvaBlockPostNorm) else _pre_norm
        return step(block, tokens_BLD, prompts_GPD, rows, rope_L2d)

    def _rope(self, frames: int) -> Tensor | None:
        """Sines, then cosines of each token of so many frames in a row [frames * L, 2d]; a class token is not turned."""
        if self.tower.rope is None:
            return None
        rope_M2d = self.tower.rope.get_embed()
        sines_1d, cosines_1d = torch.zeros_like(rope_M2d[:1]).chunk(2, -1)
        still_12d = torch.cat([sines_1d, cosines_1d + 1], dim=-1)
        return torch.cat([still_12d.expand(self.tower.num_prefix_tokens, -1), rope_M2d]).repeat(frames, 1)

    def known_blocks(self) -> tuple[type, ...]:
        """The classes of blocks that `run` knows."""
        return (EvaBlock, EvaBlockPostNorm)


def _pre_norm(block: Any, tokens_BLD: Tensor, prompts_GPD: Tensor | None, rows: slice, rope_L2d: Tensor | None) -> Tensor:
    normed_BLD = block.norm1(tokens_BLD)
    prompts_GPD = None if prompts_GPD is None else block.norm1(prompts_GPD)
    out_BRD = attended(block.attn, take(normed_BLD, rows), normed_BLD, prompts_GPD, rows, rope_L2d)
    out_BRD = take(tokens_BLD, rows) + (out_BRD if block.gamma_1 is None else block.gamma_1 * out_BRD)
    normed_BRD = block.norm2(out_BRD)
    more_BRD = with_beside(block.mlp, normed_BRD, block.mlp(normed_BRD))
    return out_BRD + (more_BRD if block.gamma_2 is None else block.gamma_2 * more_BRD)


def _post_norm(block: Any, tokens_BLD: Tensor, prompts_GPD: Tensor | None, rows: slice, rope_L2d: Tensor | None) -> Tensor:
    """What attention and feed-forward network give is normed, and not what they read: prompts enter as they are."""
    query_BRD = take(tokens_BLD, rows)
    out_BRD = query_BRD + block.norm1(attended(block.attn, query_BRD, tokens_BLD, prompts_GPD, rows, rope_L2d))
    return torch.as_tensor(out_BRD + block.norm2(with_beside(block.mlp, out_BRD, block.mlp(out_BRD))))
