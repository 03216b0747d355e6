"""Kinds of video prompt, one file each, found by name (`video_prompt.name`).

A kind's file has a class `Prompts(VideoPrompts)`, and a class `Config(VideoPromptConfig)` if it has fields of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

INIT_STD = 0.02  # as in the authors' release


class VideoPrompts(nn.Module):
    """What every kind has: `generic`, prompts that all frames share, [layers, P, D]; `specific` of P are the kind's own.

    replaces_class_token: whether `replace_cls` does; a CLIP whose frames have no class token is then refused.
    """

    replaces_class_token = False

    def __init__(self, layers: int, length: int, width: int, specific: int = 0):
        super().__init__()
        self.generic = nn.Parameter(torch.randn(layers, length - specific, width) * INIT_STD)

    def forward(self, index: int, cls_BFD: Tensor) -> Tensor:
        """Prompts of the index-th prompted layer: [1, P, D] for all frames, [F, P, D] by frame, or [B * F, P, D].

        cls_BFD: the frames' class tokens as they enter that layer; where a CLIP has none, the mean of a frame's tokens.
        """
        return self.generic[index].unsqueeze(0)

    def replace_cls(self, index: int, cls_BFD: Tensor) -> Tensor:
        """The class tokens that enter the layer instead; most kinds leave them alone."""
        return cls_BFD
