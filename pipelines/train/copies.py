"""What a worker and its GPU tell each other while neither waits: batches on their way there, losses on their way back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pipelines.data.reader import Batch


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches with their arrays on a GPU, copied by a stream of its own while the step before is computed.

    On the CPU they stay as they are.
    """
    if device.type != "cuda":
        yield from batches
        return
    copies, computes = torch.cuda.Stream(device), torch.cuda.current_stream(device)

    def there(array: Any) -> Tensor:
        tensor = torch.as_tensor(array).to(device, non_blocking=True)
        tensor.record_stream(computes)  # its memory is not given away before the step has ended
        return tensor

    for batch in batches:
        with torch.cuda.stream(copies):
            pixels_BFHWC, mask_BF, reused = there(batch.pixels_BFHWC), there(batch.mask_BF), batch.activations_BFLD
            activations_BFLD = None if reused is None else there(reused)
        copied = copies.record_event()
        computes.wait_event(copied)
        yield replace(batch, pixels_BFHWC=pixels_BFHWC, mask_BF=mask_BF, activations_BFLD=activations_BFLD)
        copied.synchronize()  # the host's memory is read until then


class Finite:
    """Whether a loss is finite; to ask on a GPU waits for its step, and for no later one."""

    def __init__(self, loss: Tensor):
        self._found = torch.isfinite(loss).to("cpu", non_blocking=True)
        self._known = torch.cuda.current_stream(loss.device).record_event() if loss.is_cuda else None

    def __bool__(self) -> bool:
        if self._known:
            self._known.synchronize()
        return bool(self._found)
