"""Mean: the mean of a video's frames by cosine (CLIP4Clip's "meanP": Luo et al., Neurocomputing 2022), as in VoP.

0 parameters. Default learning rate 0.0: nothing is trained.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from vop.model.head import Head as Interaction

LEARNING_RATE = 0.0


class Head(Interaction):
    """Rows are unit embeddings [E]; a score is their dot product."""

    dot = True

    def text_rows(self, text_BTE: Tensor, mask_BT: Tensor) -> Tensor:
        """Unit embeddings [B, E]."""
        return F.normalize(text_BTE[:, 0], dim=-1)

    def video_rows(self, frames_BFE: Tensor, mask_BF: Tensor) -> Tensor:
        """Each frame's embedding is normalized, the real frames' are averaged, the average is normalized again: [B, E]."""
        # In double: a clip and its reverse then have the same average to the last bit of fp32.
        weights_BF1 = mask_BF[..., None].double()
        mean_BE = (F.normalize(frames_BFE, dim=-1).double() * weights_BF1).sum(1) / weights_BF1.sum(1)
        return F.normalize(mean_BE, dim=-1).float()

    def scores(self, text_CS: Tensor, video_NR: Tensor) -> Tensor:
        """Dot products [C, N]."""
        return text_CS @ video_NR.T
