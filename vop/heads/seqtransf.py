"""seqTransf: a transformer over the frames, copied from CLIP's text tower (CLIP4Clip: Luo et al., Neurocomputing 2022).

12,648,960 parameters on ViT-B/32. Default learning rate 0.0001. A frame stage: an interaction follows (`seqtransf+wti`), by
default the mean. Its layer norms have CLIP's eps of 1e-5, with which the copied weights were trained (CLIP4Clip: 1e-12).
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import open_clip
import torch
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from pydantic import Field
from torch import Tensor, nn

from vop.config import ConfigError, HeadConfig
from vop.model.block import run_block
from vop.model.head import FrameStage
from vop.model.walkers import embedding_width, text_of

LEARNING_RATE = 1e-4
HEAD_WIDTH, INIT_STD = 64, 0.02


class Config(HeadConfig):
    """Options of seqTransf."""

    layers: int = Field(4, ge=1, le=12, description="blocks, copied from the text tower's first ones")
    init: Literal["clip", "zero"] = Field(
        "clip", description="clip: CLIP's blocks and positions, random where its widths differ; zero: they add nothing at first"
    )


class Stage(FrameStage):
    """Frames with positions through the blocks, added to the frames as they came."""

    def __init__(self, config: Config, clip: open_clip.CLIP, frames: int) -> None:
        super().__init__(config, clip, frames)
        text = text_of(clip)
        E, context, blocks = embedding_width(clip), len(text.positions), text.blocks
        if frames > context:
            raise ConfigError(f"frames.count: {frames} frames, {config.name} has positions for {context}, as CLIP's texts")
        copied = text.width == E
        if copied and config.layers > len(blocks):
            raise ConfigError(f"head.layers: {config.layers} of the {len(blocks)} layers of this CLIP's text tower")
        self.position = nn.Parameter(text.positions.detach().clone() if copied else _random(context, E))
        made: list[Any] = [copy.deepcopy(blocks[layer]) if copied else _random_block(E) for layer in range(config.layers)]
        self.blocks = nn.ModuleList(made)
        if config.init == "zero":
            parts = [part for block in made for part in (block.attn.out_proj, block.mlp.c_proj)]
            for tensor in (self.position, *(tensor for part in parts for tensor in (part.weight, part.bias))):
                nn.init.zeros_(tensor)

    def forward(self, frames_BFE: Tensor, mask_BF: Tensor) -> Tensor:
        """[B, F, E]."""
        hidden_BFE = frames_BFE + self.position[: frames_BFE.shape[1]]
        for block in self.blocks:
            hidden_BFE = run_block(block, hidden_BFE, mask=mask_BF[:, None, None])
        return hidden_BFE + frames_BFE


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape) * INIT_STD


def _random_block(width: int) -> ResidualAttentionBlock:
    heads = next(heads for heads in range(max(1, width // HEAD_WIDTH), 0, -1) if width % heads == 0)
    block = ResidualAttentionBlock(width, heads, act_layer=QuickGELU)
    for name, parameter in block.named_parameters():
        if not name.startswith("ln_"):
            nn.init.zeros_(parameter) if name.endswith("bias") else nn.init.normal_(parameter, std=INIT_STD)
    return block
