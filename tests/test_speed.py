"""What makes training faster or smaller changes no result: reused activations, checkpointing, chunks, VoP^F's memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import recipe
from torch.utils._python_dispatch import TorchDispatchMode

from pipelines.activations import Activations, activations_of
from pipelines.data import Batch, epoch_batches, training_batches
from pipelines.prepare import prepare
from pipelines.step import backward
from pipelines.store import read_manifest
from vop.config import TrainingConfig, kinds, load_experiment
from vop.model import RetrievalModel, build_model

TOY = {"backbone": {"name": "ViT-toy", "pretrained": "ViT-toy.safetensors"}, "frames": {"count": 4}}
SPLIT = "video_encoder.split_layer=8"
VARIANTS = {
    "vop": [],
    "c": ["video_prompt.name=context"],
    "f+p": ["video_prompt.name=position", SPLIT],
    "text-only": ["video_prompt.length=0"],
    **{name: [f"tuning.name={name}"] for name in kinds("tuning") if name not in ("prompts", "zero-shot")},
}


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


Gradient = tuple[torch.Tensor, dict[str, torch.Tensor]]  # a loss, and its gradient by the parameters' names


def gradient(model: RetrievalModel, batch: Batch, **training: Any) -> Gradient:
    model.zero_grad(set_to_none=True)
    loss = backward(model, batch, [len(batch.captions)], 0, TrainingConfig(**training))
    return loss, {name: p.grad.clone() for name, p in model.trainable().items() if p.grad is not None}


def assert_same(
    found: tuple[torch.Tensor, dict[str, torch.Tensor]], expected: tuple[torch.Tensor, dict[str, torch.Tensor]]
) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6)
    assert found[1].keys() == expected[1].keys() and expected[1]
    for name, grad in expected[1].items():
        torch.testing.assert_close(found[1][name], grad, rtol=1e-4, atol=1e-4 * float(grad.abs().max()) + 1e-9, msg=name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_chunks_and_checkpointing_change_no_gradient(variant: str) -> None:
    model, batch = model_of(*VARIANTS[variant]), batch_of(5)
    expected = gradient(model, batch)
    assert_same(gradient(model, batch, chunk_size=2), expected)
    assert_same(gradient(model_of(*VARIANTS[variant], "training.checkpointing=true"), batch), expected)


def test_checkpointing_keeps_less() -> None:
    def kept(*overrides: str) -> int:
        total = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        model = model_of(*overrides)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            backward(model, batch_of(4), [4], 0, TrainingConfig())
        return total

    assert kept("training.checkpointing=true") < 0.3 * kept()


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


@pytest.fixture(scope="module")
def prepared(videos: Path, tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> tuple[str, Path]:
    """A frame store of twelve clips, and the folder that it is in."""
    work = tmp_path_factory.mktemp("speed")
    return prepare(recipe(videos, work), 64).folder, work


def test_reused_activations_give_the_gradients_of_pixels(videos: Path, prepared: tuple[str, Path]) -> None:
    store, work = prepared
    experiment = recipe(videos, work, "video_prompt.depth=9-12")
    train = read_manifest(store, "train")
    model = build_model(experiment)
    steps = epoch_batches([len(record.captions) for record in train], 4, 0, 0)
    plain = [gradient(model, batch) for batch in training_batches(experiment, store, train, steps)]
    reused = activations_of(model, experiment, store, train)
    assert reused is not None
    reused.fill(model)
    batches = list(training_batches(experiment, store, train, steps, 0, reused))
    assert all(batch.pixels_BFHWC.size == 0 for batch in batches)
    for batch, expected in zip(batches, plain, strict=True):
        assert_same(gradient(model, batch), expected)
        assert_same(gradient(model, batch, chunk_size=2), expected)


def test_a_later_run_computes_none_of_them(videos: Path, prepared: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    store, work = prepared
    train = read_manifest(store, "train")

    def filled(*overrides: str) -> Activations:
        experiment = recipe(videos, work, "video_prompt.depth=11-12", *overrides)
        found = activations_of(build_model(experiment), experiment, store, train)
        assert found is not None
        return found

    first = filled()
    first.fill(build_model(recipe(videos, work, "video_prompt.depth=11-12")))
    again = filled("seed=1", "text_prompt.length=4", "video_prompt.name=position", "video_prompt.specific_length=1")
    assert again.there_N.all() and np.array_equal(again.tokens_NFLD, first.tokens_NFLD)
    monkeypatch.setattr(RetrievalModel, "activations", None)
    again.fill(build_model(recipe(videos, work, "video_prompt.depth=11-12")))
    assert not filled("video_prompt.depth=10-12").there_N.any(), "another layer, other activations"
    assert not filled("training.precision=bf16").there_N.any()


def test_where_nothing_can_be_reused(videos: Path, prepared: tuple[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    store, work = prepared
    train = read_manifest(store, "train")
    for overrides in (
        [],
        ["video_prompt.depth=9-12", "frames.sampling=random"],
        ["data.activations_gb=0", "video_prompt.depth=9-12"],
    ):
        experiment = recipe(videos, work, *overrides)
        assert activations_of(build_model(experiment), experiment, store, train) is None
    assert capsys.readouterr().out == ""
    experiment = recipe(videos, work, "video_prompt.depth=9-12", "data.activations_gb=1e-6")
    assert activations_of(build_model(experiment), experiment, store, train) is None
    assert "data.activations_gb allows 1e-06" in capsys.readouterr().out


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
