"""Frozen linear layers: the same numbers by either library, packed once a process, and only where nothing is trained."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU
from torch import nn

from vop.errors import VopError
from vop.model import frozen
from vop.model.block import feed_forward
from vop.model.frozen import WAYS, frozen_linear, is_frozen, linear, product, use_onednn
from vop.model.part import Part

there = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.mkldnn.is_available()
needs_onednn = pytest.mark.skipif(not there, reason="this torch has no linear layers of oneDNN")


@pytest.fixture(autouse=True)
def choice() -> Iterator[None]:
    use_onednn.cache_clear()
    yield
    use_onednn.cache_clear()


def layer(inside: int, outside: int, seed: int = 0) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(inside, outside).requires_grad_(False)


@needs_onednn
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rows", [slice(None), slice(5), slice(5, None)])
@pytest.mark.parametrize("scale", [1.0, 1.702])
def test_both_ways_are_linear_layers_and_their_gradients(way, rows, scale, monkeypatch):
    monkeypatch.setenv("VOP_FROZEN_LINEAR", way)
    part, x = layer(6, 16), torch.randn(2, 3, 6, requires_grad=True)
    expected = scale * F.linear(x, part.weight[rows]) + part.bias[rows]
    found = frozen_linear(x, part.weight, part.bias[rows], rows, scale)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    for out in (expected, found):
        out.mul(weights).sum().backward()
    (gradient,) = torch.autograd.grad((F.linear(x, part.weight[rows]) * scale * weights).sum(), x)
    torch.testing.assert_close(x.grad, 2 * gradient)


@needs_onednn
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shapes", [((3, 512), (5, 512)), ((1, 1), (1, 1)), ((0, 7), (3, 7))])
def test_a_product_is_within_the_bound_of_rounding_by_both_ways(way, shapes, monkeypatch):
    monkeypatch.setenv("VOP_FROZEN_LINEAR", way)
    x, y = map(torch.randn, shapes)
    bound = shapes[0][1] * 2.0**-24 * (x.abs().double() @ y.abs().double().T)
    for left in (x, x.T.contiguous().T):
        assert ((product(left, y) - x.double() @ y.double().T).abs() <= bound + 1e-9).all()


@needs_onednn
@pytest.mark.parametrize("way", WAYS)
def test_autocast_computes_in_its_own_precision(way, monkeypatch):
    monkeypatch.setenv("VOP_FROZEN_LINEAR", way)
    part, x = layer(6, 16), torch.randn(4, 6)
    with torch.autocast("cpu", torch.bfloat16):
        found = linear(x, part.weight, part.bias)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), part(x), atol=0.02, rtol=0.02)


@needs_onednn
def test_weights_are_packed_once_and_anew_when_they_change(monkeypatch):
    monkeypatch.setenv("VOP_FROZEN_LINEAR", "onednn")
    packs = []
    pack = frozen._pack
    monkeypatch.setattr(frozen, "_pack", lambda matrix: packs.append(matrix.shape) or pack(matrix))
    part, x = layer(6, 16), torch.randn(4, 6)
    part.weight, other = (nn.Parameter(part.weight.data, False) for _ in range(2))  # as two models on one backbone have it
    with torch.inference_mode():
        first = linear(x, part.weight, None)
    assert torch.equal(first, linear(x, other, None)) and packs == [(16, 6)]
    with torch.no_grad():
        part.weight.mul_(2)
    torch.testing.assert_close(linear(x, part.weight, None), 2 * first)
    x.requires_grad_()
    linear(x, part.weight, None).sum().backward()
    assert packs == [(16, 6), (16, 6), (6, 16)]
    torch.testing.assert_close(x.grad, part.weight.sum(0).expand(4, -1))


def test_what_is_trained_or_made_in_each_step_is_not_frozen():
    part = layer(6, 16)
    assert is_frozen(part.weight, part.bias) and not is_frozen(part.weight + 0, part.bias)
    part.bias.requires_grad_()
    assert not is_frozen(part.weight, part.bias)
    linear(torch.ones(1, 6), part.weight, part.bias).sum().backward()
    assert part.bias.grad is not None
    part.requires_grad_(False).weight.requires_grad_()
    assert not is_frozen(part.weight, part.bias)


@pytest.mark.parametrize("activation", [QuickGELU, nn.GELU])
@pytest.mark.parametrize("trained", ["nothing", "enter", "leave"])
def test_a_feed_forward_network_is_the_same_folded_or_not(activation, trained):
    mlp = nn.Sequential()
    for name, part in (("c_fc", layer(6, 24)), ("gelu", activation()), ("c_proj", layer(24, 6, 1))):
        mlp.add_module(name, part)
    x, again = (torch.full((2, 3, 6), 0.5).cumsum(-1).requires_grad_() for _ in range(2))
    mlp.c_fc.requires_grad_(trained == "enter")
    mlp.c_proj.requires_grad_(trained == "leave")
    found, expected = feed_forward(mlp, x), mlp(again)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(x.grad, again.grad, atol=1e-6, rtol=1e-6)
    mlp.add_module("part", Part())  # which is not in the chain
    torch.testing.assert_close(feed_forward(mlp, x), expected, atol=1e-6, rtol=1e-6)


@needs_onednn
@pytest.mark.parametrize(
    ("vendor", "capability", "chosen"),
    [
        ("AuthenticAMD", "AVX512", True),
        ("AuthenticAMD", "AVX2", False),
        ("GenuineIntel", "AVX512", False),
        ("", "DEFAULT", False),
    ],
)
def test_the_kind_of_processor_decides_and_is_logged(vendor, capability, chosen, monkeypatch, caplog, tmp_path):
    monkeypatch.delenv("VOP_FROZEN_LINEAR", raising=False)
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n" if vendor else "Processor : aarch64\n")
    monkeypatch.setattr(frozen, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    with caplog.at_level("DEBUG", logger="vop.model.frozen"):
        assert use_onednn(torch.float32) is chosen
    assert ("oneDNN" in caplog.text) is chosen


@needs_onednn
@pytest.mark.parametrize("supported", [True, False])
@pytest.mark.parametrize("way", ["", "onednn"])
def test_bf16_is_packed_where_the_processor_can(way, supported, monkeypatch):
    monkeypatch.setenv("VOP_FROZEN_LINEAR", way)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    assert use_onednn(torch.bfloat16) is supported


def test_another_value_of_the_variable_is_an_error(monkeypatch):
    monkeypatch.setenv("VOP_FROZEN_LINEAR", "fast")
    with pytest.raises(VopError, match="VOP_FROZEN_LINEAR=fast: valid are mkl and onednn"):
        use_onednn(torch.float32)
