"""open_clip's text transformer, alone or as a part of `CLIP`: CLIP's, SigLIP's, CLIPA's, MetaCLIP 2's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import open_clip
import torch
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from vop.config import ConfigError
from vop.model.walkers.clip import blocks_refusal


class Walker:
    """tower: a `TextTransformer`, or a `CLIP`, which holds the parts of one.

    causal: whether a place sees none after it. pool: the place that is read: of the highest id ("argmax"), of the end token
    ("eos"), or the last one ("last").
    """

    towers = (open_clip.CLIP, TextTransformer)

    def __init__(self, tower: nn.Module) -> None:
        self.tower: Any = tower
        whole = isinstance(tower, open_clip.CLIP)
        self.causal = self.tower.attn_mask is not None
        self.pool = str(getattr(tower, "text_pool_type" if whole else "pool_type"))
        self.eos: int = getattr(tower, "text_eos_id" if whole else "eos_id")

    @property
    def blocks(self) -> Sequence[Any]:
        """The layers, from the input on."""
        blocks: Sequence[Any] = self.tower.transformer.resblocks
        return blocks

    @property
    def width(self) -> int:
        """D, of the tokens."""
        return int(self.tower.token_embedding.embedding_dim)

    @property
    def positions(self) -> Tensor:
        """[T, D] of the whole context."""
        return torch.as_tensor(self.tower.positional_embedding)

    @property
    def projection(self) -> nn.Module | Tensor | None:
        """What maps a token into the joint space: a matrix [D, E], a linear layer, or nothing."""
        found: nn.Module | Tensor | None = self.tower.text_projection
        return found

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """Token ids -> [B, T, D], without positions."""
        return torch.as_tensor(self.tower.token_embedding(tokens_BT))

    def end(self, tokens_BT: Tensor) -> Tensor:
        """The place that is read of each text: [B]."""
        if self.pool == "last":
            return torch.full_like(tokens_BT[:, 0], tokens_BT.shape[1] - 1)
        if self.pool == "eos":
            return (tokens_BT == self.eos).int().argmax(dim=1)
        return tokens_BT.argmax(dim=1)  # the end token has the highest id

    def check(self, tokens_BT: Tensor) -> None:
        """Raise ConfigError for a text without the end token that is read: its start would be read instead."""
        if self.pool == "eos" and not bool((tokens_BT == self.eos).any(dim=1).all()):
            raise ConfigError(f"backbone.name: the tokenizer ends texts otherwise than with the token {self.eos} that is read")

    def project(self, hidden: Tensor) -> Tensor:
        """What leaves the last layer [..., D] -> the joint space [..., E]."""
        normed, projection = self.tower.ln_final(hidden), self.projection
        if isinstance(projection, nn.Module):
            return torch.as_tensor(projection(normed))
        return torch.as_tensor(normed if projection is None else normed @ projection)

    def activation(self, block: Any) -> nn.Module:
        """Of a block's feed-forward network."""
        activation: nn.Module = block.mlp.gelu
        return activation

    def attention_weights(self, block: Any) -> list[tuple[nn.Module, str, str]]:
        """One weight for all three."""
        return [(block.attn, "in_proj_weight", "qkv")]

    def attention_biases(self, block: Any) -> list[tuple[nn.Module, str, str]]:
        """One bias for all three."""
        return [(block.attn, "in_proj_bias", "qkv")]

    def refusal(self) -> str:
        """Why the tower cannot be walked; "" if it can."""
        if len(self.positions) != self.tower.context_length or getattr(self.tower, "use_pad_mask", False):
            return "its text tower has a class token or masks its padding"
        if self.pool not in ("argmax", "eos") and (self.causal or self.pool != "last"):
            return f"its text tower does not read its end-of-text token (pool_type {self.pool})"
        return blocks_refusal(self.blocks)
