"""Cross-Modal Adapter: bottlenecks behind attention and MLP whose last rows both towers share (Jiang et al., 2022).

519,168 parameters on ViT-B/32. Default learning rate 1e-05. All its weights start at random: training does not begin at the
embeddings of zero-shot CLIP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vop.config import ConfigError, TuningConfig
from vop.model.part import Context, Part
from vop.model.walkers import text_of, visual_of

if TYPE_CHECKING:
    from vop.model.retrieval import RetrievalModel

LEARNING_RATE = 1e-5
INIT_STD = 0.01


class Config(TuningConfig):
    """Options of the Cross-Modal Adapter."""

    cross_width: int = Field(8, ge=1, le=4096, description="the width between an adapter's two linear layers")
    cross_shared: int = Field(
        16, ge=0, le=4096, description="so many of the numbers that an adapter gives are by weights of both towers"
    )


class Shared(nn.Module):
    """The last rows of two adapters' second layers [S, width] and their biases [S]."""

    def __init__(self, shared: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shared, width) * INIT_STD)
        self.bias = nn.Parameter(torch.zeros(shared))


class Adapter(Part):
    """y + up(QuickGELU(down(y))). shared: another adapter's that this one speaks with too, or a new one."""

    def __init__(self, width: int, config: Config, shared: Shared | None):
        super().__init__()
        self.down = nn.Linear(width, config.cross_width)
        self.up = nn.Linear(config.cross_width, width - config.cross_shared)
        for linear in (self.down, self.up):
            nn.init.normal_(linear.weight, std=INIT_STD)
            nn.init.zeros_(linear.bias)
        self.own = Shared(config.cross_shared, config.cross_width) if shared is None else None
        self._shared = (self.own or shared,)  # in a tuple, or both adapters would list its tensors as theirs

    def forward(self, tokens_BRD: Tensor) -> Tensor:
        """[B, R, D] -> [B, R, D]."""
        (shared,) = self._shared
        assert shared is not None
        weight, bias = torch.cat([self.up.weight, shared.weight]), torch.cat([self.up.bias, shared.bias])
        hidden = self.down(tokens_BRD)
        return tokens_BRD + F.linear(hidden * torch.sigmoid(1.702 * hidden), weight, bias)


class BehindAttention(Adapter):
    """Behind the attention."""

    def after_attention(self, read_BRD: Tensor, out_BRD: Tensor, context: Context) -> Tensor:
        """[B, R, D]."""
        return self.forward(out_BRD)


class BehindMLP(Adapter):
    """Behind the MLP."""

    def after_mlp(self, read_BRD: Tensor, out_BRD: Tensor, context: Context) -> Tensor:
        """[B, R, D]."""
        return self.forward(out_BRD)


def apply(model: RetrievalModel, config: Config) -> None:
    """Two adapters in each layer; both towers' of the same layer and place share. ConfigError where a tower is too narrow."""
    text, visual = text_of(model.clip), visual_of(model.clip)
    if config.cross_shared > min(text.width, visual.width):
        raise ConfigError(
            f"tuning.cross_shared: {config.cross_shared}: the towers of {model.backbone_name} are {text.width} and "
            f"{visual.width} wide"
        )
    for place, kind in (("cross_attention", BehindAttention), ("cross_mlp", BehindMLP)):
        found: list[Shared | None] = []
        for tower in (visual, text):
            for layer, block in enumerate(tower.blocks):
                adapter = kind(tower.width, config, found[layer] if tower is text and layer < len(found) else None)
                block.add_module(place, adapter)
                if tower is visual:
                    found.append(adapter.own)
