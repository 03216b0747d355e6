"""In which numbers a model computes: `training.precision`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def computing(device: torch.device, precision: str = "fp32") -> torch.autocast:
    """The context in which a model computes on a device: fp32, tf32 or bf16.

    Whether a GPU may round fp32's factors to 10 bits (TF32) is torch's setting for the whole process, which this sets: the
    backward pass runs outside the context. In fp32 nothing is rounded, convolutions neither, which torch rounds by default.
    """
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def exactly(tensor: Tensor) -> AbstractContextManager[object]:
    """The context in which what is made of a tensor is not rounded, whatever `computing` says; shapes alone are never."""
    return nullcontext() if tensor.is_meta else torch.autocast(tensor.device.type, enabled=False)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A small tensor on a device; nothing waits for it or for the work that a GPU has still to do."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
