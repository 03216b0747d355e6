"""Attention in bf16 has a gradient computed in fp32: as exact as torch's own, and with no more kept for it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vop.model.attention import scaled_dot_product_attention

B, HEADS, R, S, D = 3, 2, 5, 9, 16
CAUSAL = torch.ones(R, S, dtype=torch.bool).tril(S - R)
MASKS = {
    "none": None,
    "causal": CAUSAL,
    "by sequence": torch.rand(B, 1, 1, S, generator=torch.Generator().manual_seed(1)) > 0.3,
    "by head": CAUSAL.expand(HEADS, R, S),
    "added": torch.randn(B, 1, 1, S, generator=torch.Generator().manual_seed(2)),
    "added in bf16": torch.randn(B, 1, 1, S, generator=torch.Generator().manual_seed(3)).bfloat16(),
}


def inputs(dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    """Queries, keys and values as they come from a linear layer: heads between rows and numbers; rounded to bf16."""
    random = torch.Generator().manual_seed(0)
    made = [torch.randn(B, rows, HEADS, D, generator=random).bfloat16() for rows in (R, S, S)]
    return [x.to(dtype).requires_grad_() for x in made]


def grads(way: object, given: list[Tensor], mask: Tensor | None) -> list[Tensor]:
    """The output and the gradients of the inputs, all in fp32."""
    out = way(*(x.transpose(1, 2) for x in given), mask)
    out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(4)).bfloat16().to(out.dtype))
    return [x.detach().float() for x in (out, *(x.grad for x in given))]


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_the_gradient_in_bf16_is_about_as_exact_as_torchs(mask: Tensor | None) -> None:
    exact_mask = mask.float() if mask is not None and mask.is_floating_point() else mask
    exact = grads(F.scaled_dot_product_attention, inputs(torch.float32), exact_mask)
    torchs_mask = mask.bfloat16() if mask is not None and mask.is_floating_point() else mask
    torchs = grads(F.scaled_dot_product_attention, inputs(), torchs_mask)
    ours = grads(scaled_dot_product_attention, inputs(), mask)
    for right, rounded, found in zip(exact, torchs, ours, strict=True):
        scale = right.abs().max()
        assert (found - right).abs().max() < 0.01 * scale
        assert (found - right).square().mean() < 2 * (rounded - right).square().mean()


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_without_gradient_and_in_fp32_it_is_torchs(mask: Tensor | None) -> None:
    with torch.no_grad():
        given = [x.transpose(1, 2) for x in inputs()]
        assert torch.equal(scaled_dot_product_attention(*given, mask), F.scaled_dot_product_attention(*given, attn_mask=mask))
    mask = mask.float() if mask is not None and mask.is_floating_point() else mask
    ways = scaled_dot_product_attention, F.scaled_dot_product_attention
    ours, torchs = (grads(way, inputs(torch.float32), mask) for way in ways)
    assert all(torch.equal(one, other) for one, other in zip(ours, torchs, strict=True))


def test_autocast_decides_the_precision_and_little_is_kept() -> None:
    kept: list[Tensor] = []
    with (
        torch.autocast("cpu", torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x),
    ):
        out = scaled_dot_product_attention(*(x.transpose(1, 2) for x in inputs(torch.float32)), CAUSAL)
    assert out.dtype == torch.bfloat16
    floats = [tuple(x.shape) for x in kept if x.dtype == torch.float32]
    assert floats == [(B, HEADS, R), (1, 1, R, S)], "the sums and the mask"


def test_a_mask_that_is_trained_has_its_gradient() -> None:
    mask = torch.zeros(B, 1, 1, S, dtype=torch.bfloat16, requires_grad=True)
    scaled_dot_product_attention(*(x.transpose(1, 2) for x in inputs()), mask).square().sum().backward()
    assert mask.grad is not None and mask.grad.abs().sum() > 0
