"""A transformer block, driven from outside, with prompts: what all walkers share, and the whole of it for open_clip's blocks.

Prompts are set afresh in each layer and their outputs are thrown away, so they serve only as keys and values: their
queries, output projection and MLP are never computed. That changes no result.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vop.model.attention import scaled_dot_product_attention
from vop.model.frozen import frozen_linear, is_frozen, linear
from vop.model.part import Context, Part, parts_of

Change = Callable[[Tensor], Tensor]
Turn = Callable[..., tuple[Tensor, Tensor]]
Step = Callable[..., tuple[Tensor, Context]]  # `step_block` or a walker's
QUICK = 1.702  # of QuickGELU


@dataclass(frozen=True)
class Attention:
    """What a self-attention computes with, wherever its library keeps it.

    weight [3A, D], bias [3A]: of queries, keys and values; out: A -> D; query_norm, key_norm: of each head's part [..., d];
    inner_norm: of all heads' results [..., A]. A is heads * d.
    """

    weight: Tensor
    bias: Tensor | None
    out: nn.Linear
    heads: int
    query_norm: Change | None = None
    key_norm: Change | None = None
    inner_norm: Change | None = None


@dataclass(frozen=True)
class Layer:
    """What a block computes, of whatever library it is: x += leave_attention(attention(read x)), then the same with the MLP.

    read_attention, read_mlp: the norms before, leave_attention, leave_mlp: scales or norms behind; nn.Identity for none.
    turn: what rotary positions make of queries [B, heads, R, d], of keys [B, heads, P + L, d], given the rows of the queries.
    """

    read_attention: Change
    attention: Attention
    leave_attention: Change
    read_mlp: Change
    mlp: Change
    leave_mlp: Change
    turn: Turn | None = None


def run_layer(
    layer: Layer,
    parts: list[Part],
    tokens_BLD: Tensor,
    prompts_GPD: Tensor | None,
    mask: Tensor | None,
    rows: slice | Tensor,
    context: Context,
) -> tuple[Tensor, Context]:
    """A block on B sequences of L tokens with its parts, as `step_block`: [B, R, D], and what the next block is to know."""
    joined, context = context.joined, copy(context)  # a checkpoint runs this again, on what came in
    for part in parts:
        tokens_BLD = part.enter(tokens_BLD, context)
    if prompts_GPD is not None:
        prompts_GPD = joined_prompts(prompts_GPD, context.joined // joined)
    normed_BLD = layer.read_attention(tokens_BLD)
    prompts_GPD = None if prompts_GPD is None else layer.read_attention(prompts_GPD)
    for part in parts:
        mask = with_bias(mask, part.key_bias(context), 0 if prompts_GPD is None else prompts_GPD.shape[1])
    read_BRD = take(normed_BLD, rows)
    turn = None if layer.turn is None else partial(layer.turn, rows=rows)
    out_BRD, keys_BHLd, values_BHLd = attend(layer.attention, read_BRD, normed_BLD, prompts_GPD, mask, turn)
    context.across = partial(attend_across, layer.attention, keys_BHLd, values_BHLd)
    for part in parts:
        out_BRD = part.after_attention(read_BRD, out_BRD, context)
    context.across = None
    del values_BHLd
    same_BRD = read_BRD if normed_BLD is tokens_BLD else take(tokens_BLD, rows)
    tokens_BRD = same_BRD + layer.leave_attention(out_BRD)
    for part in parts:
        tokens_BRD = part.between(tokens_BRD, keys_BHLd, context)
    del keys_BHLd  # they hold the queries and values too
    read_BRD = layer.read_mlp(tokens_BRD)
    out_BRD = layer.mlp(read_BRD)
    for part in parts:
        out_BRD = part.after_mlp(read_BRD, out_BRD, context)
    return torch.as_tensor(tokens_BRD + layer.leave_mlp(out_BRD)), context


def step_block(
    block: Any,
    tokens_BLD: Tensor,
    prompts_GPD: Tensor | None,
    mask: Tensor | None,
    rows: slice | Tensor,
    context: Context,
) -> tuple[Tensor, Context]:
    """Run a block of open_clip on B sequences of L tokens; prompts are attended to, but not returned.

    prompts_GPD: G sets of P prompts, before the block's layer norm; G divides B, and sequence b uses set b mod G.
    mask: True where a query may look, broadcastable to [B, heads, R, P + L]; None: everywhere.
    rows: the R tokens whose output is wanted: a slice, or one index a sequence, int64 [B] (then R = 1).
    Returns [B, R, D] and the context of the next block.
    """
    return run_layer(layer_of(block), parts_of(block), tokens_BLD, prompts_GPD, mask, rows, context)


def run_block(
    block: Any,
    tokens_BLD: Tensor,
    prompts_GPD: Tensor | None = None,
    mask: Tensor | None = None,
    rows: slice | Tensor = slice(None),
) -> Tensor:
    """`step_block` of a block that stands alone: [B, R, D]."""
    return step_block(block, tokens_BLD, prompts_GPD, mask, rows, Context("text"))[0]


def layer_of(block: Any) -> Layer:
    """Of a block of open_clip."""
    leave = block.ls_1 if not hasattr(block, "ln_attn") else lambda out_BRD: block.ls_1(block.ln_attn(out_BRD))
    attention, mlp = attention_of(block.attn), partial(feed_forward, block.mlp)
    return Layer(block.ln_1, attention, leave, block.ln_2, mlp, block.ls_2)


def checkpointed(step: Step) -> Step:
    """A step that keeps only its inputs for the backward pass and is run again there: slower, in less memory."""
    return partial(checkpoint, step, use_reentrant=False)


def take(tokens_BLD: Tensor, rows: slice | Tensor) -> Tensor:
    """The wanted rows of each sequence: [B, R, D]."""
    if isinstance(rows, slice):
        return tokens_BLD if rows == slice(None) else tokens_BLD[:, rows]
    return tokens_BLD[torch.arange(rows.shape[0], device=rows.device), rows].unsqueeze(1)


def attention_of(attn: Any) -> Attention:
    """Of torch's `MultiheadAttention`, or of open_clip's `Attention`, which may have norms of queries, keys and results."""
    norms = (attn.ln_q, attn.ln_k, attn.ln_inner) if hasattr(attn, "ln_q") else (None, None, None)
    return Attention(attn.in_proj_weight, attn.in_proj_bias, attn.out_proj, attn.num_heads, *norms)


def joined_prompts(prompts_GPD: Tensor, frames: int) -> Tensor:
    """Prompts by frame for sequences of so many frames, which see those of all of them; shared ones stay as they are."""
    return prompts_GPD if frames == 1 or prompts_GPD.shape[0] == 1 else prompts_GPD.unflatten(0, (-1, frames)).flatten(1, 2)


def with_bias(mask: Tensor | None, bias_BL: Tensor | None, prompts: int) -> Tensor | None:
    """A mask as `step_block` has it with a bias added to the logits of each key; prompts have none."""
    if bias_BL is None:
        return mask
    bias_B11S = F.pad(bias_BL, (prompts, 0))[:, None, None]
    if mask is None:
        return bias_B11S
    return bias_B11S + mask if mask.is_floating_point() else bias_B11S.masked_fill(~mask, -torch.inf)


def attend(
    attn: Attention,
    query_BRD: Tensor,
    tokens_BLD: Tensor,
    prompts_GPD: Tensor | None = None,
    mask: Tensor | None = None,
    turn: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Multi-head attention of `query` over [prompts | tokens]: [B, R, D], and keys and values of the tokens [B, heads, L, d].

    mask: as of `step_block`, or what is added to the logits. turn: of queries and keys, as of a `Layer`.
    """
    B, weight, bias, A = query_BRD.shape[0], attn.weight, attn.bias, attn.weight.shape[0] // 3
    if query_BRD is tokens_BLD:
        query, key, value = linear(tokens_BLD, weight, bias).chunk(3, dim=-1)
    else:
        query = linear(query_BRD, weight, bias, slice(A))
        key, value = linear(tokens_BLD, weight, bias, slice(A, None)).chunk(2, dim=-1)
    if prompts_GPD is not None:
        prompts = linear(prompts_GPD, weight, bias, slice(A, None))
        prompt_key, prompt_value = (
            prompts.expand(B, -1, -1).chunk(2, -1)
            if prompts.shape[0] == 1
            else (prompts.repeat(B // prompts.shape[0], 1, 1).chunk(2, -1))
        )
        key = torch.cat([prompt_key, key], dim=1)
        value = torch.cat([prompt_value, value], dim=1)
    query, key, value = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (query, key, value))
    query = query if attn.query_norm is None else attn.query_norm(query)
    key = key if attn.key_norm is None else attn.key_norm(key)
    query, key = (query, key) if turn is None else turn(query, key)
    L = tokens_BLD.shape[1]
    return _attended(attn, query, key, value, mask), key[:, :, -L:], value[:, :, -L:]


def attend_across(attn: Attention, key_NHLd: Tensor, value_NHLd: Tensor, query_VQD: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of other queries over keys and values that there are, those of N / V sequences in a row: [V, Q, D]."""
    query = linear(query_VQD, attn.weight, attn.bias, slice(attn.weight.shape[0] // 3))
    query = query.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
    query = query if attn.query_norm is None else attn.query_norm(query)
    key, value = (x.unflatten(0, (query.shape[0], -1)).transpose(1, 2).flatten(2, 3) for x in (key_NHLd, value_NHLd))
    return _attended(attn, query, key, value, mask)


def _attended(attn: Attention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """What queries [B, heads, R, d] get of keys and values: [B, R, D]."""
    out_BRA = scaled_dot_product_attention(query, key, value, mask).transpose(1, 2).flatten(2)
    out_BRA = out_BRA if attn.inner_norm is None else attn.inner_norm(out_BRA)
    return linear(out_BRA, attn.out.weight, attn.out.bias)


def feed_forward(mlp: nn.Sequential, tokens_BRD: Tensor) -> Tensor:
    """The feed-forward network: [B, R, D]."""
    enter, activation, *norm, leave = cast(Any, [layer for layer in mlp.children() if not isinstance(layer, Part)])
    if isinstance(activation, QuickGELU) and not norm and all(is_frozen(layer.weight, layer.bias) for layer in (enter, leave)):
        # x * sigmoid(1.702 * x) is silu(1.702 * x) / 1.702: one pass over x, and one tensor kept for the backward pass.
        hidden = F.silu(frozen_linear(tokens_BRD, enter.weight, enter.bias * QUICK, scale=QUICK))
        out_BRD = frozen_linear(hidden, leave.weight, leave.bias, scale=1 / QUICK)
    else:
        hidden = activation(linear(tokens_BRD, enter.weight, enter.bias))
        hidden = norm[0](hidden) if norm else hidden  # open_clip's `scale_fc`
        out_BRD = linear(hidden, leave.weight, leave.bias)
    return out_BRD
