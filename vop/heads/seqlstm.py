"""seqLSTM: an LSTM over the frames, added to them (CLIP4Clip: Luo et al., Neurocomputing 2022).

2,101,248 parameters on ViT-B/32. Default learning rate 0.0001. A frame stage: an interaction follows (`seqlstm+xpool`), by
default the mean.
"""

from __future__ import annotations

import open_clip
import torch
from torch import Tensor, nn

from vop.config import HeadConfig
from vop.model.head import FrameStage
from vop.model.walkers import embedding_width

LEARNING_RATE = 1e-4


class Stage(FrameStage):
    """One direction, one layer: frames of padding, which come last, change no other."""

    def __init__(self, config: HeadConfig, clip: open_clip.CLIP, frames: int) -> None:
        super().__init__(config, clip, frames)
        E = embedding_width(clip)
        self.lstm = nn.LSTM(E, E, batch_first=True)

    def forward(self, frames_BFE: Tensor, mask_BF: Tensor) -> Tensor:
        """[B, F, E]."""
        return torch.as_tensor(self.lstm(frames_BFE)[0]) + frames_BFE
