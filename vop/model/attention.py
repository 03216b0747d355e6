"""Scaled dot-product attention: torch's, but for its gradient in bf16 on the CPU, which is computed in fp32.

torch's gradient is much slower there in bf16 than in fp32 ("VoP, bf16" of `vop throughput model`). What is kept for it stays in
bf16.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_OPS = torch.ops.aten


def scaled_dot_product_attention(query_BHRd: Tensor, key_BHSd: Tensor, value_BHSd: Tensor, mask: Tensor | None) -> Tensor:
    """What queries get of keys and values, in autocast's precision: [B, heads, R, d].

    mask: broadcastable to [B, heads, R, S]; True where a query may look, or what is added to the logits; None: everywhere.
    """
    inputs = query_BHRd, key_BHSd, value_BHSd
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query_BHRd.dtype
    trained = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    if not trained or dtype != torch.bfloat16 or query_BHRd.device.type != "cpu" or (mask is not None and mask.requires_grad):
        return F.scaled_dot_product_attention(*inputs, attn_mask=mask)
    out_BHRd: Tensor = _Attention.apply(*(x.to(dtype) for x in inputs), None if mask is None else _added(mask))
    return out_BHRd


def _added(mask: Tensor) -> Tensor:
    """What a mask adds to the logits: fp32, with all four dimensions."""
    added = mask.float() if mask.is_floating_point() else torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
    return added[(None,) * (4 - mask.dim())]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        out, logsumexp = _OPS._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, False, attn_mask=mask)
        ctx.save_for_backward(query, key, value, out, logsumexp, mask)
        return torch.as_tensor(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *halves, logsumexp, mask = ctx.saved_tensors
        floats = (x.float() for x in (grad, *halves))
        grads = _OPS._scaled_dot_product_flash_attention_for_cpu_backward(*floats, logsumexp, 0.0, False, attn_mask=mask)
        return *(x.to(grad.dtype) for x in grads), None
