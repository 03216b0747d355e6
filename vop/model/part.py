"""What a method adds to the blocks of a tower: a `Part` at each place of a block where it does something.

    tokens -> enter -> norm -> attention (key_bias) -> after_attention -> + -> between -> norm -> MLP -> after_mlp -> +

Only walkers know of parts, a block's own forward does not.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn


@dataclass
class Context:
    """Where a part works, and on what. Each block gets a copy: what a part sets, the blocks above see.

    layer: from 0. frames: F of a video and of the captions of its frames, 1 of a text. tokens: L of a frame, as it enters the
    tower. class_token: whether a frame's first token stands for it. mask_BF: False where a frame is padding; None: no frame is.
    ends_B: of captions of frames, a video's in a row, where each ends; None for texts that stand alone.
    across: for `after_attention` alone, the block's attention of queries [V, Q, D] of V videos over the tokens of all sequences
    of each, prompts left out: [V, Q, D]. Its mask is True where a query may look, broadcastable to [V, heads, Q, F * L]. It
    knows no rotary positions.
    joined: how many frames a sequence has by now, for what merges tokens: its class tokens come first then.
    sizes_BL1: how many tokens each of them stands for; None: one each.
    """

    tower: Literal["text", "visual"]
    frames: int = 1
    tokens: int = 0
    class_token: bool = True
    mask_BF: Tensor | None = None
    layer: int = 0
    joined: int = 1
    sizes_BL1: Tensor | None = None
    ends_B: Tensor | None = None
    across: Callable[[Tensor, Tensor | None], Tensor] | None = None

    def at(self, layer: int) -> Context:
        """The same in another layer."""
        found = copy.copy(self)
        found.layer = layer
        return found


class Part(nn.Module):
    """A module of a block. Each of these methods leaves alone what it is given; a method of yours redefines one or two.

    R of a sequence's L rows are computed, which is fewer than L in the last layer, where only some are read; there they are the
    class tokens, or the end of a text. Prompts are never among them. every_row: the part needs all L there too.
    by_frame: it takes [frames of a video, L] apart, so no tokens may have been merged. merges: it changes L.
    """

    every_row: ClassVar[bool] = False
    by_frame: ClassVar[bool] = False
    merges: ClassVar[bool] = False

    def enter(self, tokens_BLD: Tensor, context: Context) -> Tensor:
        """What enters the block instead: [B, L, D], or another B and L."""
        return tokens_BLD

    def key_bias(self, context: Context) -> Tensor | None:
        """What is added to the attention's logits of each key [B, L], the same for all queries and heads."""
        return None

    def after_attention(self, read_BRD: Tensor, out_BRD: Tensor, context: Context) -> Tensor:
        """What the attention gives instead of `out`, before it is added to the tokens. read: what its queries are made of."""
        return out_BRD

    def between(self, tokens_BRD: Tensor, keys_BHLd: Tensor, context: Context) -> Tensor:
        """What goes on to the MLP: [B, R, D], or fewer rows. keys: the attention's, of each head, prompts left out."""
        return tokens_BRD

    def after_mlp(self, read_BRD: Tensor, out_BRD: Tensor, context: Context) -> Tensor:
        """What the MLP gives instead of `out`, before it is added to the tokens. read: what it has read, after the norm."""
        return out_BRD


def parts_of(block: Any) -> list[Part]:
    """The parts of a block, of its attention and of its MLP, in the order in which they were added."""
    return [child for owner in (block, block.attn, block.mlp) for child in owner.children() if isinstance(child, Part)]
