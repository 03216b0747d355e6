"""Linear layers whose weights are frozen, and plain products: on the CPU by oneDNN where that is faster, weights packed once.

oneDNN and MKL differ by processor: on AMD's with AVX-512 oneDNN is twice as fast in fp32, on others it is not; in bf16 packed
weights save torch a reordering in each product. The kind of processor decides and not a clock: two processes that chose
differently would end one training in other digits. `VOP_FROZEN_LINEAR=mkl` or `onednn` decides instead.
"""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vop.errors import VopError

VARIABLE, WAYS = "VOP_FROZEN_LINEAR", ("mkl", "onednn")
CPUINFO = Path("/proc/cpuinfo")
EVERY = slice(None)

logger = logging.getLogger(__name__)
# By the storage of a weight, which all models on a backbone share: packed once, and freed with it.
_PACKED: WeakKeyDictionary[Any, dict[Any, Tensor]] = WeakKeyDictionary()


def is_frozen(weight: Tensor, bias: Tensor | None) -> bool:
    """Whether a layer on the CPU has these weights for good: not trained, and not made anew in each step, as LoRA's are."""
    trained = weight.requires_grad or (bias is not None and bias.requires_grad)
    return isinstance(weight, nn.Parameter) and not trained and weight.device.type == "cpu"


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, rows: slice = EVERY) -> Tensor:
    """`F.linear` with some rows of the weight [out, in] and the bias [out], by `frozen_linear` where they are frozen."""
    some = None if bias is None else bias[rows]
    return frozen_linear(x, weight, some, rows) if is_frozen(weight, bias) else F.linear(x, weight[rows], some)


def frozen_linear(x: Tensor, weight: Tensor, bias: Tensor | None, rows: slice = EVERY, scale: float = 1.0) -> Tensor:
    """[..., in] -> [..., out]: scale * x @ weight[rows].T + bias, in autocast's precision; the gradient is x's alone."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    out: Tensor = _FrozenLinear.apply(x.to(dtype), weight, None if bias is None else bias.to(dtype), rows, scale)
    return out


def product(x_RE: Tensor, y_CE: Tensor) -> Tensor:
    """x @ y.T: [R, C], without gradient, by the library that is faster here; sums are in the order that it chooses."""
    if x_RE.device.type == "cpu" and x_RE.dtype == torch.float32 and use_onednn(x_RE.dtype):
        out_RC: Tensor = torch.ops.mkldnn._linear_pointwise(x_RE.contiguous(), y_CE.contiguous(), None, "none", [], "")
        return out_RC
    return x_RE @ y_CE.T


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, rows: slice, scale: float) -> Tensor:
        ctx.of = weight, rows, scale
        return _product(x, weight, bias, rows, scale, transposed=False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        weight, rows, scale = ctx.of
        return _product(grad.contiguous(), weight, None, rows, scale, transposed=True), None, None, None, None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, rows: slice, scale: float, *, transposed: bool) -> Tensor:
    """scale * x @ weight[rows].T + bias; `transposed`: without the .T."""
    with torch.autocast("cpu", enabled=False):
        if use_onednn(x.dtype):
            packed = _packed(weight, rows, scale, x.dtype, transposed)
            out: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
            return out
        matrix = weight[rows].to(x.dtype)
        matrix = matrix if transposed else matrix.T
        if scale == 1:
            return F.linear(x, matrix.T, bias)
        flat = x.reshape(-1, x.shape[-1])
        start = x.new_zeros(1) if bias is None else bias
        out = torch.addmm(start, flat, matrix, alpha=scale, beta=float(bias is not None))
        return out.view(*x.shape[:-1], matrix.shape[1])


def _packed(weight: Tensor, rows: slice, scale: float, dtype: torch.dtype, transposed: bool) -> Tensor:
    """A weight as oneDNN wants it."""
    kept = _PACKED.setdefault(weight.untyped_storage(), {})
    key = weight.data_ptr(), weight._version, tuple(weight.shape), rows.start, rows.stop, scale, dtype, transposed
    if key not in kept:
        with torch.inference_mode(False), torch.no_grad():
            matrix = weight.detach()[rows] * scale
            kept[key] = _pack((matrix.T if transposed else matrix).to(dtype))
    return kept[key]


def _pack(matrix: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(matrix.contiguous(), None)
    return packed


@cache
def use_onednn(dtype: torch.dtype) -> bool:
    """Whether products in a precision are oneDNN's with packed weights. VopError for another value of the variable."""
    wanted = os.environ.get(VARIABLE, "")
    if wanted not in ("", *WAYS):
        raise VopError(f"{VARIABLE}={wanted}: valid are {' and '.join(WAYS)}; unset, the kind of processor decides")
    ops = torch.ops.mkldnn
    there = all(hasattr(ops, name) for name in ("_linear_pointwise", "_reorder_linear_weight", "_is_mkldnn_bf16_supported"))
    there = there and torch.backends.mkldnn.is_available()
    there = there and (dtype == torch.float32 or (dtype == torch.bfloat16 and ops._is_mkldnn_bf16_supported()))
    chosen = wanted == "onednn" if wanted else dtype == torch.bfloat16 or _is_amd_with_avx512()
    name = str(dtype).removeprefix("torch.")
    logger.debug("frozen linear layers in %s: %s", name, "oneDNN, packed" if there and chosen else "as torch has them")
    return there and chosen


def _is_amd_with_avx512() -> bool:
    """Whether MKL leaves half of this processor unused."""
    with suppress(OSError):
        vendors = re.findall(r"^vendor_id\s*:\s*(\w+)", CPUINFO.read_text(encoding="utf-8"), re.MULTILINE)
        return vendors[:1] == ["AuthenticAMD"] and torch.backends.cpu.get_cpu_capability() == "AVX512"
    return False
