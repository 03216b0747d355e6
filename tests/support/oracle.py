"""The slow reference: what method.md says, step by step, in double precision.

One sample, frame, layer and head at a time; plain tensors; every prompt is an ordinary token that enters its
layer and is taken out after it. It reads CLIP's weights, the prompt tensors by their names, and the settings of an
Experiment. Nothing of `vop` is called, so an error there has no way in here.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

Parameters = dict[str, Tensor]


def text_embeddings(clip: Any, parameters: Parameters, experiment: Any, tokens_BT: Tensor) -> Tensor:
    """Unit embeddings [B, E] of captions given as token ids, zero after the end token."""
    return torch.stack([text_embedding(clip, parameters, experiment, ids.tolist()) for ids in tokens_BT])


def video_embeddings(clip: Any, parameters: Parameters, experiment: Any, pixels_BFCHW: Tensor, mask_BF: Tensor) -> Tensor:
    """Unit embeddings [B, E] of videos given as normalized frames; the mask is False where a frame is padding."""
    embeddings = []
    for pixels_FCHW, mask_F in zip(pixels_BFCHW, mask_BF, strict=True):
        frames = frame_embeddings(clip, parameters, experiment, pixels_FCHW)
        real = [unit(frame) for frame, is_real in zip(frames, mask_F, strict=True) if is_real]
        embeddings.append(unit(sum(real) / len(real)))
    return torch.stack(embeddings)


# --- the two encoders ---------------------------------------------------------------------------------------------


def text_embedding(clip: Any, parameters: Parameters, experiment: Any, ids: list[int]) -> Tensor:
    """[E] of one caption."""
    return unit(place_embeddings(clip, parameters, experiment, ids)[-1])


def place_embeddings(clip: Any, parameters: Parameters, experiment: Any, ids: list[int]) -> list[Tensor]:
    """[E] of each place of a caption up to its end, not normalized, always at the full context length."""
    length = experiment.text_prompt.length
    blocks = list(clip.transformer.resblocks)
    prompted = layers(experiment.text_prompt, len(blocks))
    room = clip.context_length - (length if 1 in prompted else 0)
    assert all(i == 0 for i in ids[room:]), "the caption is longer than the context leaves room for"
    ids = (ids + [0] * room)[:room]
    end = ids.index(max(ids))

    tokens = [number(clip.token_embedding.weight[i]) for i in ids]
    if 1 in prompted:
        tokens = insert(tokens, 1, prompts_of(parameters["text.prompts"], prompted, 1))
    tokens = [token + number(clip.positional_embedding)[place] for place, token in enumerate(tokens)]
    for layer, block in enumerate(blocks, start=1):
        if layer in prompted and layer > 1:
            tokens = insert(tokens, 1, prompts_of(parameters["text.prompts"], prompted, layer))
        tokens = transformer_layer(block, tokens, causal=True)
        if layer in prompted:
            del tokens[1 : 1 + length]
    return [layer_norm(clip.ln_final, token) @ number(clip.text_projection) for token in tokens[: end + 1]]


def frame_embeddings(clip: Any, parameters: Parameters, experiment: Any, pixels_FCHW: Tensor) -> list[Tensor]:
    """The embedding [E] of each frame of one video."""
    visual, config = clip.visual, experiment.video_prompt
    blocks = list(visual.transformer.resblocks)
    split = experiment.video_encoder.split_layer or len(blocks)
    prompted = layers(config, len(blocks))
    below = [layer for layer in prompted if layer <= split]
    above = [layer for layer in prompted if layer > split]
    frames = [patch_tokens(visual, pixels_CHW) for pixels_CHW in pixels_FCHW]

    for layer in range(1, split + 1):
        classes = [tokens[0] for tokens in frames]
        for f, tokens in enumerate(frames):
            prompts: list[Tensor] = []
            if layer in below:
                prompts = frame_prompts(parameters, config, below, layer, f, classes)
                if getattr(config, "role", "") == "cls":
                    tokens = [context_vector(parameters, config, classes, f), *tokens[1:]]
            tokens = insert(tokens, 1, prompts)
            if layer == 1:
                tokens = [layer_norm(visual.ln_pre, token) for token in tokens]
            tokens = transformer_layer(blocks[layer - 1], tokens)
            del tokens[1 : 1 + len(prompts)]
            frames[f] = tokens

    if split < len(blocks):
        frames = across_frames(blocks, parameters, frames, split, above)
    return [layer_norm(visual.ln_post, tokens[0]) @ number(visual.proj) for tokens in frames]


def across_frames(
    blocks: list[Any], parameters: Parameters, frames: list[list[Tensor]], split: int, above: list[int]
) -> list[list[Tensor]]:
    """The layers above the split: [class tokens | prompts | all patches], and back to tokens by frame."""
    count, patches = len(frames), len(frames[0]) - 1
    embedding = number(parameters["video.frame_embedding"])
    frames = [[token + embedding[f] for token in tokens] for f, tokens in enumerate(frames)]
    sequence = [tokens[0] for tokens in frames] + [patch for tokens in frames for patch in tokens[1:]]
    for layer in range(split + 1, len(blocks) + 1):
        prompts = prompts_of(parameters["video.video_prompts"], above, layer) if layer in above else []
        sequence = transformer_layer(blocks[layer - 1], insert(sequence, count, prompts))
        del sequence[count : count + len(prompts)]
    rest = [sequence[count + f * patches : count + (f + 1) * patches] for f in range(count)]
    return [[sequence[f], *rest[f]] for f in range(count)]


def patch_tokens(visual: Any, pixels_CHW: Tensor) -> list[Tensor]:
    """Class token and patches of one frame with their positional embeddings."""
    weight_DCpp = number(visual.conv1.weight)
    size = weight_DCpp.shape[-1]
    image = pixels_CHW.double()
    tokens = [number(visual.class_embedding)]
    for top in range(0, image.shape[1], size):
        for left in range(0, image.shape[2], size):
            patch = image[:, top : top + size, left : left + size]
            tokens.append((weight_DCpp * patch).flatten(1).sum(1))
    return [token + number(visual.positional_embedding)[place] for place, token in enumerate(tokens)]


# --- prompts ------------------------------------------------------------------------------------------------------


def layers(config: Any, count: int) -> list[int]:
    """The layers, from 1, that carry prompts."""
    if config.length == 0:
        return []
    first, last = (1, count) if config.depth == "all" else map(int, config.depth.split("-"))
    return list(range(first, last + 1))


def prompts_of(table: Tensor, prompted: list[int], layer: int) -> list[Tensor]:
    """The prompts of a layer, from a table that has a row for each prompted layer."""
    return list(number(table)[prompted.index(layer)])


def frame_prompts(
    parameters: Parameters, config: Any, prompted: list[int], layer: int, f: int, classes: list[Tensor]
) -> list[Tensor]:
    """The prompts of frame f: those that all frames share, and its own."""
    shared = prompts_of(parameters["video.prompts.generic"], prompted, layer)
    if config.name == "position":
        return shared + list(number(parameters["video.prompts.by_frame"])[prompted.index(layer)][f])
    if config.name == "context" and config.role == "prompts":
        vector, width = context_vector(parameters, config, classes, f), len(classes[0])
        return shared + [vector[p * width : (p + 1) * width] for p in range(config.specific_length)]
    return shared


def context_vector(parameters: Parameters, config: Any, classes: list[Tensor], f: int) -> Tensor:
    """What the context module and its fully connected layer make for frame f."""
    prefix = "video.prompts.context.net"
    if config.module == "transformer":
        context = transformer_context(parameters, classes)
    else:
        context = lstm(parameters, prefix, "", classes)
    if config.module == "bilstm":
        backward = lstm(parameters, prefix, "_reverse", classes[::-1])[::-1]
        context = [torch.cat([ahead, back]) for ahead, back in zip(context, backward, strict=True)]
    weight, bias = parameters["video.prompts.project.weight"], parameters["video.prompts.project.bias"]
    return number(weight) @ context[f] + number(bias)


def lstm(parameters: Parameters, prefix: str, direction: str, inputs: list[Tensor]) -> list[Tensor]:
    """One direction of one LSTM layer."""
    into, again = (number(parameters[f"{prefix}.weight_{kind}_l0{direction}"]) for kind in ("ih", "hh"))
    bias = sum(number(parameters[f"{prefix}.bias_{kind}_l0{direction}"]) for kind in ("ih", "hh"))
    hidden = cell = torch.zeros(again.shape[1], dtype=torch.double)
    outputs = []
    for x in inputs:
        enter, forget, change, leave = (into @ x + again @ hidden + bias).chunk(4)
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(change)
        hidden = torch.sigmoid(leave) * torch.tanh(cell)
        outputs.append(hidden)
    return outputs


def transformer_context(parameters: Parameters, classes: list[Tensor]) -> list[Tensor]:
    """Four pre-norm layers over the class tokens, each with the position of its frame added."""
    position = number(parameters["video.prompts.context.position"])
    tokens = [token + position[f] for f, token in enumerate(classes)]
    width = len(classes[0])
    for layer in range(4):
        own = f"video.prompts.context.net.layers.{layer}."
        weights = {name.removeprefix(own): number(p) for name, p in parameters.items() if name.startswith(own)}

        def norm(which: str, token: Tensor, weights: Parameters = weights) -> Tensor:
            return scaled(token, weights[f"{which}.weight"], weights[f"{which}.bias"], 1e-5)

        normed = [norm("norm1", token) for token in tokens]
        fused = weights["self_attn.in_proj_weight"], weights["self_attn.in_proj_bias"]
        out = weights["self_attn.out_proj.weight"], weights["self_attn.out_proj.bias"]
        attended = attention(normed, *fused, *out, heads=max(1, width // 64), causal=False)
        tokens = [token + change for token, change in zip(tokens, attended, strict=True)]
        for place, token in enumerate(tokens):
            inner = weights["linear1.weight"] @ norm("norm2", token) + weights["linear1.bias"]
            tokens[place] = token + weights["linear2.weight"] @ gelu(inner) + weights["linear2.bias"]
    return tokens


# --- one transformer layer ----------------------------------------------------------------------------------------


def transformer_layer(block: Any, tokens: list[Tensor], causal: bool = False) -> list[Tensor]:
    """All tokens through a whole pre-norm layer of CLIP."""
    attn, mlp = block.attn, block.mlp
    fused = number(attn.in_proj_weight), number(attn.in_proj_bias)
    out = number(attn.out_proj.weight), number(attn.out_proj.bias)
    normed = [layer_norm(block.ln_1, token) for token in tokens]
    attended = attention(normed, *fused, *out, heads=attn.num_heads, causal=causal)
    tokens = [token + change for token, change in zip(tokens, attended, strict=True)]
    activation = quick_gelu if type(mlp.gelu).__name__ == "QuickGELU" else gelu
    rise, rise_bias = number(mlp.c_fc.weight), number(mlp.c_fc.bias)
    fall, fall_bias = number(mlp.c_proj.weight), number(mlp.c_proj.bias)
    normed = [layer_norm(block.ln_2, token) for token in tokens]
    return [token + fall @ activation(rise @ row + rise_bias) + fall_bias for token, row in zip(tokens, normed, strict=True)]


def attention(
    tokens: list[Tensor], weight: Tensor, bias: Tensor, out: Tensor, out_bias: Tensor, heads: int, causal: bool
) -> list[Tensor]:
    """Multi-head attention of each token over all tokens, or over those up to itself."""
    tokens_LD = torch.stack(tokens)
    L, D = tokens_LD.shape
    query, key, value = (tokens_LD @ weight[i * D : (i + 1) * D].T + bias[i * D : (i + 1) * D] for i in range(3))
    place = torch.arange(L)
    hidden = (place[None, :] > place[:, None]) if causal else torch.zeros(L, L, dtype=torch.bool)
    results = []
    for head in range(heads):
        own = slice(head * D // heads, (head + 1) * D // heads)
        scores_LL = query[:, own] @ key[:, own].T / math.sqrt(D // heads)
        weights_LL = torch.exp(scores_LL.masked_fill(hidden, -math.inf))
        results.append(weights_LL / weights_LL.sum(1, keepdim=True) @ value[:, own])
    return list(torch.cat(results, dim=1) @ out.T + out_bias)


# --- small parts --------------------------------------------------------------------------------------------------


def number(weight: Tensor) -> Tensor:
    """A weight in double precision; gradients reach the weight itself."""
    return weight.double()


def insert(tokens: list[Tensor], place: int, more: list[Tensor]) -> list[Tensor]:
    return [*tokens[:place], *more, *tokens[place:]]


def unit(vector: Tensor) -> Tensor:
    return vector / vector.square().sum().sqrt()


def layer_norm(norm: Any, token: Tensor) -> Tensor:
    return scaled(token, number(norm.weight), number(norm.bias), norm.eps)


def scaled(token: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    centered = token - token.mean()
    return centered / torch.sqrt(centered.square().mean() + eps) * weight + bias


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
