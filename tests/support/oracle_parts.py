"""The slow reference of methods that work inside the blocks: one token, frame and head at a time, in double precision.

Each method is a pair of functions, of a text and of a video, that write out its layers. Nothing of `vop` is called.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.support.oracle import Parameters, gelu, layer_norm, number, patch_tokens, quick_gelu, scaled, unit

Tokens = list[Tensor]
TEXT, VISUAL = "clip.transformer.resblocks", "clip.visual.transformer.resblocks"


def frames_of(clip: Any, pixels_FCHW: Tensor) -> list[Tokens]:
    """The tokens of each frame as they enter the first layer."""
    visual = clip.visual
    return [[layer_norm(visual.ln_pre, token) for token in patch_tokens(visual, pixels)] for pixels in pixels_FCHW]


def mean_of(clip: Any, classes: Tokens, mask_F: Tensor) -> Tensor:
    """The embedding [E] of a video from the class tokens that leave the last layer."""
    visual = clip.visual
    frames = [unit(layer_norm(visual.ln_post, token) @ number(visual.proj)) for token in classes]
    real = [frame for frame, is_real in zip(frames, mask_F, strict=True) if is_real]
    return unit(sum(real, torch.zeros_like(real[0])) / len(real))


def words_of(clip: Any, ids: list[int]) -> Tokens:
    """The tokens of a caption up to its end, with their positions."""
    end = ids.index(max(ids))
    embedded = [number(clip.token_embedding.weight[i]) for i in ids[: end + 1]]
    return [token + number(clip.positional_embedding)[place] for place, token in enumerate(embedded)]


def text_of(clip: Any, tokens: Tokens) -> Tensor:
    """The embedding [E] of a caption from what leaves the last layer."""
    return unit(layer_norm(clip.ln_final, tokens[-1]) @ number(clip.text_projection))


def attended(
    block: Any, queries: Tokens, keys: Tokens, bias: Tokens | None = None, causal: bool = False, weight: Tensor | None = None
) -> tuple[Tokens, Tokens]:
    """What the attention gives each query over the keys, and its keys averaged over heads. bias: on the logits of each key."""
    attn, D = block.attn, len(queries[0])
    weight = number(attn.in_proj_weight if weight is None else weight)
    bias_3D, heads, d = number(attn.in_proj_bias), attn.num_heads, D // attn.num_heads
    made = [
        [weight[i * D : (i + 1) * D] @ x + bias_3D[i * D : (i + 1) * D] for x in xs]
        for i, xs in enumerate((queries, keys, keys))
    ]
    key_LD, value_LD = torch.stack(made[1]), torch.stack(made[2])
    bias_L = torch.zeros(len(keys)) if bias is None else torch.stack(bias)
    outputs = []
    for place, query in enumerate(made[0]):
        seen = slice(place + 1) if causal else slice(None)
        parts = []
        for head in range(heads):
            own = slice(head * d, (head + 1) * d)
            weights = (key_LD[seen, own] @ query[own] / math.sqrt(d) + bias_L[seen]).softmax(0)
            parts.append(weights @ value_LD[seen, own])
        outputs.append(number(attn.out_proj.weight) @ torch.cat(parts) + number(attn.out_proj.bias))
    return outputs, [sum(key.split(d)) / heads for key in made[1]]


def fed(block: Any, token: Tensor, scale: Tensor | None = None) -> Tensor:
    """What the MLP gives for a token. scale: of its hidden numbers."""
    mlp = block.mlp
    activation = quick_gelu if type(mlp.gelu).__name__ == "QuickGELU" else gelu
    hidden = activation(number(mlp.c_fc.weight) @ layer_norm(block.ln_2, token) + number(mlp.c_fc.bias))
    return number(mlp.c_proj.weight) @ (hidden if scale is None else hidden * scale) + number(mlp.c_proj.bias)


def added(tokens: Tokens, changes: Tokens) -> Tokens:
    return [token + change for token, change in zip(tokens, changes, strict=True)]


def below(parameters: Parameters, prefix: str) -> Parameters:
    """In double, the parameters whose names begin so, without that."""
    return {name.removeprefix(prefix): number(p) for name, p in parameters.items() if name.startswith(prefix)}


# --- TempMe ---------------------------------------------------------------------------------------------------------


def fused_lora(block: Any, parameters: Parameters, place: str) -> Tensor:
    own = below(parameters, f"{place}.attn.parametrizations.in_proj_weight.")
    return own["original"] + own["0.up"] @ own["0.down"]


def tempme_text(clip: Any, parameters: Parameters, experiment: Any, ids: list[int]) -> Tensor:
    """Low-rank changes alone."""
    tokens = words_of(clip, ids)
    for layer, block in enumerate(clip.transformer.resblocks):
        weight = fused_lora(block, parameters, f"{TEXT}.{layer}")
        normed = [layer_norm(block.ln_1, token) for token in tokens]
        tokens = added(tokens, attended(block, normed, normed, causal=True, weight=weight)[0])
        tokens = added(tokens, [fed(block, token) for token in tokens])
    return text_of(clip, tokens)


def merge(tokens: Tokens, sizes: list[float], metric: Tokens, classes: int, count: int) -> tuple[Tokens, list[float]]:
    """`count` sources go into the targets that they are most like; places are counted with the class tokens."""
    sources = [i for i in range(classes, len(tokens)) if i % 2 == classes % 2]
    targets = [i for i in range(classes, len(tokens)) if i % 2 != classes % 2]
    best = {
        s: max(((float((unit(metric[s]) @ unit(metric[t])).detach()), t) for t in targets), key=lambda pair: pair[0])
        for s in sources
        if targets
    }
    gone = sorted(best, key=lambda s: -best[s][0])[:count]
    sums = [token * size for token, size in zip(tokens, sizes, strict=True)]
    sizes = list(sizes)
    for source in gone:
        target = best[source][1]
        sums[target], sizes[target] = sums[target] + sums[source], sizes[target] + sizes[source]
    order = [*range(classes), *(s for s in sources if s not in gone), *targets]
    return [sums[i] / sizes[i] for i in order], [sizes[i] for i in order]


def tempme_video(
    clip: Any, parameters: Parameters, experiment: Any, pixels_FCHW: Tensor, mask_F: Tensor, joins: list[int]
) -> Tensor:
    """joins: how many sequences each layer makes one of."""
    config = experiment.tuning
    sequences = [(tokens, [1.0] * len(tokens)) for tokens in frames_of(clip, pixels_FCHW)]
    classes, late = 1, False
    for layer, block in enumerate(clip.visual.transformer.resblocks):
        place, k = f"{VISUAL}.{layer}", joins[layer]
        if k > 1:
            position, late, whole = number(parameters[f"{place}.merge.position"]), True, []
            for start in range(0, len(sequences), k):
                group = sequences[start : start + k]
                placed = [[token + position[start + g] for token in tokens] for g, (tokens, _) in enumerate(group)]
                plain, sizes = [tokens for tokens, _ in group], [sizes for _, sizes in group]
                one, metric, size = (
                    [x for part in parts for x in part[:classes]] + [x for part in parts for x in part[classes:]]
                    for parts in (placed, plain, sizes)
                )
                L = len(plain[0])
                count = min((L - classes) * k // 2, int(config.joined_share * k * L))
                whole.append(merge(one, size, metric, classes * k, count))
            sequences, classes = whole, classes * k
        for number_of, (tokens, sizes) in enumerate(sequences):
            normed = [layer_norm(block.ln_1, token) for token in tokens]
            bias = [torch.tensor(math.log(size)) for size in sizes]
            out, keys = attended(block, normed, normed, bias, weight=fused_lora(block, parameters, place))
            tokens, L = added(tokens, out), len(tokens)
            count = min((L - classes) // 2, int(config.share * L) if late else config.merged)
            tokens, sizes = merge(tokens, sizes, keys, classes, count)
            sequences[number_of] = added(tokens, [fed(block, token) for token in tokens]), sizes
    return mean_of(clip, [token for tokens, _ in sequences for token in tokens[:classes]], mask_F)


# --- Cross-Modal Adapter --------------------------------------------------------------------------------------------


def cross(parameters: Parameters, tower: str, layer: int, place: str, token: Tensor) -> Tensor:
    """y + up(QuickGELU(down(y))); the last numbers are by the visual adapter's weights where there is one."""
    own = below(parameters, f"{tower}.{layer}.{place}.")
    shared = below(parameters, f"{VISUAL}.{layer}.{place}.own.") or below(own, "own.")
    hidden = quick_gelu(own["down.weight"] @ token + own["down.bias"])
    up = [own["up.weight"] @ hidden + own["up.bias"], shared["weight"] @ hidden + shared["bias"]]
    return token + torch.cat(up)


