"""VoP^C: prompts made from the context of the other frames (paper, section 3.4; ablations: table 4)."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vop.prompts import VideoPrompts
from vop.prompts.position import Config as PositionConfig


class Config(PositionConfig):
    """Options of VoP^C."""

    module: Literal["bilstm", "lstm", "transformer"] = Field("bilstm", description="the context modelling module")
    role: Literal["prompts", "cls"] = Field(
        "prompts", description="whether the context makes prompts or replaces the class token"
    )
    init_scale: float = Field(1.0, gt=0, description="what the first weights of the layer behind the module are multiplied by")


class ContextModule(nn.Module):
    """Turns a video's F class tokens into F context vectors: [B, F, D] -> [B, F, width_out]."""

    def __init__(self, kind: str, frames: int, width: int):
        super().__init__()
        self.width_out = 2 * width if kind == "bilstm" else width
        self.net: nn.Module
        if kind == "transformer":
            layer = nn.TransformerEncoderLayer(
                width, max(1, width // 64), 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            self.net = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False)
            # Without it the module could not tell the order of the frames.
            self.position = nn.Parameter(torch.randn(frames, width) * 0.02)
        else:
            self.net = nn.LSTM(width, width, batch_first=True, bidirectional=kind == "bilstm")

    def forward(self, cls_BFD: Tensor) -> Tensor:
        """[B, F, D] -> [B, F, width_out]."""
        if isinstance(self.net, nn.LSTM):
            # Outside autocast: torch has no LSTM in bf16 on the CPU.
            with nullcontext() if cls_BFD.is_meta else torch.autocast(cls_BFD.device.type, enabled=False):
                out: Tensor = self.net(cls_BFD.float())[0]
            return out
        return torch.as_tensor(self.net(cls_BFD + self.position))


class Prompts(VideoPrompts):
    """One context module and one linear layer, shared by all layers."""

    def __init__(self, config: Config, layers: int, frames: int, width: int):
        makes_prompts = config.role == "prompts"
        self.specific = config.specific_length if makes_prompts else 0
        super().__init__(layers, config.length, width, self.specific)
        self.role, self.replaces_class_token = config.role, config.role == "cls"
        self.context = ContextModule(config.module, frames, width)
        self.project = nn.Linear(self.context.width_out, self.specific * width if makes_prompts else width)
        with torch.no_grad():
            for parameter in self.project.parameters():
                parameter.mul_(config.init_scale)

    def forward(self, index: int, cls_BFD: Tensor) -> Tensor:
        """[B * F, P, D], or [1, P, D] where the context replaces the class token."""
        if self.role == "cls":
            return super().forward(index, cls_BFD)
        B, F, D = cls_BFD.shape
        specific_NPD = self.project(self.context(cls_BFD)).reshape(B * F, self.specific, D)
        return torch.cat([self.generic[index].expand(B * F, -1, -1), specific_NPD], dim=1)

    def replace_cls(self, index: int, cls_BFD: Tensor) -> Tensor:
        """[B, F, D]."""
        return torch.as_tensor(self.project(self.context(cls_BFD))) if self.role == "cls" else cls_BFD
