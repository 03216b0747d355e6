"""One of open_clip's transformer blocks, driven from outside, with prompts.

Prompts are set afresh in each layer and their outputs are thrown away, so they serve only as keys and values: their
queries, output projection and MLP are never computed. That changes no result.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

BlockRunner = Callable[..., Tensor]  # `run_block`, or `checkpointed`


def run_block(
    block: ResidualAttentionBlock,
    tokens_BLD: Tensor,
    prompts_GPD: Tensor | None = None,
    mask: Tensor | None = None,
    rows: slice | Tensor = slice(None),
) -> Tensor:
    """Run a block on B sequences of L tokens; prompts are attended to, but not returned.

    prompts_GPD: G sets of P prompts, before the block's layer norm; G divides B, and sequence b uses set b mod G.
    mask: True where a query may look, broadcastable to [B, heads, R, P + L]; None: everywhere.
    rows: the R tokens whose output is wanted: a slice, or one index a sequence, int64 [B] (then R = 1).
    Returns [B, R, D].
    """
    normed_BLD = block.ln_1(tokens_BLD)
    prompts_GPD = None if prompts_GPD is None else block.ln_1(prompts_GPD)
    query_BRD = take(normed_BLD, rows)
    out_BRD = attend(block.attn, query_BRD, normed_BLD, prompts_GPD, mask)
    out_BRD = take(tokens_BLD, rows) + block.ls_1(out_BRD)
    return torch.as_tensor(out_BRD + block.ls_2(block.mlp(block.ln_2(out_BRD))))


def checkpointed(
    block: ResidualAttentionBlock,
    tokens_BLD: Tensor,
    prompts_GPD: Tensor | None = None,
    mask: Tensor | None = None,
    rows: slice | Tensor = slice(None),
) -> Tensor:
    """`run_block` that keeps only its inputs for the backward pass and is run again there: slower, in less memory."""
    out_BRD: Tensor = checkpoint(run_block, block, tokens_BLD, prompts_GPD, mask, rows, use_reentrant=False)
    return out_BRD


def take(tokens_BLD: Tensor, rows: slice | Tensor) -> Tensor:
    """The wanted rows of each sequence: [B, R, D]."""
    if isinstance(rows, slice):
        return tokens_BLD if rows == slice(None) else tokens_BLD[:, rows]
    return tokens_BLD[torch.arange(len(rows), device=rows.device), rows].unsqueeze(1)


def attend(
    attn: nn.MultiheadAttention,
    query_BRD: Tensor,
    tokens_BLD: Tensor,
    prompts_GPD: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Multi-head attention of `query` over [prompts | tokens] with `attn`'s own weights: [B, R, D]."""
    B, R, D = query_BRD.shape
    weight, bias = attn.in_proj_weight, attn.in_proj_bias
    if query_BRD is tokens_BLD:
        query, key, value = F.linear(tokens_BLD, weight, bias).chunk(3, dim=-1)
    else:
        query = F.linear(query_BRD, weight[:D], bias[:D])
        key, value = F.linear(tokens_BLD, weight[D:], bias[D:]).chunk(2, dim=-1)
    if prompts_GPD is not None:
        prompts = F.linear(prompts_GPD, weight[D:], bias[D:])
        prompt_key, prompt_value = (
            prompts.expand(B, -1, -1).chunk(2, -1)
            if len(prompts) == 1
            else (prompts.repeat(B // len(prompts), 1, 1).chunk(2, -1))
        )
        key = torch.cat([prompt_key, key], dim=1)
        value = torch.cat([prompt_value, value], dim=1)
    heads = (attn.num_heads, D // attn.num_heads)
    out_BHRd = F.scaled_dot_product_attention(
        query.unflatten(-1, heads).transpose(1, 2),
        key.unflatten(-1, heads).transpose(1, 2),
        value.unflatten(-1, heads).transpose(1, 2),
        attn_mask=mask,
    )
    out_BRD: Tensor = attn.out_proj(out_BHRd.transpose(1, 2).reshape(B, R, D))
    if hasattr(attn, "parallel"):  # a module that a tuning protocol put beside the attention
        out_BRD = out_BRD + attn.get_submodule("parallel")(query_BRD)
    return out_BRD