def crossed(parameters: Parameters, tower: str, blocks: Any, tokens: Tokens, causal: bool) -> Tokens:
    for layer, block in enumerate(blocks):
        normed = [layer_norm(block.ln_1, token) for token in tokens]
        out = attended(block, normed, normed, causal=causal)[0]
        tokens = added(tokens, [cross(parameters, tower, layer, "cross_attention", y) for y in out])
        tokens = added(tokens, [cross(parameters, tower, layer, "cross_mlp", fed(block, token)) for token in tokens])
    return tokens


def cross_text(clip: Any, parameters: Parameters, experiment: Any, ids: list[int]) -> Tensor:
    """Behind attention and MLP of each layer."""
    return text_of(clip, crossed(parameters, TEXT, clip.transformer.resblocks, words_of(clip, ids), True))


def cross_video(clip: Any, parameters: Parameters, experiment: Any, pixels_FCHW: Tensor, mask_F: Tensor) -> Tensor:
    """The same, frame by frame."""
    blocks = clip.visual.transformer.resblocks
    return mean_of(clip, [crossed(parameters, VISUAL, blocks, x, False)[0] for x in frames_of(clip, pixels_FCHW)], mask_F)


# --- MV-Adapter -----------------------------------------------------------------------------------------------------


def mv_below(parameters: Parameters, tower: str, layer: int, depths: dict[str, int]) -> Parameters:
    """An adapter's parameters; the rows of its first layer by their factor, whose vector is the visual adapter's."""
    own = below(parameters, f"{tower}.{layer}.mv_adapter.")
    if "factor.linear.weight" in own:
        visual = depths[VISUAL] - (depths[tower] - layer)
        latent = number(parameters[f"{VISUAL}.{visual}.mv_adapter.factor.latent"])
        factor = own["factor.linear.weight"] @ latent + own["factor.linear.bias"]
        own["down.weight"] = torch.stack([row * f for row, f in zip(own["down.weight"], factor, strict=True)])
    return own


