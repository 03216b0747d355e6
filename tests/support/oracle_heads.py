"""The slow reference of the heads: what their papers' code computes, for one text and one video at a time, in double.

Frames and texts are lists of vectors, real ones alone; parameters come by their names in a model. Nothing of `vop` is called.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.support.oracle import attention, gelu, layer_norm, number, quick_gelu, scaled, unit

Parameters = dict[str, Tensor]
Vectors = list[Tensor]


def seqtransf(parameters: Parameters, config: Any, frames: Vectors, blocks: Any) -> Vectors:
    """Frames with positions through pre-norm blocks, and the frames added. blocks: for their sizes and activation."""
    hidden = [frame + number(parameters["position"])[f] for f, frame in enumerate(frames)]
    for block in blocks:
        attn = block.attn
        fused = number(attn.in_proj_weight), number(attn.in_proj_bias)
        out = number(attn.out_proj.weight), number(attn.out_proj.bias)
        attended = attention([layer_norm(block.ln_1, h) for h in hidden], *fused, *out, heads=attn.num_heads, causal=False)
        hidden = [h + a for h, a in zip(hidden, attended, strict=True)]
        act = quick_gelu if type(block.mlp.gelu).__name__ == "QuickGELU" else gelu
        for f, h in enumerate(hidden):
            inner = act(number(block.mlp.c_fc.weight) @ layer_norm(block.ln_2, h) + number(block.mlp.c_fc.bias))
            hidden[f] = h + number(block.mlp.c_proj.weight) @ inner + number(block.mlp.c_proj.bias)
    return [h + frame for h, frame in zip(hidden, frames, strict=True)]


def seqlstm(parameters: Parameters, config: Any, frames: Vectors, blocks: Any) -> Vectors:
    """Gates input, forget, cell, output of an LSTM from the first frame to the last, and the frames added."""
    weight_x, weight_h, bias_x, bias_h = (
        number(parameters[f"lstm.{name}_l0"]) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    hidden = cell = torch.zeros_like(frames[0])
    found = []
    for frame in frames:
        i, f, g, o = (weight_x @ frame + bias_x + weight_h @ hidden + bias_h).chunk(4)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        found.append(hidden + frame)
    return found


def mean(parameters: Parameters, config: Any, tokens: Vectors, frames: Vectors) -> Tensor:
    """The cosine of the end token with the mean of the frames' directions."""
    return unit(tokens[-1]) @ unit(sum(map(unit, frames), torch.zeros_like(frames[0])) / len(frames))


def xpool(parameters: Parameters, config: Any, tokens: Vectors, frames: Vectors) -> Tensor:
    """A vector for this pair, and its cosine with the end token."""

    def linear(name: str, x: Tensor) -> Tensor:
        return number(parameters[f"{name}.weight"]) @ x + number(parameters[f"{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        return scaled(x, number(parameters[f"{name}.weight"]), number(parameters[f"{name}.bias"]), 1e-5)

    query = linear("query", norm("norm_in", tokens[-1]))
    keys, values = ([linear(name, norm("norm_in", frame)) for frame in frames] for name in ("key", "value"))
    d = len(query) // config.heads
    pooled = []
    for head in range(config.heads):
        own = slice(head * d, (head + 1) * d)
        weights = torch.stack([query[own] @ key[own] / math.sqrt(d) for key in keys]).exp()
        pooled.append(sum(w * value[own] for w, value in zip(weights / weights.sum(), values, strict=True)))
    a = norm("norm_pooled", linear("out", torch.cat(pooled)))
    return unit(tokens[-1]) @ unit(norm("norm_out", a + linear("linear", a)))


def wti(parameters: Parameters, config: Any, tokens: Vectors, frames: Vectors) -> Tensor:
    """Each token's best frame and each frame's best token, weighted."""
    token_weights, frame_weights = (
        wti_weights(parameters, config, "of_tokens", tokens),
        wti_weights(parameters, config, "of_frames", frames),
    )
    similar = [[unit(token) @ unit(frame) for frame in frames] for token in tokens]
    of_text = sum(w * max(row) for w, row in zip(token_weights, similar, strict=True))
    of_video = sum(w * max(row[f] for row in similar) for f, w in enumerate(frame_weights))
    return (of_text + of_video) / 2


def wti_weights(parameters: Parameters, config: Any, network: str, vectors: Vectors) -> Vectors:
    """What a network of linear layers with ReLU between gives each vector, as a softmax over them."""
    layers = {"none": 0, "linear": 1, "mlp": 2, "deep": 3}[config.weights]
    logits = []
    for x in vectors:
        for layer in range(layers):
            x = number(parameters[f"{network}.{2 * layer}.weight"]) @ x + number(parameters[f"{network}.{2 * layer}.bias"])
            x = x.clamp_min(0) if layer < layers - 1 else x
        logits.append(x[0] if layers else torch.zeros((), dtype=torch.float64))
    weights = torch.stack(logits).exp()
    return list(weights / weights.sum())


def cdcr(parameters: Parameters, config: Any, texts: list[Vectors], videos: list[Vectors]) -> Tensor:
    """The mean correlation of the channels of matched tokens and frames against what it should be."""
    total = []
    for network, own, other in (("of_tokens", texts, videos), ("of_frames", videos, texts)):
        x, y, weights = [], [], []
        for vectors, candidates in zip(own, other, strict=True):
            weights += wti_weights(parameters, config, network, vectors)
            for vector in map(unit, vectors):
                x.append(vector)
                y.append(max(map(unit, candidates), key=lambda c, v=vector: float((v @ c).detach())))  # type: ignore[misc]
        x_NE, y_NE = ((m - m.mean(0)) / m.std(0) for m in (torch.stack(x), torch.stack(y)))
        total.append(sum(w * torch.outer(a, b) for w, a, b in zip(weights, x_NE, y_NE, strict=True)) / len(texts))
    c_EE = (total[0] + total[1]) / 2
    loss = torch.zeros((), dtype=torch.float64)
    for d in range(len(c_EE)):
        for e in range(len(c_EE)):
            loss = loss + (config.cdcr_diagonal * (c_EE[d, e] - 1) ** 2 if d == e else config.cdcr_rest * c_EE[d, e] ** 2)
    return config.cdcr * loss


STAGES: dict[str, Callable[..., Vectors]] = {"seqtransf": seqtransf, "seqlstm": seqlstm}
INTERACTIONS: dict[str, Callable[..., Tensor]] = {"mean": mean, "xpool": xpool, "wti": wti}


def below(parameters: Parameters, prefix: str) -> Parameters:
    """The parameters of a part by their names in it."""
    return {name.removeprefix(prefix): p for name, p in parameters.items() if name.startswith(prefix)}
