"""The bottleneck that both adapters put beside a part of each layer."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vop.config import TuningConfig
from vop.model.part import Part


class AdapterConfig(TuningConfig):
    """Options of an adapter."""

    bottleneck: int = Field(64, ge=1, le=4096, description="the width between an adapter's two linear layers")


class Bottleneck(Part):
    """D -> bottleneck -> D with a ReLU between; it starts at zero, so that training starts from CLIP."""

    def __init__(self, width: int, bottleneck: int):
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        out_BLD: Tensor = self.up(F.relu(self.down(tokens_BLD)))
        return out_BLD