def mv_mixed(own: Parameters, block: Any, sequence: Tokens, seen: Callable[[int, int], bool]) -> Tokens:
    """Norm, one small block of two heads, activation. seen: whether a place sees another."""
    sequence = [scaled(x, own["norm.weight"], own["norm.bias"], 1e-5) for x in sequence]
    normed = [scaled(x, own["block.ln_1.weight"], own["block.ln_1.bias"], 1e-5) for x in sequence]
    rows = []
    for i, x in enumerate(normed):
        others = [y for j, y in enumerate(normed) if seen(i, j)]
        rows.append(attended(block, [x], others)[0][0])
    sequence = added(sequence, rows)
    return [quick_gelu(x) for x in added(sequence, [fed(block, x) for x in sequence])]


def mv_text(clip: Any, parameters: Parameters, experiment: Any, ids: list[int]) -> Tensor:
    """Words see those before them."""
    tokens, blocks = words_of(clip, ids), clip.transformer.resblocks
    depths = {TEXT: len(blocks), VISUAL: len(clip.visual.transformer.resblocks)}
    for layer, block in enumerate(blocks):
        own = mv_below(parameters, TEXT, layer, depths)
        normed = [layer_norm(block.ln_1, token) for token in tokens]
        tokens = added(tokens, attended(block, normed, normed, causal=True)[0])
        out = [fed(block, token) for token in tokens]
        narrow = [own["down.weight"] @ y + own["down.bias"] + own["position"][min(t, 31)] for t, y in enumerate(out)]
        mixed = mv_mixed(own, block.mv_adapter.block, narrow, lambda i, j: j <= i)
        tokens = added(tokens, [y + 0.1 * (own["up.weight"] @ x + own["up.bias"]) for y, x in zip(out, mixed, strict=True)])
    return text_of(clip, tokens)


