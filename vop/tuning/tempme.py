"""TempMe: patches that are alike are merged, of a frame and of neighbouring frames (Shen et al., ICLR 2025).

507,648 parameters on ViT-B/32 with 12 frames: low-rank changes of all attention weights, and positions of frames. Default
learning rate 0.0006. With 12 frames its visual layers take 0.647 of CLIP's multiplications. It merges from the first step on:
training does not begin at the embeddings of zero-shot CLIP.

The frame mask has no part in merging, only in the mean: frames of padding are merged with real ones, as in the authors' code.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vop.config import ConfigError, TuningConfig
from vop.model.part import Context, Part
from vop.model.precision import exactly
from vop.model.walkers import text_of, visual_of

if TYPE_CHECKING:
    from vop.model.retrieval import RetrievalModel

LEARNING_RATE = 6e-4


class Config(TuningConfig):
    """Options of TempMe."""

    rank: int = Field(8, ge=1, le=4096, description="of each change of a weight")
    merged: int = Field(2, ge=0, description="patches of a frame that a layer merges, below those that join frames")
    share: float = Field(0.1, ge=0, le=0.5, description="of its tokens, what a layer merges from there on")
    joined_share: float = Field(0.3, ge=0, le=0.5, description="of its tokens, what a layer merges of frames that it joins")
    joins: int = Field(
        3, ge=0, description="so many layers below the last join neighbouring frames, by the factors of `frames.count`"
    )


class LowRank(nn.Module):
    """Adds up @ down to a weight [out, D]: to the rows of queries, keys and values alike."""

    def __init__(self, rows: int, width: int, rank: int):
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, width).uniform_(-(width**-0.5), width**-0.5))  # the bound of nn.Linear
        self.up = nn.Parameter(torch.zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """The changed weight, of the same shape."""
        return weight + self.up @ self.down


class Merge(Part):
    """What a visual layer merges: neighbours that it joins, as they enter; between attention and MLP, patches by their keys.

    join: so many sequences become one; sequences: how many a video has before; late: whether this layer or one below joins.
    """

    merges = True

    def __init__(self, config: Config, join: int, sequences: int, late: bool, width: int):
        super().__init__()
        self.join, self.late = join, late
        self.merged, self.share, self.joined_share = config.merged, config.share, config.joined_share
        self.position = nn.Parameter(torch.zeros(sequences if join > 1 else 0, width))

    def enter(self, tokens_BLD: Tensor, context: Context) -> Tensor:
        """[B, L, D] -> [B / join, fewer than join * L, D]."""
        if self.join == 1:
            return tokens_BLD
        L, c = tokens_BLD.shape[1], context.joined
        placed_BLD = (tokens_BLD.unflatten(0, (-1, len(self.position))) + self.position[:, None]).flatten(0, 1)
        sizes_BL1 = torch.ones_like(tokens_BLD[..., :1]) if context.sizes_BL1 is None else context.sizes_BL1
        placed_BLD, sizes_BL1, metric_BLD = (joined(x, c, self.join) for x in (placed_BLD, sizes_BL1, tokens_BLD))
        context.joined = c * self.join
        count = min((L - c) * self.join // 2, int(self.joined_share * self.join * L))
        tokens_BLD, context.sizes_BL1 = merged(placed_BLD, sizes_BL1, metric_BLD, context.joined, count)
        return tokens_BLD

    def key_bias(self, context: Context) -> Tensor | None:
        """A token that stands for many counts as so many."""
        return None if context.sizes_BL1 is None else context.sizes_BL1.squeeze(-1).log()

    def between(self, tokens_BRD: Tensor, keys_BHLd: Tensor, context: Context) -> Tensor:
        """[B, L, D] -> [B, fewer, D]; nothing where only class tokens go on."""
        L, c = keys_BHLd.shape[2], context.joined
        count = min((L - c) // 2, int(self.share * L) if self.late else self.merged)
        if tokens_BRD.shape[1] != L or not count:
            return tokens_BRD
        sizes_BL1 = torch.ones_like(tokens_BRD[..., :1]) if context.sizes_BL1 is None else context.sizes_BL1
        tokens_BRD, context.sizes_BL1 = merged(tokens_BRD, sizes_BL1, keys_BHLd.mean(1), c, count)
        return tokens_BRD


def joined(rows_BLD: Tensor, classes: int, join: int) -> Tensor:
    """Neighbouring sequences as one: all their class tokens in the order of the frames, then all their patches."""
    parted_BkLD = rows_BLD.unflatten(0, (-1, join))
    return torch.cat([parted_BkLD[:, :, :classes].flatten(1, 2), parted_BkLD[:, :, classes:].flatten(1, 2)], dim=1)


def merged(tokens_BLD: Tensor, sizes_BL1: Tensor, metric_BLd: Tensor, classes: int, count: int) -> tuple[Tensor, Tensor]:
    """Tokens and sizes [B, L - count, ...]: every other patch may go into the one among the rest that is most like it.

    The `count` that are most alike do, weighted by size. Class tokens stay first; then come sources that stayed, then targets.
    """
    with torch.no_grad(), exactly(tokens_BLD):
        unit_BLd = F.normalize(metric_BLd[:, classes:].float(), dim=-1)
        best_BS, target_BS = (unit_BLd[:, ::2] @ unit_BLd[:, 1::2].mT).max(dim=-1)
        order_BS = best_BS.argsort(dim=-1, descending=True, stable=True)
        gone_BC, kept_BK = order_BS[:, :count], order_BS[:, count:].sort(dim=-1).values
        target_BC = target_BS.gather(1, gone_BC)

    def gathered(rows_BLX: Tensor) -> Tensor:
        source_BSX, target_BTX = rows_BLX[:, classes::2], rows_BLX[:, classes + 1 :: 2]
        gone, kept, into = (at[..., None].expand(-1, -1, rows_BLX.shape[-1]) for at in (gone_BC, kept_BK, target_BC))
        target_BTX = target_BTX.scatter_add(1, into, source_BSX.gather(1, gone))
        return torch.cat([rows_BLX[:, :classes], source_BSX.gather(1, kept), target_BTX], dim=1)

    new_sizes_BL1 = gathered(sizes_BL1)
    return gathered(tokens_BLD * sizes_BL1) / new_sizes_BL1, new_sizes_BL1


def joins_of(config: Config, frames: int, depth: int) -> list[int]:
    """How many sequences each layer makes one of, 1 where it joins none: for 12 frames 2, 2 and 3 in the last but one."""
    joins = factors(frames, min(config.joins, depth - 1))
    return [*[1] * (depth - 1 - len(joins)), *joins, 1]


def factors(number: int, most: int) -> list[int]:
    """The prime factors of a number, ascending; where they are too many, the smallest are taken together."""
    found, factor = list[int](), 2
    while number > 1:
        if number % factor:
            factor += 1
        else:
            found, number = [*found, factor], number // factor
    while len(found) > max(most, 1):
        found = sorted([found[0] * found[1], *found[2:]])
    return found if most else []


def apply(model: RetrievalModel, config: Config) -> None:
    """Parametrize the attention weights of both towers, and let the visual one merge. Raises ConfigError where it cannot."""
    visual = visual_of(model.clip)
    if not (visual.class_token and visual.reads_class_token) or visual.rotary:
        raise ConfigError(f"tuning.name: tempme: {visual.lacks(model.backbone_name)}")
    joins = joins_of(config, model.frames, len(visual.blocks))
    for tower in (text_of(model.clip), visual):
        for block in tower.blocks:
            for module, name, _ in tower.attention_weights(block):
                rows, width = getattr(module, name).shape
                parametrize.register_parametrization(module, name, LowRank(rows, width, config.rank))
    for layer, block in enumerate(visual.blocks):
        before, late = model.frames // prod(joins[:layer]), prod(joins[: layer + 1]) > 1
        block.add_module("merge", Merge(config, joins[layer], before, late, visual.width))
