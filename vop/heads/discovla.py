"""DiscoVLA's head: scores are the mean's; in training captions of frames are aligned with frames too (Shen et al., CVPR 2025).

0 parameters. Default learning rate 0.0: nothing is trained. To the loss it adds that of a matrix which matches the frames of
each video with the captions of others' frames, and how far the scores are from that matrix. It needs a caption of each frame
(docs/own-videos.md); with `head.alignment=0 head.distillation=0` it needs none, and is the mean. Published with
`tuning.name=discovla`. The authors' code lets frames of padding take part in the matrix; here they do not.
"""

from __future__ import annotations

from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from vop.config import HeadConfig
from vop.heads.mean import Head as Mean
from vop.model.loss import contrastive_loss
from vop.model.walkers import embedding_width

LEARNING_RATE = 0.0
PERCENT = 100.0  # what the distillation is multiplied by


class Config(HeadConfig):
    """Options of DiscoVLA's head."""

    alignment: float = Field(0.3, ge=0, description="the weight in the loss of how frames match their captions")
    distillation: float = Field(1.0, ge=0, description="the weight in the loss of how far scores are from that match")


class Head(Mean):
    """The mean's rows; in training those of texts are followed by their frames' captions, those of videos by their frames.

    Each is F unit embeddings, which are zero for padding.
    """

    def __init__(self, config: Config, clip: open_clip.CLIP, frames: int) -> None:
        super().__init__(config, clip, frames)
        self.alignment, self.distillation, self.width = config.alignment, config.distillation, embedding_width(clip)
        self.captions = bool(config.alignment or config.distillation)
        self._clip: tuple[Any] = (clip,)  # in a tuple, or the head would list CLIP's tensors as its own

    def video_rows(self, frames_BFE: Tensor, mask_BF: Tensor) -> Tensor:
        """[B, E]; in training [B, E + F * E]."""
        mean_BE = super().video_rows(frames_BFE, mask_BF)
        if not (self.training and self.captions):
            return mean_BE
        return torch.cat([mean_BE, self.caption_rows(frames_BFE, mask_BF)], dim=1)

    def caption_rows(self, text_BFE: Tensor, mask_BF: Tensor) -> Tensor:
        """[B, F * E]."""
        return (F.normalize(text_BFE, dim=-1) * mask_BF[..., None]).flatten(1)

    def scores(self, text_CS: Tensor, video_NR: Tensor) -> Tensor:
        """Dot products [C, N]."""
        return text_CS[:, : self.width] @ video_NR[:, : self.width].T

    def extra_loss(self, text_BS: Tensor, video_BR: Tensor) -> Tensor | None:
        """Alignment and distillation, where there are captions."""
        if not self.captions or text_BS.shape[1] == self.width:
            return None
        scale = self._clip[0].logit_scale.exp()
        caption_BFE, frame_BFE = (rows[:, self.width :].unflatten(1, (-1, self.width)) for rows in (text_BS, video_BR))
        matched_BB = scale * match(caption_BFE, frame_BFE, scale)
        scores_BB = scale * self.scores(text_BS, video_BR)
        far = (divergence(matched_BB, scores_BB) + divergence(matched_BB.T, scores_BB.T)) / 2
        return self.alignment * contrastive_loss(matched_BB) + self.distillation * far


def match(caption_BFE: Tensor, frame_BFE: Tensor, scale: Tensor) -> Tensor:
    """How well the captions of each match the frames of each [B, B]: the mean of both directions' weighted best cosines."""
    similar_BFBF = torch.einsum("afe,bge->afbg", caption_BFE, frame_BFE)
    no_caption_BF, no_frame_BF = (rows.detach().abs().amax(-1) == 0 for rows in (caption_BFE, frame_BFE))
    best_frame_BFB = similar_BFBF.masked_fill(no_frame_BF, -torch.inf).amax(3)
    best_caption_BBF = similar_BFBF.masked_fill(no_caption_BF[..., None, None], -torch.inf).amax(1)
    of_captions_BB = weighted(best_frame_BFB, no_caption_BF[..., None], 1, scale)
    return (of_captions_BB + weighted(best_caption_BBF, no_frame_BF[None], 2, scale)) / 2


def weighted(best: Tensor, left_out: Tensor, dim: int, scale: Tensor) -> Tensor:
    """The mean of cosines along a dimension, by the softmax of themselves times the scale."""
    return ((scale * best).masked_fill(left_out, -torch.inf).softmax(dim) * best).sum(dim)


def divergence(teacher_BB: Tensor, student_BB: Tensor) -> Tensor:
    """Kullback and Leibler's, of the rows' softmax, summed over rows, times 100 / B^2. The teacher has a gradient too."""
    teacher_BB, student_BB = teacher_BB.log_softmax(1), student_BB.log_softmax(1)
    return PERCENT / len(teacher_BB) ** 2 * (teacher_BB.exp() * (teacher_BB - student_BB)).sum()
