"""WTI: every token of a text looks for its best frame, every frame for its best token, weighted (DRL: Wang et al., 2022).

526,338 parameters on ViT-B/32. Default learning rate 0.0001. Published behind seqtransf (`head.name=seqtransf+wti`), and with
CDCR, a loss that decorrelates the channels of matched tokens and frames. DRL multiplies what padding offers by 0, so that it
can be a maximum; here it never is.
"""

from __future__ import annotations

from typing import Literal

import open_clip
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vop.config import HeadConfig
from vop.model.head import Head as Interaction
from vop.model.walkers import embedding_width

LEARNING_RATE = 1e-4
INIT_STD = 0.02


class Config(HeadConfig):
    """Options of WTI."""

    weights: Literal["none", "linear", "mlp", "deep"] = Field(
        "mlp", description="the networks that weigh tokens and frames, of 1, 2 or 3 layers; none: all alike (DRL's TI)"
    )
    cdcr: float = Field(0.0, ge=0, description="the weight of CDCR in the loss; published: 0.001")
    cdcr_diagonal: float = Field(0.11, ge=0, description="of CDCR: each channel correlates with itself")
    cdcr_rest: float = Field(0.0, ge=0, description="of CDCR: no channel correlates with another; published: 0")


class Head(Interaction):
    """Rows: for each token or frame its unit embedding and its weight, which is 0 for padding and for nothing else."""

    tokens = True

    def __init__(self, config: Config, clip: open_clip.CLIP, frames: int) -> None:
        super().__init__(config, clip, frames)
        self.config, self.frames, self.width = config, frames, embedding_width(clip)
        layers = {"none": 0, "linear": 1, "mlp": 2, "deep": 3}[config.weights]
        self.of_tokens, self.of_frames = (_network(self.width, layers) for _ in range(2))

    def text_rows(self, text_BTE: Tensor, mask_BT: Tensor) -> Tensor:
        """[B, T * (E + 1)]."""
        return _weighted(self.of_tokens, text_BTE, mask_BT)

    def video_rows(self, frames_BFE: Tensor, mask_BF: Tensor) -> Tensor:
        """[B, F * (E + 1)]."""
        return _weighted(self.of_frames, frames_BFE, mask_BF)

    def scores(self, text_CS: Tensor, video_NR: Tensor) -> Tensor:
        """The mean of both directions' weighted sums of best similarities: [C, N]."""
        (token_CTE, token_CT), (frame_NFE, frame_NF) = self._parts(text_CS), self._parts(video_NR)
        longest = int((token_CT > 0).sum(1).max()) if len(token_CT) else 0
        token_CTE, token_CT = token_CTE[:, :longest], token_CT[:, :longest]
        similar = (token_CTE.flatten(0, 1) @ frame_NFE.flatten(0, 1).T).view(*token_CT.shape, *frame_NF.shape)
        best_frame_CTN = (similar + _padding(frame_NF)).amax(3)
        best_token_CNF = (similar + _padding(token_CT)[..., None, None]).amax(1)
        of_text_CN = torch.einsum("ct,ctn->cn", token_CT, best_frame_CTN)
        return (of_text_CN + torch.einsum("nf,cnf->cn", frame_NF, best_token_CNF)) / 2

    def extra_loss(self, text_BS: Tensor, video_BR: Tensor) -> Tensor | None:
        """CDCR: channels of tokens with those of their best frame, and of frames with those of their best token."""
        if not self.config.cdcr:
            return None
        token_BTE, token_BT = self._parts(text_BS)
        frame_BFE, frame_BF = self._parts(video_BR)
        similar_BTF = token_BTE @ frame_BFE.transpose(1, 2)
        frame_BT = (similar_BTF + _padding(frame_BF)[:, None]).argmax(2)
        token_BF = (similar_BTF + _padding(token_BT)[..., None]).argmax(1)
        each_B1 = torch.arange(len(text_BS), device=text_BS.device)[:, None]
        ways = (
            (token_BTE, frame_BFE[each_B1, frame_BT], token_BT),
            (frame_BFE, token_BTE[each_B1, token_BF], frame_BF),
        )
        rows = [(_standard(x[w > 0]) * w[w > 0, None] / len(w), _standard(y[w > 0])) for x, y, w in ways]
        diagonal_E = sum((x * y).sum(0) for x, y in rows) / 2
        assert isinstance(diagonal_E, Tensor)
        loss = self.config.cdcr_diagonal * (diagonal_E - 1).square().sum()
        if self.config.cdcr_rest:
            whole_EE = sum((x.T @ y for x, y in rows), torch.zeros((), device=text_BS.device)) / 2
            loss = loss + self.config.cdcr_rest * (whole_EE.square().sum() - diagonal_E.square().sum())
        return self.config.cdcr * loss

    def numbers_per_pair(self, text_width: int) -> int:
        """Similarities of all tokens and frames, and with padding left out."""
        return 3 * self.frames * (text_width // (self.width + 1)) + 8

    def _parts(self, rows_BX: Tensor) -> tuple[Tensor, Tensor]:
        """Unit embeddings [B, X, E] and weights [B, X]."""
        parts_BXE = rows_BX.unflatten(1, (-1, self.width + 1))
        return parts_BXE[..., :-1], parts_BXE[..., -1]


def _network(width: int, layers: int) -> nn.Sequential:
    hidden = [part for _ in range(layers - 1) for part in (nn.Linear(width, width), nn.ReLU())]
    network = nn.Sequential(*hidden, *([nn.Linear(width, 1)] if layers else []))
    for part in network:
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=INIT_STD)
            nn.init.zeros_(part.bias)
    return network


def _weighted(network: nn.Sequential, x_BXE: Tensor, mask_BX: Tensor) -> Tensor:
    """Unit embeddings, each with its weight behind it, zeros for padding: [B, X * (E + 1)]."""
    logits_BX = network(x_BXE)[..., 0].double() if len(network) else x_BXE.new_zeros(mask_BX.shape).double()
    weight_BX = logits_BX.masked_fill(~mask_BX, -torch.inf).softmax(1).to(x_BXE.dtype)
    weight_BX = weight_BX.clamp_min(torch.finfo(torch.float32).tiny)  # 0 says padding
    parts_BXE = torch.cat([F.normalize(x_BXE, dim=-1), weight_BX[..., None]], dim=-1)
    return (parts_BXE * mask_BX[..., None]).flatten(1)


def _padding(weight: Tensor) -> Tensor:
    """What is added to similarities: minus infinity for padding."""
    return torch.zeros_like(weight).masked_fill(weight <= 0, -torch.inf)


def _standard(x_NE: Tensor) -> Tensor:
    """Each channel with mean 0 and standard deviation 1 over the rows."""
    return (x_NE - x_NE.mean(0)) * x_NE.var(0).clamp_min(1e-12).rsqrt()
