"""DGL: prompts that attend over all frames are the video; texts and frames have prompts of one table (Yang et al., AAAI 2024).

433,664 parameters with 4 prompts in each layer of ViT-B/32: those of the published linear space but 393,728 of prompts behind a
text, which change nothing where attention is causal. All frames have the same prompts, so their order is not seen; frames of
padding are not.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from vop.config import VideoPromptConfig
from vop.prompts import INIT_STD, TextShape, VideoPrompts


class Config(VideoPromptConfig):
    """Options of DGL."""

    carried: int = Field(
        4, ge=1, le=1024, description="prompts that attend over all frames; the first is the video's embedding"
    )


class Prompts(VideoPrompts):
    """One table for both towers; a text's prompts are its rows through a linear layer."""

    after_norm = True
    speaks = True

    def __init__(self, config: Config, layers: int, frames: int, width: int, text: TextShape):
        super().__init__(max(layers, text.layers), max(config.length if layers else 0, text.length), width)
        self.length, self.text_length = config.length, text.length
        self.carried = nn.Parameter(torch.randn(config.carried, width) * INIT_STD) if layers else None
        self.project: nn.Module | None = nn.Linear(width, text.width) if text.layers else None

    def forward(self, index: int, cls_BFD: Tensor) -> Tensor:
        """[1, P, D]."""
        return self.generic[index, : self.length].unsqueeze(0)

    def of_text(self, index: int) -> Tensor:
        """[1, P, D] of the text tower."""
        assert self.project is not None
        return torch.as_tensor(self.project(self.generic[index, : self.text_length])).unsqueeze(0)
