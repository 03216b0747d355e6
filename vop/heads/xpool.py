"""X-Pool: each text pools a video's frames by attention (Gorti et al., CVPR 2022).

1,316,352 parameters on ViT-B/32. Default learning rate 3e-05. A score is the cosine of the text with what it pooled, which
goes through two layer norms and a linear layer for each pair. No vector of a pair is formed for that: both norms and the
cosine need three numbers, each a quadratic form in the pair's attention weights with a small matrix that belongs to the video
alone. Where there is dropout, which acts on each pair's vector, training computes the plain form.

K = heads * F atoms of a video: a frame as a head sees it.
"""

from __future__ import annotations

import open_clip
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vop.config import ConfigError, HeadConfig
from vop.model.head import Head as Interaction
from vop.model.walkers import embedding_width

LEARNING_RATE = 3e-5
SHARED = 2  # rows that all videos have beside their atoms: what the shifts of the second and the third norm give


class Config(HeadConfig):
    """Options of X-Pool."""

    heads: int = Field(1, ge=1, le=64, description="of the attention over frames; published: 1")
    dropout: float = Field(0.3, ge=0, lt=1, description="in training; published: 0.3 or 0.4. With 0 training is cheaper too")


class Head(Interaction):
    """Rows: of a text its query and its unit embedding; of a video keys, values, Gram matrices of the values, mask."""

    def __init__(self, config: Config, clip: open_clip.CLIP, frames: int) -> None:
        super().__init__(config, clip, frames)
        E = embedding_width(clip)
        if E % config.heads:
            raise ConfigError(f"head.heads: {config.heads} does not divide {E}, the width of this CLIP's embeddings")
        self.frames, self.heads, self.width, self.dropout = frames, config.heads, E, config.dropout
        self.query, self.key, self.value, self.out, self.linear = (nn.Linear(E, E) for _ in range(5))
        for layer in (self.query, self.key, self.value, self.out, self.linear):
            nn.init.eye_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.norm_in, self.norm_pooled, self.norm_out = (nn.LayerNorm(E) for _ in range(3))

    @property
    def plain(self) -> bool:
        """Whether a vector is formed for each pair."""
        return self.training and self.dropout > 0

    def text_rows(self, text_BTE: Tensor, mask_BT: Tensor) -> Tensor:
        """Query, scaled for the attention, and unit embedding: [B, 2E]."""
        text_BE = text_BTE[:, 0].double()
        query_BE = _linear(self.query, _norm(self.norm_in, text_BE)) * (self.width // self.heads) ** -0.5
        return torch.cat([query_BE, F.normalize(text_BE, dim=-1)], dim=1).to(text_BTE.dtype)

    def video_rows(self, frames_BFE: Tensor, mask_BF: Tensor) -> Tensor:
        """Keys [F, E], values [K, E], mask [F], and between them, if not `plain`, Gram matrices [3, K + 2, K + 2]."""
        # In double, and so that no frame's numbers depend on its place: a clip and its reverse shall score the same.
        normed_BFE = _norm(self.norm_in, frames_BFE.double())
        key_BFE = _linear(self.key, normed_BFE)
        atoms_BKE = self._atoms(_linear(self.value, normed_BFE))
        grams: list[Tensor] = []
        if not self.plain:
            o_BKE = atoms_BKE - atoms_BKE.mean(-1, keepdim=True)
            beta_BKE = _centred(self._residual(o_BKE * self.norm_pooled.weight))
            atoms_BKE = beta_BKE * self.norm_out.weight
            gamma_E, shift_SE = self._shared(torch.float64)
            grams = [
                _gram(o_BKE) / self.width,
                _gram(beta_BKE, gamma_E[None]) / self.width,
                _gram(atoms_BKE, shift_SE),
            ]
            grams = [F.pad(gram, (0, atoms_BKE.shape[1] + SHARED - gram.shape[1]) * 2) for gram in grams]
        parts = [key_BFE, atoms_BKE, *grams, mask_BF.double()]
        return torch.cat([part.flatten(1) for part in parts], dim=1).to(frames_BFE.dtype)

    def scores(self, text_CS: Tensor, video_NR: Tensor) -> Tensor:
        """Cosines [C, N] of texts with what they pool."""
        N, E, frames = len(video_NR), self.width, self.frames
        K = self.heads * frames
        sizes = [frames * E, K * E, 0 if self.plain else 3 * (K + SHARED) ** 2, frames]
        key_NX, atoms_NX, grams_NX, mask_NF = video_NR.split(sizes, dim=1)
        query_CE, unit_CE = text_CS.split(E, dim=1)
        weights_NKC = self._weights(query_CE, key_NX.reshape(N, frames, E), mask_NF)
        if self.plain:
            return self._plain(weights_NKC, atoms_NX.reshape(N, K, E), unit_CE)
        grams_3NKK = grams_NX.reshape(N, 3, K + SHARED, K + SHARED).unbind(1)
        dots_NKC = (atoms_NX.reshape(N * K, E) @ unit_CE.T).view(N, K, -1)
        return self._collapsed(weights_NKC, dots_NKC, self._shared(unit_CE.dtype)[1] @ unit_CE.T, grams_3NKK)

    def numbers_per_pair(self, text_width: int) -> int:
        """Weights, dot products, their products with a Gram matrix, and one more of that size."""
        return 4 * self.heads * self.frames + 8

    def _weights(self, query_CE: Tensor, key_NFE: Tensor, mask_NF: Tensor) -> Tensor:
        """The attention's weights [N, K, C] of each atom; those of a head sum to 1."""
        padding_NF1 = torch.zeros_like(mask_NF).masked_fill(mask_NF < 0.5, -torch.inf)[..., None]
        found = []
        for key_NFd, query_Cd in zip(key_NFE.chunk(self.heads, -1), query_CE.chunk(self.heads, -1), strict=True):
            logits_NFC = (key_NFd.flatten(0, 1) @ query_Cd.T).unflatten(0, key_NFd.shape[:2])
            found.append((logits_NFC + padding_NF1).softmax(dim=1))
        return found[0] if self.heads == 1 else torch.cat(found, dim=1)

    def _atoms(self, value_BFE: Tensor) -> Tensor:
        """What the output layer makes of each head's part of each frame, [B, K, E]; the weights sum up these."""
        bias_E = self.out.bias.to(value_BFE.dtype) / self.heads  # the weights of all heads sum to their number
        parts = zip(value_BFE.chunk(self.heads, -1), self.out.weight.to(value_BFE.dtype).chunk(self.heads, 1), strict=True)
        return torch.cat([value_BFd @ weight_Ed.T + bias_E for value_BFd, weight_Ed in parts], dim=1)

    def _residual(self, x: Tensor) -> Tensor:
        """x and what the linear layer makes of it, without its bias."""
        return x + x @ self.linear.weight.to(x.dtype).T

    def _shared(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """What the shifts of the norms give: gamma [E], in front of the third norm; behind it gamma and the shift [2, E]."""
        shift_E = self.norm_pooled.bias.to(dtype)
        gamma_E = _centred(self._residual(shift_E) + self.linear.bias.to(dtype))
        return gamma_E, torch.stack([gamma_E * self.norm_out.weight.to(dtype), self.norm_out.bias.to(dtype)])

    def _collapsed(self, w_NKC: Tensor, dots_NKC: Tensor, shared_2C: Tensor, grams: tuple[Tensor, ...]) -> Tensor:
        """Scores [C, N] from weights and dot products alone; no vector of a pair is formed.

        The pooled vector's standard deviation, that of what enters the third norm, and the length of what leaves it are
        those of the same sums of atoms, so each is a quadratic form in the weights.
        """
        K = w_NKC.shape[1]
        pooled, entering, leaving = grams
        first_NC = torch.rsqrt(_square(pooled[:, :K, :K], w_NKC) + self.norm_pooled.eps)
        square_NC, (with_gamma_NC,) = _square(entering[:, :K, :K], w_NKC), _linear_parts(entering, w_NKC, 1)
        variance_NC = first_NC * (first_NC * square_NC + 2 * with_gamma_NC) + entering[:, K, K, None]
        second_NC = torch.rsqrt(variance_NC + self.norm_out.eps)
        atom_NC = first_NC * second_NC  # what an atom is multiplied with beside its weight; gamma: second, the shift: 1
        square_NC, (with_gamma_NC, with_shift_NC) = _square(leaving[:, :K, :K], w_NKC), _linear_parts(leaving, w_NKC, 2)
        length_NC = atom_NC * (atom_NC * square_NC + 2 * (second_NC * with_gamma_NC + with_shift_NC))
        gamma_gamma, gamma_shift, shift_shift = (leaving[:, K + i, K + j, None] for i, j in ((0, 0), (0, 1), (1, 1)))
        length_NC = length_NC + second_NC * (second_NC * gamma_gamma + 2 * gamma_shift) + shift_shift
        dot_NC = atom_NC * (w_NKC * dots_NKC).sum(1) + second_NC * shared_2C[0] + shared_2C[1]
        return (dot_NC / length_NC.clamp_min(0).sqrt()).T

    def _plain(self, weights_NKC: Tensor, atoms_NKE: Tensor, unit_CE: Tensor) -> Tensor:
        """Scores [C, N] by a vector for each pair."""
        pooled_NCE = self.norm_pooled(weights_NKC.transpose(1, 2) @ atoms_NKE)
        out_NCE = self.norm_out(pooled_NCE + F.dropout(self.linear(pooled_NCE), self.dropout, self.training))
        return torch.einsum("nce,ce->cn", F.normalize(out_NCE, dim=-1), unit_CE)


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))


def _norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x, list(norm.normalized_shape), norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.eps)


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


def _gram(atoms_BKE: Tensor, shared_SE: Tensor | None = None) -> Tensor:
    """Dot products of the atoms, and of the rows that all videos share: [B, K + S, K + S]."""
    if shared_SE is not None:
        atoms_BKE = torch.cat([atoms_BKE, shared_SE.expand(len(atoms_BKE), -1, -1)], dim=1)
    return atoms_BKE @ atoms_BKE.transpose(1, 2)


def _square(gram_NKK: Tensor, w_NKC: Tensor) -> Tensor:
    """w' G w for each pair: [N, C]."""
    return (torch.bmm(gram_NKK, w_NKC) * w_NKC).sum(1)


def _linear_parts(gram_NXX: Tensor, w_NKC: Tensor, count: int) -> tuple[Tensor, ...]:
    """The first `count` shared rows of a Gram matrix times the weights: each [N, C]."""
    K = w_NKC.shape[1]
    return torch.bmm(gram_NXX[:, K : K + count, :K], w_NKC).unbind(1)
