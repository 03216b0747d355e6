"""The slow reference of DiscoVLA: one token, frame, caption and pair at a time, in double precision.

Nothing of `vop` is called.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.support.oracle import Parameters, layer_norm, number, quick_gelu, unit
from tests.support.oracle_parts import (
    TEXT,
    VISUAL,
    Tokens,
    added,
    attended,
    below,
    fed,
    frames_of,
    fused_lora,
    mean_of,
    tempme_text,
    words_of,
)

text = tempme_text  # of a text that stands alone: low-rank changes, and nothing else


def adapted(parameters: Parameters, place: str, y: Tensor) -> Tensor:
    own = below(parameters, f"{place}.disco.")
    return own["up.weight"] @ quick_gelu(own["down.weight"] @ y + own["down.bias"]) + own["up.bias"]


def video_classes(clip: Any, parameters: Parameters, pixels_FCHW: Tensor, mask_F: Tensor) -> Tokens:
    """The class tokens that leave the last layer."""
    frames = frames_of(clip, pixels_FCHW)
    for layer, block in enumerate(clip.visual.transformer.resblocks):
        place = f"{VISUAL}.{layer}"
        weight = fused_lora(block, parameters, place)
        normed = [[layer_norm(block.ln_1, token) for token in tokens] for tokens in frames]
        every = [token for tokens, real in zip(normed, mask_F, strict=True) if real for token in tokens]
        for f, tokens in enumerate(frames):
            out, _ = attended(block, normed[f], normed[f], weight=weight)
            if f"{place}.disco.up.bias" in parameters:
                (across,), _ = attended(block, [normed[f][0]], every, weight=weight)
                out[0] = adapted(parameters, place, out[0]) + across
            tokens = added(tokens, out)
            frames[f] = added(tokens, [fed(block, token) for token in tokens])
    return [tokens[0] for tokens in frames]


def video(clip: Any, parameters: Parameters, experiment: Any, pixels_FCHW: Tensor, mask_F: Tensor) -> Tensor:
    """The embedding [E] of a video."""
    return mean_of(clip, video_classes(clip, parameters, pixels_FCHW, mask_F), mask_F)


def frames(clip: Any, parameters: Parameters, pixels_FCHW: Tensor, mask_F: Tensor) -> Tokens:
    """The unit embeddings of the frames that are no padding."""
    classes = video_classes(clip, parameters, pixels_FCHW, mask_F)
    visual = clip.visual
    every = [unit(layer_norm(visual.ln_post, token) @ number(visual.proj)) for token in classes]
    return [frame for frame, real in zip(every, mask_F, strict=True) if real]


def captions(clip: Any, parameters: Parameters, ids: list[list[int]], mask_F: Tensor) -> Tokens:
    """The unit embeddings of the captions of a video's frames that are no padding."""
    texts = [words_of(clip, own) for own, real in zip(ids, mask_F, strict=True) if real]
    for layer, block in enumerate(clip.transformer.resblocks):
        place = f"{TEXT}.{layer}"
        weight = fused_lora(block, parameters, place)
        normed = [[layer_norm(block.ln_1, token) for token in tokens] for tokens in texts]
        every = [token for tokens in normed for token in tokens]
        for f, tokens in enumerate(texts):
            out, _ = attended(block, normed[f], normed[f], causal=True, weight=weight)
            if f"{place}.disco.up.bias" in parameters:
                (across,), _ = attended(block, [normed[f][-1]], every, weight=weight)
                out[-1] = adapted(parameters, place, out[-1]) + across
            tokens = added(tokens, out)
            texts[f] = added(tokens, [fed(block, token) for token in tokens])
    return [unit(layer_norm(clip.ln_final, tokens[-1]) @ number(clip.text_projection)) for tokens in texts]


def matched(own: Tokens, other: Tokens, scale: Tensor) -> Tensor:
    """Of one's captions and another's frames: each looks for its best, weighted by the softmax of what they find."""
    total = torch.zeros((), dtype=torch.float64)
    for these, those in ((own, other), (other, own)):
        best = torch.stack([max((x @ y for y in those), key=lambda c: float(c.detach())) for x in these])
        weights = (scale * best).exp()
        total = total + (weights / weights.sum()) @ best
    return total / 2


def cross_entropy(logits_BB: Tensor) -> Tensor:
    losses = [torch.log(row.exp().sum()) - row[place] for place, row in enumerate(logits_BB)]
    return torch.stack(losses).mean()


def loss(texts: Tokens, videos: Tokens, of_text: list[Tokens], of_video: list[Tokens], scale: Tensor, config: Any) -> Tensor:
    """The whole loss of B pairs: contrastive, alignment, distillation."""
    B = len(texts)
    scores = torch.stack([torch.stack([t @ v for v in videos]) for t in texts]) * scale
    frames_BB = torch.stack([torch.stack([matched(a, b, scale) for b in of_video]) for a in of_text]) * scale
    far = torch.zeros((), dtype=torch.float64)
    for teacher, student in ((frames_BB, scores), (frames_BB.T, scores.T)):
        for p_row, q_row in zip(teacher, student, strict=True):
            p, q = p_row.exp() / p_row.exp().sum(), q_row.exp() / q_row.exp().sum()
            far = far + (p * (p.log() - q.log())).sum() * 100 / B**2 / 2
    both = [(cross_entropy(x) + cross_entropy(x.T)) / 2 for x in (scores, frames_BB)]
    return both[0] + config.alignment * both[1] + config.distillation * far
