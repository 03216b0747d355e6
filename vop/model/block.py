"""A transformer block, driven from outside, with prompts: what all walkers share, and the whole of it for open_clip's blocks.

Prompts are set afresh in each layer and their outputs are thrown away, so they serve only as keys and values: their
queries, output projection and MLP are never computed. That changes no result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vop.model.frozen import frozen_linear, is_frozen, linear

BlockRunner = Callable[..., Tensor]  # `run_block` or another walker's
Norm = Callable[[Tensor], Tensor]
BESIDE = "parallel"  # part of the names of saved tensors
QUICK = 1.702  # of QuickGELU


def put_beside(part: nn.Module, module: nn.Module) -> None:
    """Put a module in parallel to a part of a block, its `attn` or its `mlp`: the place for what a tuning protocol adds.

    module: [B, R, D] -> [B, R, D]; it reads what the part reads (for `attn` the queries, after the layer norm), and what it
    gives is added to what the part gives. Only walkers know of it, the part's own forward does not.
    """
    part.add_module(BESIDE, module)


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
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    inner_norm: Norm | None = None


def run_block(
    block: Any,
    tokens_BLD: Tensor,
    prompts_GPD: Tensor | None = None,
    mask: Tensor | None = None,
    rows: slice | Tensor = slice(None),
) -> Tensor:
    """Run a block of open_clip on B sequences of L tokens; prompts are attended to, but not returned.

    prompts_GPD: G sets of P prompts, before the block's layer norm; G divides B, and sequence b uses set b mod G.
    mask: True where a query may look, broadcastable to [B, heads, R, P + L]; None: everywhere.
    rows: the R tokens whose output is wanted: a slice, or one index a sequence, int64 [B] (then R = 1).
    Returns [B, R, D].
    """
    normed_BLD = block.ln_1(tokens_BLD)
    prompts_GPD = None if prompts_GPD is None else block.ln_1(prompts_GPD)
    query_BRD = take(normed_BLD, rows)
    out_BRD = attend(attention_of(block.attn), query_BRD, normed_BLD, prompts_GPD, mask)
    out_BRD = with_beside(block.attn, query_BRD, out_BRD)
    out_BRD = take(tokens_BLD, rows) + block.ls_1(out_BRD if not hasattr(block, "ln_attn") else block.ln_attn(out_BRD))
    return torch.as_tensor(out_BRD + block.ls_2(feed_forward(block.mlp, block.ln_2(out_BRD))))


def checkpointed(run: BlockRunner) -> BlockRunner:
    """A walker's `run` that keeps only its inputs for the backward pass and is run again there: slower, in less memory."""
    return partial(checkpoint, run, use_reentrant=False)


def take(tokens_BLD: Tensor, rows: slice | Tensor) -> Tensor:
    """The wanted rows of each sequence: [B, R, D]."""
    if isinstance(rows, slice):
        return tokens_BLD if rows == slice(None) else tokens_BLD[:, rows]
    return tokens_BLD[torch.arange(len(rows), device=rows.device), rows].unsqueeze(1)


def attention_of(attn: Any) -> Attention:
    """Of torch's `MultiheadAttention`, or of open_clip's `Attention`, which may have norms of queries, keys and results."""
    norms = (attn.ln_q, attn.ln_k, attn.ln_inner) if hasattr(attn, "ln_q") else (None, None, None)
    return Attention(attn.in_proj_weight, attn.in_proj_bias, attn.out_proj, attn.num_heads, *norms)


def attend(
    attn: Attention,
    query_BRD: Tensor,
    tokens_BLD: Tensor,
    prompts_GPD: Tensor | None = None,
    mask: Tensor | None = None,
    turn: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
) -> Tensor:
    """Multi-head attention of `query` over [prompts | tokens]: [B, R, D].

    turn: what rotary positions make of the queries [B, heads, R, d] and of the keys [B, heads, P + L, d].
    """
    B, R, _ = query_BRD.shape
    weight, bias, A = attn.weight, attn.bias, attn.weight.shape[0] // 3
    if query_BRD is tokens_BLD:
        query, key, value = linear(tokens_BLD, weight, bias).chunk(3, dim=-1)
    else:
        query = linear(query_BRD, weight, bias, slice(A))
        key, value = linear(tokens_BLD, weight, bias, slice(A, None)).chunk(2, dim=-1)
    if prompts_GPD is not None:
        prompts = linear(prompts_GPD, weight, bias, slice(A, None))
        prompt_key, prompt_value = (
            prompts.expand(B, -1, -1).chunk(2, -1)
            if len(prompts) == 1
            else (prompts.repeat(B // len(prompts), 1, 1).chunk(2, -1))
        )
        key = torch.cat([prompt_key, key], dim=1)
        value = torch.cat([prompt_value, value], dim=1)
    query, key, value = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (query, key, value))
    query = query if attn.query_norm is None else attn.query_norm(query)
    key = key if attn.key_norm is None else attn.key_norm(key)
    query, key = (query, key) if turn is None else turn(query, key)
    out_BHRd = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    out_BRA = out_BHRd.transpose(1, 2).reshape(B, R, A)
    out_BRA = out_BRA if attn.inner_norm is None else attn.inner_norm(out_BRA)
    return linear(out_BRA, attn.out.weight, attn.out.bias)


def feed_forward(mlp: nn.Sequential, tokens_BRD: Tensor) -> Tensor:
    """The feed-forward network: [B, R, D]."""
    enter, activation, *norm, leave = cast(Any, [layer for name, layer in mlp.named_children() if name != BESIDE])
    if isinstance(activation, QuickGELU) and not norm and all(is_frozen(layer.weight, layer.bias) for layer in (enter, leave)):
        # x * sigmoid(1.702 * x) is silu(1.702 * x) / 1.702: one pass over x, and one tensor kept for the backward pass.
        hidden = F.silu(frozen_linear(tokens_BRD, enter.weight, enter.bias * QUICK, scale=QUICK))
        out_BRD = frozen_linear(hidden, leave.weight, leave.bias, scale=1 / QUICK)
    else:
        hidden = activation(linear(tokens_BRD, enter.weight, enter.bias))
        hidden = norm[0](hidden) if norm else hidden  # open_clip's `scale_fc`
        out_BRD = linear(hidden, leave.weight, leave.bias)
    return with_beside(mlp, tokens_BRD, out_BRD)


def with_beside(part: nn.Module, read_BRD: Tensor, out_BRD: Tensor) -> Tensor:
    """What a part gives, and with it what the module beside it gives, if there is one."""
    module = dict(part.named_children()).get(BESIDE)
    return out_BRD if module is None else out_BRD + module(read_BRD)
