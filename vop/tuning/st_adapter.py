"""ST-Adapter: before each visual layer, every patch sees itself in the frames beside its own (Pan et al., NeurIPS 2022).

7,110,144 parameters on ViT-B/32. Default learning rate 0.001. Training starts from CLIP. The class token is left alone, so an
adapter between the last attention and its MLP would change nothing that is read: these stand before attention. Frames of
padding count as nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor, nn

from vop.config import TuningConfig
from vop.model.part import Context, Part
from vop.model.walkers import visual_of

if TYPE_CHECKING:
    from vop.model.retrieval import RetrievalModel

LEARNING_RATE = 1e-3
REACH = 3  # frames that a patch sees


class Config(TuningConfig):
    """Options of ST-Adapter."""

    st_width: int = Field(384, ge=1, le=4096, description="the width between an adapter's two linear layers")


class Adapter(Part):
    """Down, a convolution over time for each channel, up; what it gives is added to the patches. It starts at zero."""

    by_frame = True

    def __init__(self, width: int, config: Config):
        super().__init__()
        self.down, self.up = nn.Linear(width, config.st_width), nn.Linear(config.st_width, width)
        self.over_time = nn.Conv1d(config.st_width, config.st_width, REACH, padding=REACH // 2, groups=config.st_width)
        for tensor in (self.down.bias, self.over_time.weight, self.over_time.bias, self.up.bias):
            assert tensor is not None
            nn.init.zeros_(tensor)

    def enter(self, tokens_BLD: Tensor, context: Context) -> Tensor:
        """[B, L, D] of frames, or of videos whose frames are in a row."""
        tokens_BFLD = tokens_BLD.reshape(-1, context.frames, context.tokens, tokens_BLD.shape[-1])
        first = int(context.class_token)
        narrow_BFMd = self.down(tokens_BFLD[:, :, first:])
        if context.mask_BF is not None:
            narrow_BFMd = narrow_BFMd * context.mask_BF[..., None, None]
        over_time_NdF = self.over_time(narrow_BFMd.permute(0, 2, 3, 1).flatten(0, 1))
        seen_BFMd = over_time_NdF.unflatten(0, (tokens_BFLD.shape[0], -1)).permute(0, 3, 1, 2)
        patches_BFMD = tokens_BFLD[:, :, first:] + self.up(seen_BFMd)
        return torch.cat([tokens_BFLD[:, :, :first], patches_BFMD], dim=2).reshape(tokens_BLD.shape)


def apply(model: RetrievalModel, config: Config) -> None:
    """An adapter before each visual layer."""
    visual = visual_of(model.clip)
    for block in visual.blocks:
        block.add_module("st_adapter", Adapter(visual.width, config))
