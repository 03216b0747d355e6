"""What the walkers of timm's towers share: their attention with prompts, and with rotary positions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from timm.layers import GluMlp, LayerNorm, Mlp, SwiGLU, apply_rot_embed_cat
from timm.layers import attention as timm_attention
from timm.models.eva import EvaAttention
from timm.models.vitamin import GeGluMlp
from torch import Tensor, nn

from vop.model.block import Attention, Turn
from vop.model.walkers import VisualWalker, other_than

ATTENTIONS = (timm_attention.Attention, timm_attention.AttentionRope, EvaAttention)
MLPS = (Mlp, SwiGLU, GluMlp, GeGluMlp)
NORMS = (LayerNorm, nn.LayerNorm, nn.Identity)


class TimmWalker(VisualWalker):
    """A tower of timm in open_clip's `TimmModel`: its own patches, positions and pooling around blocks that are walked."""

    @property
    def blocks(self) -> Sequence[Any]:
        """The layers, from the input on."""
        blocks: Sequence[Any] = self.tower.blocks
        return blocks

    @property
    def width(self) -> int:
        """D, of the tokens."""
        return int(self.tower.embed_dim)

    @property
    def tokens(self) -> int:
        """L: class token, if there is one, and patches."""
        return int(self.tower.patch_embed.num_patches + self.tower.num_prefix_tokens)

    @property
    def stem(self) -> Iterable[nn.Module | Tensor | None]:
        """What lies below the first layer."""
        tower = self.tower
        return tower.patch_embed, tower.norm_pre, tower.cls_token, tower.pos_embed, tower.reg_token

    @property
    def class_token(self) -> bool:
        """SigLIP, ViTamin and the largest PE-Core have none."""
        return bool(self.tower.num_prefix_tokens)

    @property
    def projection(self) -> nn.Module | None:
        """A linear layer of the tower or of what is around it; SigLIP has none."""
        linear = [part for part in (self.tower.head, *self.holder.head.children()) if isinstance(part, nn.Linear)]
        return linear[-1] if linear else None

    def enter(self, tokens: Tensor) -> Tensor:
        """`norm_pre`, mostly nothing."""
        return torch.as_tensor(self.tower.norm_pre(tokens))

    @property
    def reads_class_token(self) -> bool:
        """Where the tower pools by it."""
        return bool(self.tower.global_pool == "token")

    def pool(self, tokens_NRD: Tensor) -> Tensor:
        """The tower's own: a norm, the class token, the mean or attention with one query, a norm, the projection."""
        tower = self.tower
        return torch.as_tensor(self.holder.head(tower.forward_head(tower.norm(tokens_NRD))))

    def activation(self, block: Any) -> nn.Module:
        """Of a block's feed-forward network."""
        activation: nn.Module = block.mlp.act
        return activation

    def attention_weights(self, block: Any) -> list[tuple[nn.Module, str, str]]:
        """One weight for all three, or three."""
        attn = block.attn
        if attn.qkv is not None:
            return [(attn.qkv, "weight", "qkv")]
        return [(attn.q_proj, "weight", "q"), (attn.k_proj, "weight", "k"), (attn.v_proj, "weight", "v")]

    def attention_biases(self, block: Any) -> list[tuple[nn.Module, str, str]]:
        """One bias for all three, or one of each but the keys of EVA."""
        attn = block.attn
        if attn.qkv is not None:
            biases = [(attn.qkv, "bias", "qkv"), (attn, "q_bias", "q"), (attn, "v_bias", "v")]
        else:
            biases = [(attn.q_proj, "bias", "q"), (attn.k_proj, "bias", "k"), (attn.v_proj, "bias", "v")]
        return [bias for bias in biases if getattr(bias[0], bias[1], None) is not None]

    def known_blocks(self) -> tuple[type, ...]:
        """The classes of blocks that `run` knows."""
        raise NotImplementedError

    def refusal(self) -> str:
        """Why the tower cannot be walked; "" if it can."""
        parts = [
            other_than(self.blocks, self.known_blocks()),
            other_than((block.attn for block in self.blocks), ATTENTIONS),
            other_than((block.mlp for block in self.blocks), MLPS),
            other_than((norm for block in self.blocks for norm in (block.norm1, block.norm2)), NORMS),
        ]
        if unknown := next(filter(None, parts), ""):
            return f"its layers have {unknown}, which is not known here"
        own, said = self.tower.patch_embed.img_size, self.holder.image_size
        if own != said:
            return f"its configuration says {said[0]} pixels, its visual tower takes {own[0]}"
        if any(getattr(block.attn, "gate", None) is not None for block in self.blocks):
            return "its attention has a gate, which is not known here"
        if getattr(self.tower, "rope_mixed", False) or any(getattr(b.attn, "num_kv_groups", 1) > 1 for b in self.blocks):
            return "its attention has positions of its own in each layer or shares keys among heads, which is not known here"
        return ""


def attention_of(attn: Any) -> Attention:
    """Of timm's attentions, whose weights are fused or apart."""
    norms = (attn.q_norm, attn.k_norm, attn.norm)
    if attn.qkv is None:
        parts = (attn.q_proj, attn.k_proj, attn.v_proj)
        weight = torch.cat([part.weight for part in parts])
        biases = [torch.zeros_like(part.weight[:, 0]) if part.bias is None else part.bias for part in parts]
        return Attention(weight, torch.cat(biases), attn.proj, attn.num_heads, *norms)
    bias = attn.qkv.bias
    if getattr(attn, "q_bias", None) is not None:  # EVA's keys have none
        bias = torch.cat([attn.q_bias, torch.zeros_like(attn.q_bias), attn.v_bias])
    return Attention(attn.qkv.weight, bias, attn.proj, attn.num_heads, *norms)


def turn_of(rope_L2d: Tensor, half: bool) -> Turn:
    """What rotary positions do. rope: sines and cosines of each token; prompts have no place in the picture, nor a turn."""

    def turn(query_BHRd: Tensor, key_BHSd: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        L = len(rope_L2d)
        prompt_BHPd, token_BHLd = key_BHSd[:, :, :-L], key_BHSd[:, :, -L:]
        turned = apply_rot_embed_cat(token_BHLd, rope_L2d, half=half)
        return apply_rot_embed_cat(query_BHRd, rope_L2d[rows], half=half), torch.cat([prompt_BHPd, turned], dim=2)

    return turn
