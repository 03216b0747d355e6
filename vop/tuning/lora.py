"""LoRA: low-rank changes of the attention's weights (Hu et al., ICLR 2022); not in the VoP paper.

491,520 parameters on ViT-B/32 with rank 8. Default learning rate 0.001. As in LoRA's own experiments the
query and value projections are changed: those rows of CLIP's fused weight, in each layer of both encoders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vop.config import TuningConfig

if TYPE_CHECKING:
    from vop.model.retrieval import RetrievalModel

LEARNING_RATE = 1e-3


class Config(TuningConfig):
    """Options of LoRA."""

    rank: int = Field(8, ge=1, le=4096, description="of each change of a weight")
    alpha: float = Field(16.0, gt=0, description="a change is scaled by `alpha` / `rank`")


class LowRank(nn.Module):
    """Adds scale * up @ down to the query rows and to the value rows of a fused weight [3 * D, D]."""

    def __init__(self, width: int, config: Config):
        super().__init__()
        self.scale = config.alpha / config.rank
        bound = width**-0.5  # that of nn.Linear
        self.down = nn.Parameter(torch.empty(2, config.rank, width).uniform_(-bound, bound))
        self.up = nn.Parameter(torch.zeros(2, width, config.rank))  # at zero, training starts from CLIP

    def forward(self, weight: Tensor) -> Tensor:
        """[3 * D, D] -> [3 * D, D]."""
        query, value = self.scale * self.up @ self.down
        return weight + torch.cat([query, torch.zeros_like(query), value])


def apply(model: RetrievalModel, config: Config) -> None:
    """Parametrize the fused attention weight of each layer, which then reads as the changed weight."""
    for block in (*model.clip.transformer.resblocks, *model.clip.visual.transformer.resblocks):
        change = LowRank(block.attn.embed_dim, config)
        parametrize.register_parametrization(block.attn, "in_proj_weight", change)
