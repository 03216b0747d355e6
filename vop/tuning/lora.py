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
from vop.model.walkers import text_of, visual_of

if TYPE_CHECKING:
    from vop.model.retrieval import RetrievalModel

LEARNING_RATE = 1e-3


class Config(TuningConfig):
    """Options of LoRA."""

    rank: int = Field(8, ge=1, le=4096, description="of each change of a weight")
    alpha: float = Field(16.0, gt=0, description="a change is scaled by `alpha` / `rank`")


class LowRank(nn.Module):
    """Adds scale * up @ down to the query rows and to the value rows of a weight.

    rows: what the weight holds, "qkv" for a fused one [3 * D, D], else "q" or "v" [D, D].
    """

    def __init__(self, width: int, config: Config, rows: str):
        super().__init__()
        self.scale, self.rows = config.alpha / config.rank, rows
        bound, changed = width**-0.5, len(rows.replace("k", ""))  # the bound of nn.Linear
        self.down = nn.Parameter(torch.empty(changed, config.rank, width).uniform_(-bound, bound))
        self.up = nn.Parameter(torch.zeros(changed, width, config.rank))  # at zero, training starts from CLIP

    def forward(self, weight: Tensor) -> Tensor:
        """The changed weight, of the same shape."""
        query, *value = self.scale * self.up @ self.down
        return weight + torch.cat([query, torch.zeros_like(query), *value] if self.rows == "qkv" else [query])


def apply(model: RetrievalModel, config: Config) -> None:
    """Parametrize the attention weights of each layer, which then read as the changed weights."""
    for tower in (text_of(model.clip), visual_of(model.clip)):
        for block in tower.blocks:
            for module, name, rows in tower.attention_weights(block):
                if rows != "k":
                    parametrize.register_parametrization(module, name, LowRank(tower.width, config, rows))
