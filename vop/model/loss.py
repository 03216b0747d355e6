"""The losses of CLIP and of SigLIP, over the pairs of all workers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(scores_BB: Tensor) -> Tensor:
    """Symmetric cross-entropy of a text-by-video (or video-by-text) matrix of scaled scores; the truth is the diagonal.

    scores_BB: [B, B], already times exp(logit_scale). Returns a scalar, the mean of both directions (method: CLIP, eq. of
    its figure 3; VoP section 3.1).
    """
    truth_B = torch.arange(len(scores_BB), device=scores_BB.device)
    return (F.cross_entropy(scores_BB, truth_B) + F.cross_entropy(scores_BB.T, truth_B)) / 2


def sigmoid_loss(scores_BB: Tensor) -> Tensor:
    """Each pair by itself: is this text of this video? The mean over B of the sums over a row.

    scores_BB: [B, B], already times exp(logit_scale) and with the logit bias added. Returns a scalar (Zhai et al., ICCV 2023,
    eq. 1 of section 3.2).
    """
    sign_BB = 2 * torch.eye(len(scores_BB), device=scores_BB.device, dtype=scores_BB.dtype) - 1
    return -F.logsigmoid(sign_BB * scores_BB).sum() / len(scores_BB)
