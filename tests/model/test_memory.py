"""What is not computed or held: layers below all that is trained, and the matrix of attention across frames."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.steps import SPLIT, TOY, batch_of, model_of
from vop.config import load_experiment
from vop.model.retrieval import build_model

FROZEN = {
    "vop": ([], 0),
    "last four": (["video_prompt.depth=9-12"], 8),
    "last": (["video_prompt.name=position", "video_prompt.depth=12-12"], 11),
    "f, prompts above": (["video_prompt.depth=10-12", SPLIT], 8),  # the frame embedding enters at the split
    "c from 3 on": (["video_prompt.name=context", "video_prompt.depth=3-12"], 2),
    "text-only": (["video_prompt.length=0"], 12),
    "partial": (["tuning.name=partial"], 11),
    "proj": (["tuning.name=proj"], 12),
    "zero-shot": (["tuning.name=zero-shot"], 12),
    **{name: ([f"tuning.name={name}"], 0) for name in ("full", "bias", "lora", "adapter-attn", "adapter-ffn")},
}


@pytest.mark.parametrize("name", FROZEN)
def test_layers_below_all_that_is_trained(name: str) -> None:
    overrides, layers = FROZEN[name]
    model, batch = model_of(*overrides), batch_of(2)
    assert model.frozen_layers == layers
    pixels, mask = torch.from_numpy(batch.pixels_BFHWC), torch.from_numpy(batch.mask_BF)
    activations = model.activations(pixels)
    assert not activations.requires_grad or layers == 0
    assert torch.equal(model.encode_activations(activations, mask), model.encode_video(pixels, mask))
    # As training changes the trained tensors, the activations stay.
    before = activations.detach().clone()
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter += 1
    if layers:
        assert torch.equal(model.activations(pixels), before)


class Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def test_attention_across_frames_never_holds_its_matrix() -> None:
    frames = 32  # 32 * 17 tokens a video: the matrix of one head is far larger than any other tensor
    model = build_model(load_experiment({**TOY, "frames": {"count": frames}}, [SPLIT]))
    pixels = torch.zeros(1, frames, 64, 64, 3, dtype=torch.uint8)
    tokens, heads = frames * 17, model.clip.visual.transformer.resblocks[0].attn.num_heads
    with Largest() as largest:
        model.encode_video(pixels, torch.ones(1, frames, dtype=torch.bool)).sum().backward()
    assert 0 < largest.numel < heads * tokens * tokens
