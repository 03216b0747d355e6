"""One step of a toy model: what its loss and gradients are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pipelines.data.reader import Batch
from pipelines.train.step import backward
from vop.config import TrainingConfig, load_experiment
from vop.model.retrieval import RetrievalModel, build_model

TOY = {"backbone": {"name": "ViT-toy", "pretrained": "ViT-toy.safetensors"}, "frames": {"count": 4}}
SPLIT = "video_encoder.split_layer=8"
Gradient = tuple[torch.Tensor, dict[str, torch.Tensor]]  # a loss, and its gradient by the parameters' names


def model_of(*overrides: str) -> RetrievalModel:
    model = build_model(load_experiment(TOY, overrides))
    with torch.no_grad():  # away from the start, where adapters are zero
        generator = torch.Generator().manual_seed(1)
        for parameter in model.trainable().values():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.02
    return model


def batch_of(pairs: int) -> Batch:
    rng = np.random.default_rng(0)
    pixels, mask = rng.integers(0, 256, (pairs, 4, 64, 64, 3), dtype=np.uint8), np.ones((pairs, 4), dtype=np.bool_)
    mask[0, 2:] = False
    captions = [
        f"a {color} circle" + " on a wall" * (n % 3) for n, color in enumerate(("red", "blue", "pink", "green", "white"))
    ]
    return Batch(0, np.arange(pairs), pixels, mask, captions[:pairs])


def gradient(model: RetrievalModel, batch: Batch, **training: Any) -> Gradient:
    model.zero_grad(set_to_none=True)
    loss = backward(model, batch, [len(batch.captions)], 0, TrainingConfig(**training))
    return loss, {name: p.grad.clone() for name, p in model.trainable().items() if p.grad is not None}


def assert_same(found: Gradient, expected: Gradient) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6)
    assert found[1].keys() == expected[1].keys() and expected[1]
    floor = noise(expected[1])
    for name, grad in expected[1].items():
        torch.testing.assert_close(found[1][name], grad, rtol=1e-4, atol=1e-4 * float(grad.abs().max()) + floor, msg=name)


def noise(gradients: dict[str, torch.Tensor]) -> float:
    """What rounding leaves of a gradient that is 0, such as that of a bias in front of a softmax."""
    return 1e-7 * max(float(grad.abs().max()) for grad in gradients.values())
