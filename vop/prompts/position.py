"""VoP^P: prompts that depend on the frame's position in the sample (paper, section 3.3)."""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from vop.config import VideoPromptConfig
from vop.prompts import INIT_STD, VideoPrompts


class Config(VideoPromptConfig):
    """Options of VoP^P."""

    specific_length: int = Field(
        4, ge=0, description="P_s: so many of the `length` prompts belong to one frame position, the others are shared"
    )

    @model_validator(mode="after")
    def _specific_within_length(self) -> Self:
        if self.specific_length > self.length:
            raise ValueError(f"specific_length {self.specific_length} is more than length {self.length}")
        return self


class Prompts(VideoPrompts):
    """A table of prompts by layer and frame index, beside the shared ones."""

    def __init__(self, config: Config, layers: int, frames: int, width: int):
        super().__init__(layers, config.length, width, config.specific_length)
        self.by_frame = nn.Parameter(torch.randn(layers, frames, config.specific_length, width) * INIT_STD)

    def forward(self, index: int, cls_BFD: Tensor) -> Tensor:
        """[F, P, D]."""
        by_frame_FPD = self.by_frame[index]
        return torch.cat([self.generic[index].expand(by_frame_FPD.shape[0], -1, -1), by_frame_FPD], dim=1)
