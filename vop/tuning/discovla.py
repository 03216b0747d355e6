"""DiscoVLA: low-rank changes of attention, and rows that stand for a frame see all frames (Shen et al., CVPR 2025).

561,200 parameters on ViT-B/32: 491,520 of the changes, 52,256 of adapters in the highest visual layers, 17,424 in the highest
text layers, which see captions of frames alone and are left out without the head that learns from them: published is
`tuning.name=discovla head.name=discovla`. Default learning rate 0.0006. Training does not begin at zero-shot CLIP. The authors'
code lets frames of padding be seen; here they are not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vop.config import ConfigError, TuningConfig
from vop.model.block import take
from vop.model.part import Context, Part
from vop.model.walkers import text_of, visual_of
from vop.tuning.tempme import LowRank

if TYPE_CHECKING:
    from vop.model.retrieval import RetrievalModel

LEARNING_RATE = 6e-4
BIAS_STD = 1e-6


class Config(TuningConfig):
    """Options of DiscoVLA."""

    rank: int = Field(8, ge=1, le=4096, description="of each change of a weight")
    disco_width: int = Field(8, ge=1, le=4096, description="the width between an adapter's two linear layers")
    disco_visual: int = Field(4, ge=0, description="so many of the highest visual layers have an adapter")
    disco_text: int = Field(2, ge=0, description="so many of the highest text layers have one, for captions of frames")


class Adapter(Part):
    """A frame's row gets A(what its own sequence gives it) + what all sequences of the video give it; A starts at zero."""

    def __init__(self, width: int, config: Config):
        super().__init__()
        self.down, self.up = nn.Linear(width, config.disco_width), nn.Linear(config.disco_width, width)
        nn.init.xavier_uniform_(self.down.weight)
        nn.init.normal_(self.down.bias, std=BIAS_STD)
        for tensor in (self.up.weight, self.up.bias):
            nn.init.zeros_(tensor)

    def changed(self, read_N1D: Tensor, own_N1D: Tensor, context: Context, mask_BS: Tensor | None) -> Tensor:
        """[N, 1, D] of N frames. mask: False for tokens of a video that are not seen, [B, F * L]."""
        assert context.across is not None
        mask_B11S = None if mask_BS is None else mask_BS[:, None, None]
        across_BFD = context.across(read_N1D.reshape(-1, context.frames, read_N1D.shape[-1]), mask_B11S)
        hidden = self.down(own_N1D)
        return torch.as_tensor(self.up(hidden * torch.sigmoid(1.702 * hidden)) + across_BFD.reshape(own_N1D.shape))


class VisualAdapter(Adapter):
    """Of class tokens, which see all tokens of the frames that are no padding."""

    by_frame = True

    def after_attention(self, read_BRD: Tensor, out_BRD: Tensor, context: Context) -> Tensor:
        """[N, R, D] of N frames."""
        mask_BS = None if context.mask_BF is None else context.mask_BF.repeat_interleave(context.tokens, dim=1)
        return torch.cat([self.changed(read_BRD[:, :1], out_BRD[:, :1], context, mask_BS), out_BRD[:, 1:]], dim=1)


class TextAdapter(Adapter):
    """Of the ends of frames' captions, which see the tokens of those of all frames that are no padding; other texts pass."""

    def after_attention(self, read_BRD: Tensor, out_BRD: Tensor, context: Context) -> Tensor:
        """[N, R, D] of N captions."""
        end_N = context.ends_B
        if end_N is None:
            return out_BRD
        read_N1D, own_N1D = (x if x.shape[1] == 1 else take(x, end_N) for x in (read_BRD, out_BRD))
        real_NT = torch.arange(context.tokens, device=end_N.device) <= end_N[:, None]
        if context.mask_BF is not None:
            real_NT = real_NT & context.mask_BF.reshape(-1, 1)
        new_N1D = self.changed(read_N1D, own_N1D, context, real_NT.reshape(-1, context.frames * context.tokens))
        if out_BRD.shape[1] == 1:
            return new_N1D
        return out_BRD.scatter(1, end_N[:, None, None].expand_as(new_N1D), new_N1D)


def apply(model: RetrievalModel, config: Config) -> None:
    """Parametrize the attention weights of both towers, and add the adapters. Raises ConfigError where it cannot."""
    text, visual = text_of(model.clip), visual_of(model.clip)
    if not (visual.class_token and visual.reads_class_token) or visual.rotary:
        raise ConfigError(f"tuning.name: discovla: {visual.lacks(model.backbone_name)}")
    if model.text.suffix:
        raise ConfigError("tuning.name: discovla: it reads the end of a text, so text_prompt.suffix must be 0")
    if model.video.split < len(visual.blocks):
        raise ConfigError("tuning.name: discovla: it looks across frames itself, so video_encoder.split_layer must be null")
    for tower, count, kind in ((text, config.disco_text, TextAdapter), (visual, config.disco_visual, VisualAdapter)):
        for layer, block in enumerate(tower.blocks):
            for module, name, _ in tower.attention_weights(block):
                rows, width = getattr(module, name).shape
                parametrize.register_parametrization(module, name, LowRank(rows, width, config.rank))
            if layer >= len(tower.blocks) - count and (tower is visual or model.head.captions):
                block.add_module("disco", kind(tower.width, config))
