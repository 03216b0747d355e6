"""What a head is: it turns frame and text embeddings into rows that can be kept, and scores the ones against the others.

`head.name` names files of `vop/heads/`: an interaction (`xpool`), or frame stages and then an interaction, joined by `+`
(`seqtransf+wti`). After frame stages alone comes `mean`. A row is a flat tensor of numbers, so that whatever moves, gathers and
stores embeddings does the same with the rows of any head. S numbers in a text's row, R in a video's, C texts scored at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vop.config import ConfigError, HeadConfig, kind, kinds


class FrameStage(nn.Module):
    """What a file has as `Stage`: it changes frame embeddings before the interaction sees them.

    clip: the model's own, before tuning; frames: of a video. What it takes of `clip` it copies.
    """

    def __init__(self, config: Any, clip: open_clip.CLIP, frames: int) -> None:
        super().__init__()

    def forward(self, frames_BFE: Tensor, mask_BF: Tensor) -> Tensor:
        """Frame embeddings, not normalized -> the same shape; a frame of padding must change no other."""
        raise NotImplementedError


class Head(nn.Module):
    """What a file has as `Head`: the interaction of texts and videos.

    tokens: whether `text_rows` sees all places of a text, not the end token alone. dot: whether a score is the dot product of
    two rows, which is then computed without the head. limit: no score is greater, nor below its negative.
    captions: whether it learns from a caption of each frame; rows are wider in training then, and scores those of their start.
    """

    tokens = False
    dot = False
    captions = False
    limit = 1.0

    def __init__(self, config: Any, clip: open_clip.CLIP, frames: int) -> None:
        super().__init__()

    def text_rows(self, text_BTE: Tensor, mask_BT: Tensor) -> Tensor:
        """What is kept of B texts [B, S], fp32. text_BTE: their places, not normalized; without `tokens` T is 1.

        S may depend on T: a row must mean the same with zeros behind it.
        """
        raise NotImplementedError

    def video_rows(self, frames_BFE: Tensor, mask_BF: Tensor) -> Tensor:
        """What is kept of B videos [B, R], fp32, from frame embeddings that are not normalized; padding changes nothing.

        What is random in training belongs into `scores`: rows may be computed twice in a step.
        """
        raise NotImplementedError

    def caption_rows(self, text_BFE: Tensor, mask_BF: Tensor) -> Tensor:
        """What stands behind a text's row in training [B, X], from embeddings of the captions of frames; for `captions`."""
        raise NotImplementedError

    def scores(self, text_CS: Tensor, video_NR: Tensor) -> Tensor:
        """Scores [C, N] of rows, each pair's by itself, in the precision of the rows; differentiable."""
        raise NotImplementedError

    def extra_loss(self, text_BS: Tensor, video_BR: Tensor) -> Tensor | None:
        """What is added to the contrastive loss of B pairs, from their rows; a scalar, or None for nothing."""
        return None

    def numbers_per_pair(self, text_width: int) -> int:
        """About how many numbers `scores` holds at once for each pair, given S: callers choose C and N by it."""
        return 16


def chain_of(name: str) -> tuple[list[str], str]:
    """The frame stages and the interaction that `head.name` names. Raises ConfigError where nothing may follow a part."""
    *stages, last = name.split("+")
    if hasattr(kind("head", last), "Stage"):
        stages, last = [*stages, last], "mean"
    for part in stages:
        if not hasattr(kind("head", part), "Stage"):
            known = ", ".join(other for other in kinds("head") if hasattr(kind("head", other), "Stage"))
            raise ConfigError(f"head.name: {name!r}: nothing can follow {part}, which is no frame stage; those are: {known}")
    if twice := next((part for part in stages if stages.count(part) > 1), None):
        raise ConfigError(f"head.name: {name!r} has {twice} twice")
    return stages, last


def build_head(config: HeadConfig, clip: open_clip.CLIP, frames: int) -> tuple[nn.ModuleDict, Head]:
    """The frame stages by name, in order, and the interaction, in eval mode: only a training step switches them."""
    stages, last = chain_of(config.name)
    built = nn.ModuleDict({part: kind("head", part).Stage(config, clip, frames) for part in stages})
    head: Head = kind("head", last).Head(config, clip, frames)
    return built.eval(), head.eval()


def is_dot(config: HeadConfig) -> bool:
    """Whether scores are dot products, known without building anything."""
    return bool(kind("head", chain_of(config.name)[1]).Head.dot)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """The rows of several batches as one tensor; shorter ones get zeros at their end."""
    width = max(part.shape[1] for part in parts)
    return torch.cat([part if part.shape[1] == width else F.pad(part, (0, width - part.shape[1])) for part in parts])
