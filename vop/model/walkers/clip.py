"""open_clip's own ViT: OpenAI's, LAION's, DataComp's, MetaCLIP's; CLIPA's, which pools its patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from open_clip.transformer import (
    Attention,
    CustomResidualAttentionBlock,
    LayerNorm,
    LayerNormFp32,
    QuickGELU,
    ResidualAttentionBlock,
    VisionTransformer,
)
from torch import Tensor, nn

from vop.model.block import Layer, layer_of
from vop.model.walkers import VisualWalker, other_than

NORMS = (LayerNorm, LayerNormFp32, nn.Identity)


class Walker(VisualWalker):
    """`open_clip.transformer.VisionTransformer`: class token, learned positions, a norm before the blocks or none."""

    towers = (VisionTransformer,)

    @property
    def blocks(self) -> Sequence[Any]:
        """The layers, from the input on."""
        blocks: Sequence[Any] = self.tower.transformer.resblocks
        return blocks

    @property
    def width(self) -> int:
        """D, of the tokens."""
        return int(self.tower.conv1.out_channels)

    @property
    def tokens(self) -> int:
        """L: class token and patches."""
        return len(self.tower.positional_embedding)

    @property
    def stem(self) -> tuple[nn.Module | Tensor, ...]:
        """What lies below the first layer."""
        tower = self.tower
        return tower.conv1, tower.ln_pre, tower.class_embedding, tower.positional_embedding

    @property
    def projection(self) -> Tensor:
        """[D, E]."""
        return torch.as_tensor(self.tower.proj)

    def embed(self, pixels_NCHW: Tensor) -> Tensor:
        """Class token and patches with their positional embeddings, before `ln_pre`: [N, L, D]."""
        patches_NMD = self.tower.conv1(pixels_NCHW).flatten(2).transpose(1, 2)
        cls_ND = self.tower.class_embedding.expand(patches_NMD.shape[0], 1, -1)
        tokens_NLD: Tensor = torch.cat([cls_ND, patches_NMD], dim=1) + self.tower.positional_embedding
        return tokens_NLD

    def enter(self, tokens: Tensor) -> Tensor:
        """`ln_pre`."""
        return torch.as_tensor(self.tower.ln_pre(tokens))

    def layer(self, block: Any, length: int) -> Layer:
        """open_clip's."""
        return layer_of(block)

    @property
    def reads_class_token(self) -> bool:
        """All but CLIPA's do."""
        return bool(self.tower.pool_type == "tok")

    def pool(self, tokens_NRD: Tensor) -> Tensor:
        """The class token, or the mean of the patches, normed before or after that."""
        tower = self.tower
        if self.reads_class_token:
            pooled_ND = tower.ln_post(tokens_NRD[:, 0])
        elif tower.final_ln_after_pool:
            pooled_ND = tower.ln_post(tokens_NRD[:, 1:].mean(1))
        else:
            pooled_ND = tower.ln_post(tokens_NRD)[:, 1:].mean(1)
        return torch.as_tensor(pooled_ND @ tower.proj)

    def activation(self, block: Any) -> nn.Module:
        """Of a block's feed-forward network."""
        return _activation(block)

    def attention_weights(self, block: Any) -> list[tuple[nn.Module, str, str]]:
        """One weight for all three."""
        return [(block.attn, "in_proj_weight", "qkv")]

    def attention_biases(self, block: Any) -> list[tuple[nn.Module, str, str]]:
        """One bias for all three."""
        return [(block.attn, "in_proj_bias", "qkv")]

    def refusal(self) -> str:
        """Why the tower cannot be walked; "" if it can."""
        if self.tower.attn_pool is not None or self.tower.pool_type not in ("tok", "avg"):
            return "its visual tower reads neither its class token nor the mean of its patches"
        return blocks_refusal(self.blocks)


def _activation(block: Any) -> nn.Module:
    activation: nn.Module = block.mlp.gelu
    return activation


def blocks_refusal(blocks: Sequence[Any]) -> str:
    """Why open_clip's blocks cannot be walked by `run_block`; "" if they can."""
    parts = [part for block in blocks for part in (block, block.attn, block.mlp)]
    known = (ResidualAttentionBlock, CustomResidualAttentionBlock, nn.MultiheadAttention, Attention, nn.Sequential)
    norms = [norm for block in blocks for norm in (block.ln_1, block.ln_2)]
    unknown = other_than(parts, known) or other_than(norms, NORMS)
    unknown = unknown or other_than((_activation(block) for block in blocks), (nn.GELU, QuickGELU))
    if unknown:
        return f"its layers have {unknown}, which is not known here"
    own = [block.attn for block in blocks if isinstance(block.attn, Attention)]
    if any(attn.logit_scale is not None or attn.head_scale is not None for attn in own):
        return "its attention is scaled (scaled_cosine_attn, scale_heads), which is not known here"
    return ""