def mv_video(clip: Any, parameters: Parameters, experiment: Any, pixels_FCHW: Tensor, mask_F: Tensor) -> Tensor:
    """Class tokens are gated by what the block makes of the video."""
    frames, blocks = frames_of(clip, pixels_FCHW), clip.visual.transformer.resblocks
    depths, F = {TEXT: len(clip.transformer.resblocks), VISUAL: len(blocks)}, len(frames)
    for layer, block in enumerate(blocks):
        own = mv_below(parameters, VISUAL, layer, depths)
        for f, tokens in enumerate(frames):
            normed = [layer_norm(block.ln_1, token) for token in tokens]
            frames[f] = added(tokens, attended(block, normed, normed)[0])
        out = [[fed(block, token) for token in tokens] for tokens in frames]
        narrow = [[quick_gelu(own["down.weight"] @ y + own["down.bias"]) for y in ys] for ys in out]
        sequence = [own["video"], *(ds[0] for ds in narrow), *(sum(ds[1:]) / (len(ds) - 1) for ds in narrow)]
        real = [True, *mask_F.tolist(), *mask_F.tolist()]
        placed = added(sequence, list(own["position"]))
        video, *rest = mv_mixed(own, block.mv_adapter.block, placed, lambda i, j, real=real: real[j])  # type: ignore[misc]
        for f in range(F):
            known = torch.cat([rest[f] + rest[F + f], own["of_video.weight"] @ video + own["of_video.bias"]]) * mask_F[f]
            hidden = (own["gate_down.weight"] @ known + own["gate_down.bias"]).clamp_min(0)
            rows = [(1 + own["gate_up.weight"] @ hidden) * rest[f], *narrow[f][1:]]
            change = [y + 0.1 * (own["up.weight"] @ x + own["up.bias"]) for y, x in zip(out[f], rows, strict=True)]
            frames[f] = added(frames[f], change)
    return mean_of(clip, [tokens[0] for tokens in frames], mask_F)


# --- ST-Adapter -----------------------------------------------------------------------------------------------------


def plain_text(clip: Any, parameters: Parameters, experiment: Any, ids: list[int]) -> Tensor:
    """CLIP's own."""
    tokens = words_of(clip, ids)
    for block in clip.transformer.resblocks:
        normed = [layer_norm(block.ln_1, token) for token in tokens]
        tokens = added(tokens, attended(block, normed, normed, causal=True)[0])
        tokens = added(tokens, [fed(block, token) for token in tokens])
    return text_of(clip, tokens)


def st_video(clip: Any, parameters: Parameters, experiment: Any, pixels_FCHW: Tensor, mask_F: Tensor) -> Tensor:
    """Before attention each patch sees the frame before and the frame after."""
    frames = frames_of(clip, pixels_FCHW)
    for layer, block in enumerate(clip.visual.transformer.resblocks):
        own = below(parameters, f"{VISUAL}.{layer}.st_adapter.")
        taps = own["over_time.weight"][:, 0].T
        changed = []
        for f, tokens in enumerate(frames):
            rows = [tokens[0]]
            for place, token in enumerate(tokens[1:], start=1):
                seen = own["over_time.bias"]
                for tap, other in enumerate((f - 1, f, f + 1)):
                    if 0 <= other < len(frames) and mask_F[other]:
                        seen = seen + taps[tap] * (own["down.weight"] @ frames[other][place] + own["down.bias"])
                rows.append(token + own["up.weight"] @ seen + own["up.bias"])
            changed.append(rows)
        for f, tokens in enumerate(changed):
            normed = [layer_norm(block.ln_1, token) for token in tokens]
            tokens = added(tokens, attended(block, normed, normed)[0])
            frames[f] = added(tokens, [fed(block, token) for token in tokens])
    return mean_of(clip, [tokens[0] for tokens in frames], mask_F)


