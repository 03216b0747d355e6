"""MV-Adapter: bottlenecks behind the MLPs that look across frames, or across the words of a text (Jin et al., CVPR 2024).

3,325,696 parameters on ViT-B/32 with 12 frames. Default learning rate 5e-06. Training starts from CLIP, whose biases stay
frozen; the authors' code trains them too. A text may be longer than the 32 positions: the places behind them share the last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from pydantic import Field
from torch import Tensor, nn

from vop.config import ConfigError, TuningConfig
from vop.model.block import run_block
from vop.model.part import Context, Part
from vop.model.walkers import text_of, visual_of

if TYPE_CHECKING:
    from vop.model.retrieval import RetrievalModel

LEARNING_RATE = 5e-6
INIT_STD = 0.01
WORDS, HEADS, BETWEEN, LATENT = 32, 2, 16, 32  # positions of a text; of the block; of the gate; of what both towers share


class Config(TuningConfig):
    """Options of MV-Adapter."""

    mv_width: int = Field(64, ge=1, le=4096, description="the width between an adapter's two linear layers")
    mv_scale: float = Field(0.1, gt=0, description="what an adapter gives is scaled by")
    mv_shared: int = Field(2, ge=0, description="in so many of the highest layers both towers scale by what they share")


class Factor(nn.Module):
    """What multiplies the rows of a first layer, [width]: a linear layer of a vector that both towers share."""

    def __init__(self, width: int, other: Factor | None):
        super().__init__()
        self.linear = nn.Linear(LATENT, width)
        self.latent = nn.Parameter(torch.zeros(LATENT)) if other is None else None
        self._latent = (self.latent if other is None else other.latent,)  # in a tuple, or both would list it as theirs

    def forward(self) -> Tensor:
        """[width]."""
        return torch.as_tensor(self.linear(self._latent[0]))


class Adapter(Part):
    """The bottleneck of both: down, a small block over a sequence of what is narrow, up; the second layer starts at zero."""

    every_row = True

    def __init__(self, width: int, places: int, config: Config, factor: Factor | None):
        super().__init__()
        narrow, self.scale, self.factor = config.mv_width, config.mv_scale, factor
        self.down, self.up = nn.Linear(width, narrow), nn.Linear(narrow, width)
        nn.init.kaiming_uniform_(self.down.weight)
        for tensor in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(tensor)
        self.position = nn.Parameter(torch.randn(places, narrow) * INIT_STD)
        self.norm = nn.LayerNorm(narrow)
        self.block: Any = ResidualAttentionBlock(narrow, 1 if narrow % HEADS else HEADS, act_layer=QuickGELU)

    def narrowed(self, out_BLD: Tensor) -> Tensor:
        """Down, in the rows' shared proportions: [..., D] -> [..., width], before the activation."""
        weight = self.down.weight if self.factor is None else self.down.weight * self.factor()[:, None]
        return F.linear(out_BLD, weight, self.down.bias)

    def mixed(self, sequence_BSd: Tensor, mask: Tensor | None) -> Tensor:
        """Through norm, block and activation: [B, S, width]. mask: True where a query may look."""
        return quick_gelu(run_block(self.block, self.norm(sequence_BSd), mask=mask))


class TextAdapter(Adapter):
    """Each word with those before it; with all of them where the tower's attention has no order."""

    def __init__(self, width: int, config: Config, factor: Factor | None, causal: bool):
        super().__init__(width, WORDS, config, factor)
        self.causal = causal

    def after_mlp(self, read_BRD: Tensor, out_BRD: Tensor, context: Context) -> Tensor:
        """[B, T, D]."""
        place_T = torch.arange(out_BRD.shape[1], device=out_BRD.device)
        sequence_BTd = self.narrowed(out_BRD) + self.position[place_T.clamp(max=WORDS - 1)]
        mask = place_T[:, None] >= place_T if self.causal else None
        return torch.as_tensor(out_BRD + self.scale * self.up(self.mixed(sequence_BTd, mask)))


class VideoAdapter(Adapter):
    """Class tokens see the video: its frames' class tokens, the means of its frames' patches, and a token of its own."""

    by_frame = True

    def __init__(self, width: int, frames: int, config: Config, factor: Factor | None):
        super().__init__(width, 2 * frames + 1, config, factor)
        narrow = config.mv_width
        self.video = nn.Parameter(torch.randn(narrow) * INIT_STD)
        self.of_video = nn.Linear(narrow, narrow)
        self.gate_down, self.gate_up = nn.Linear(2 * narrow, BETWEEN), nn.Linear(BETWEEN, narrow, bias=False)
        nn.init.zeros_(self.gate_up.weight)

    def after_mlp(self, read_BRD: Tensor, out_BRD: Tensor, context: Context) -> Tensor:
        """[B, L, D] of frames, or of videos whose frames are in a row."""
        narrow_BFLd = quick_gelu(self.narrowed(out_BRD)).reshape(-1, context.frames, context.tokens, self.down.out_features)
        cls_BFd, patches_BFMd = narrow_BFLd[:, :, 0], narrow_BFLd[:, :, 1:]
        video_B1d = self.video.expand(cls_BFd.shape[0], 1, -1)
        mask_BF = torch.ones_like(cls_BFd[..., 0], dtype=torch.bool) if context.mask_BF is None else context.mask_BF
        mask_BS = torch.cat([torch.ones_like(mask_BF[:, :1]), mask_BF, mask_BF], dim=1)
        sequence_BSd = torch.cat([video_B1d, cls_BFd, patches_BFMd.mean(2)], dim=1) + self.position
        mixed_BSd = self.mixed(sequence_BSd, mask_BS[:, None, None])
        video_B1d, cls_BFd, means_BFd = mixed_BSd.split([1, context.frames, context.frames], dim=1)
        seen_BFd = torch.cat([cls_BFd + means_BFd, self.of_video(video_B1d).expand_as(cls_BFd)], dim=-1)
        gate_BFd = 1 + self.gate_up(F.relu(self.gate_down(seen_BFd * mask_BF[..., None])))
        narrow_BFLd = torch.cat([(gate_BFd * cls_BFd)[:, :, None], patches_BFMd], dim=2)
        return torch.as_tensor(out_BRD + self.scale * self.up(narrow_BFLd).reshape(out_BRD.shape))


def quick_gelu(x: Tensor) -> Tensor:
    """CLIP's activation."""
    return x * torch.sigmoid(1.702 * x)


def apply(model: RetrievalModel, config: Config) -> None:
    """An adapter behind each MLP. Raises ConfigError for a CLIP whose frames have no class token."""
    text, visual = text_of(model.clip), visual_of(model.clip)
    if not visual.class_token:
        raise ConfigError(f"tuning.name: mv-adapter: the frames of {model.backbone_name} have no class token")
    if model.text.suffix:
        raise ConfigError("tuning.name: mv-adapter: it reads the end of a text, so text_prompt.suffix must be 0")
    shared: dict[int, Factor] = {}  # by the layer, counted from the last
    for tower in (visual, text):
        for layer, block in enumerate(reversed(tower.blocks)):
            factor = Factor(config.mv_width, shared.get(layer)) if layer < config.mv_shared else None
            if tower is visual:
                block.add_module("mv_adapter", VideoAdapter(visual.width, model.frames, config, factor))
                shared |= {layer: factor} if factor else {}
            else:
                block.add_module("mv_adapter", TextAdapter(text.width, config, factor, text.causal))
