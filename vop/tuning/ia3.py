"""IA3: keys, values and what is hidden in each MLP are scaled, number by number (Liu et al., NeurIPS 2022).

92,160 parameters on ViT-B/32. Default learning rate 0.01. Training starts from CLIP. What is trained is how far a scale is from
1, so that weight decay leads back to CLIP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vop.config import TuningConfig
from vop.model.walkers import text_of, visual_of

if TYPE_CHECKING:
    from vop.model.retrieval import RetrievalModel

LEARNING_RATE = 1e-2


class Scales(nn.Module):
    """How far the scales of a block are from 1: of its keys and values [A] each, and of what its MLP hides [hidden]."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.key, self.value = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.hidden = nn.Parameter(torch.zeros(hidden))

    def of(self, rows: str) -> Tensor:
        """Of the rows that a weight of attention has ("qkv", "k" or "v"), or of the MLP's hidden numbers."""
        if rows == "qkv":
            return 1 + torch.cat([torch.zeros_like(self.key), self.key, self.value])
        return 1 + {"k": self.key, "v": self.value, "hidden": self.hidden}[rows]


class Scaled(nn.Module):
    """Scales the rows of a weight [out, in] or of a bias [out], or for "hidden" what a weight reads."""

    def __init__(self, scales: Scales, rows: str):
        super().__init__()
        self._scales, self.rows = (scales,), rows  # in a tuple: they are the block's

    def forward(self, weight: Tensor) -> Tensor:
        """The scaled weight, of the same shape."""
        scale = self._scales[0].of(self.rows)
        return weight * (scale if weight.dim() == 1 or self.rows == "hidden" else scale[:, None])


def apply(model: RetrievalModel, config: TuningConfig) -> None:
    """Parametrize each layer's keys, values and last linear layer, which then read as the scaled ones."""
    for tower in (text_of(model.clip), visual_of(model.clip)):
        for block in tower.blocks:
            last = [layer for layer in block.mlp.modules() if isinstance(layer, nn.Linear)][-1]
            scales = Scales(tower.width, last.in_features)
            block.add_module("ia3", scales)
            parametrize.register_parametrization(last, "weight", Scaled(scales, "hidden"))
            for module, name, rows in (*tower.attention_weights(block), *tower.attention_biases(block)):
                if rows != "q":
                    parametrize.register_parametrization(module, name, Scaled(scales, rows))
