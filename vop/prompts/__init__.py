"""Kinds of video prompt, one file each, found by name (`video_prompt.name`).

A kind's file has a class `Prompts(VideoPrompts)`, and a class `Config(VideoPromptConfig)` if it has fields of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

INIT_STD = 0.02  # as in the authors' release


@dataclass(frozen=True)
class TextShape:
    """What the prompts of texts are: in so many layers, so many in each, so wide."""

    layers: int
    length: int
    width: int


class VideoPrompts(nn.Module):
    """What every kind has: `generic`, prompts that all frames share, [layers, P, D]; `specific` of P are the kind's own.

    replaces_class_token: whether `replace_cls` does; a CLIP whose frames have no class token is then refused.

    What follows is for kinds that need it. sees_tokens: `forward` gets all tokens of the frames [B, F, L, D].
    after_norm: the first layer's prompts do not pass the norm before it. speaks: it makes the prompts of the texts too, and is
    given `text`, their shape, when it is built. carried [G, D]: prompts that ask too. They enter below the first layer that
    has prompts, once a video; each layer passes on what it makes of them, and the first of them is the video's embedding.
    """

    replaces_class_token = False
    sees_tokens = False
    after_norm = False
    speaks = False
    carried: nn.Parameter | None

    def __init__(self, layers: int, length: int, width: int, specific: int = 0):
        super().__init__()
        self.register_parameter("carried", None)
        self.generic = nn.Parameter(torch.randn(layers, length - specific, width) * INIT_STD)

    def forward(self, index: int, cls_BFD: Tensor) -> Tensor:
        """Prompts of the index-th prompted layer: [1, P, D] for all frames, [F, P, D] by frame, or [B * F, P, D].

        cls_BFD: the frames' class tokens as they enter that layer; where a CLIP has none, the mean of a frame's tokens.
        """
        return self.generic[index].unsqueeze(0)

    def of_text(self, index: int) -> Tensor:
        """The prompts of the index-th prompted layer of the texts, for a kind that speaks: [1, P, D] of the text tower."""
        raise NotImplementedError

    def replace_cls(self, index: int, cls_BFD: Tensor) -> Tensor:
        """The class tokens that enter the layer instead; most kinds leave them alone."""
        return cls_BFD