# --- IA3 ------------------------------------------------------------------------------------------------------------


def scaled_layers(parameters: Parameters, tower: str, blocks: Any, tokens: Tokens, causal: bool) -> Tokens:
    """Attention and MLP written out once more, with each key, value and hidden vector scaled."""
    for layer, block in enumerate(blocks):
        own = {name: 1 + change for name, change in below(parameters, f"{tower}.{layer}.ia3.").items()}
        place = f"{tower}.{layer}."
        fused = [number(parameters[f"{place}attn.parametrizations.in_proj_{w}.original"]) for w in ("weight", "bias")]
        normed, heads = [layer_norm(block.ln_1, token) for token in tokens], block.attn.num_heads
        made = [fused[0] @ x + fused[1] for x in normed]
        query, key, value = zip(*(x.chunk(3) for x in made), strict=True)
        D = len(query[0])
        key_LD, value_LD = (torch.stack([x * own[name] for x in xs]) for name, xs in (("key", key), ("value", value)))
        out = []
        for i, q in enumerate(query):
            seen, parts = slice(i + 1) if causal else slice(None), []
            for h in range(heads):
                head = slice(h * D // heads, (h + 1) * D // heads)
                weights = (key_LD[seen, head] @ q[head] / math.sqrt(D // heads)).softmax(0)
                parts.append(weights @ value_LD[seen, head])
            out.append(number(block.attn.out_proj.weight) @ torch.cat(parts) + number(block.attn.out_proj.bias))
        tokens = added(tokens, out)
        leave = number(parameters[f"{place}mlp.c_proj.parametrizations.weight.original"])
        for i, token in enumerate(tokens):
            hidden = number(block.mlp.c_fc.weight) @ layer_norm(block.ln_2, token) + number(block.mlp.c_fc.bias)
            hidden = quick_gelu(hidden) if type(block.mlp.gelu).__name__ == "QuickGELU" else gelu(hidden)
            tokens[i] = token + leave @ (hidden * own["hidden"]) + number(block.mlp.c_proj.bias)
    return tokens


def ia3_text(clip: Any, parameters: Parameters, experiment: Any, ids: list[int]) -> Tensor:
    """The layers with scales."""
    return text_of(clip, scaled_layers(parameters, TEXT, clip.transformer.resblocks, words_of(clip, ids), True))


def ia3_video(clip: Any, parameters: Parameters, experiment: Any, pixels_FCHW: Tensor, mask_F: Tensor) -> Tensor:
    """The same, frame by frame."""
    blocks = clip.visual.transformer.resblocks
    return mean_of(clip, [scaled_layers(parameters, VISUAL, blocks, x, False)[0] for x in frames_of(clip, pixels_FCHW)], mask_F)


# --- DGL ------------------------------------------------------------------------------------------------------------


def dgl_text(clip: Any, parameters: Parameters, experiment: Any, ids: list[int]) -> Tensor:
    """Prompts behind the start token, without positions; the caption keeps its own."""
    own, tokens = below(parameters, "video.prompts."), words_of(clip, ids)
    P = experiment.text_prompt.length
    for layer, block in enumerate(clip.transformer.resblocks):
        if experiment.video_prompt.name == "dgl-transformer":
            prompts = [dgl_spoken(own, row) for row in dgl_made(own, clip, layer)[:P]]
        else:
            prompts = [own["project.weight"] @ row + own["project.bias"] for row in own["generic"][layer][:P]]
        tokens = [tokens[0], *prompts, *tokens[1:]]
        normed = [layer_norm(block.ln_1, token) for token in tokens]
        tokens = added(tokens, attended(block, normed, normed, causal=True)[0])
        tokens = added(tokens, [fed(block, token) for token in tokens])
        del tokens[1 : 1 + P]
    return text_of(clip, tokens)


def dgl_video(clip: Any, parameters: Parameters, experiment: Any, pixels_FCHW: Tensor, mask_F: Tensor) -> Tensor:
    """Frames see the carried prompts and their own rows; the carried see themselves and the rows of all real frames."""
    own, frames = below(parameters, "video.prompts."), frames_of(clip, pixels_FCHW)
    carried, P = list(own["carried"]), experiment.video_prompt.length
    for layer, block in enumerate(clip.visual.transformer.resblocks):
        prompts = [list(own["generic"][layer][:P])] * len(frames)
        if experiment.video_prompt.name == "dgl-transformer":
            rows = dgl_made(own, clip, layer)[2 * experiment.text_prompt.length :]
            prompts = [rows[f * P : (f + 1) * P] for f in range(len(frames))]
        frames = [[tokens[0], *prompts[f], *tokens[1:]] for f, tokens in enumerate(frames)]
        normed = [[layer_norm(block.ln_1, token) for token in tokens] for tokens in frames]
        asking = [layer_norm(block.ln_1, token) for token in carried]
        every = [token for tokens, is_real in zip(normed, mask_F, strict=True) if is_real for token in tokens]
        for f, tokens in enumerate(frames):
            tokens = added(tokens, attended(block, normed[f], [*asking, *normed[f]])[0])
            tokens = added(tokens, [fed(block, token) for token in tokens])
            frames[f] = [tokens[0], *tokens[1 + P :]]
        carried = added(carried, attended(block, asking, [*asking, *every])[0])
        carried = added(carried, [fed(block, token) for token in carried])
    return unit(layer_norm(clip.visual.ln_post, carried[0]) @ number(clip.visual.proj))


def dgl_made(own: Parameters, clip: Any, layer: int) -> Tokens:
    """A layer's rows through the block that all layers share, whose heads are 64 wide, or one for all of a narrow tower."""
    rows = list(own["generic"][layer])
    D = len(rows[0])
    heads = max(1, D // 64)

    def linear(name: str, x: Tensor) -> Tensor:
        return own[f"block.{name}weight"] @ x + own[f"block.{name}bias"]

    normed = [scaled(x, own["block.ln_1.weight"], own["block.ln_1.bias"], 1e-5) for x in rows]
    query, key, value = zip(*(linear("attn.in_proj_", x).chunk(3) for x in normed), strict=True)
    out = []
    for q in query:
        parts = []
        for h in range(heads):
            own_part = slice(h * D // heads, (h + 1) * D // heads)
            weights = torch.stack([q[own_part] @ k[own_part] for k in key]).div(math.sqrt(D // heads)).softmax(0)
            parts.append(sum(w * v[own_part] for w, v in zip(weights, value, strict=True)))
        out.append(linear("attn.out_proj.", torch.cat(parts)))
    rows = added(rows, out)
    normed = [scaled(x, own["block.ln_2.weight"], own["block.ln_2.bias"], 1e-5) for x in rows]
    return added(rows, [linear("mlp.c_proj.", quick_gelu(linear("mlp.c_fc.", x))) for x in normed])


def dgl_spoken(own: Parameters, row: Tensor) -> Tensor:
    """Two layers, to the width of texts."""
    hidden = quick_gelu(own["project.0.weight"] @ row + own["project.0.bias"])
    return own["project.2.weight"] @ hidden + own["project.2.bias"]


METHODS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "tempme": (tempme_text, tempme_video),
    "cross-modal": (cross_text, cross_video),
    "mv-adapter": (mv_text, mv_video),
    "st-adapter": (plain_text, st_video),
    "ia3": (ia3_text, ia3_video),
    "dgl": (dgl_text, dgl_video),
    "dgl-transformer": (dgl_text, dgl_video),
}
