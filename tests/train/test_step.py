"""One step: chunks, checkpointing and the number of workers change no gradient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from pipelines.cluster.servers import free_port
from pipelines.data.reader import Batch
from pipelines.train.order import share, share_sizes
from pipelines.train.step import average_gradients, backward
from pipelines.train.training import groups_of
from tests.support.steps import SPLIT, TOY, assert_same, batch_of, gradient, model_of, noise
from vop.config import TrainingConfig, kinds, load_experiment
from vop.model.retrieval import build_model

VARIANTS = {
    "vop": [],
    "c": ["video_prompt.name=context"],
    "f+p": ["video_prompt.name=position", SPLIT],
    "text-only": ["video_prompt.length=0"],
    "xpool": ["head.name=seqlstm+xpool", "head.dropout=0.4"],
    "wti": ["head.name=seqtransf+wti", "head.layers=1", "head.cdcr=1", "head.cdcr_rest=0.01"],
    **{name: [f"tuning.name={name}"] for name in kinds("tuning") if name not in ("prompts", "zero-shot")},
}


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("variant", VARIANTS)
def test_chunks_and_checkpointing_change_no_gradient(variant: str) -> None:
    model, batch = model_of(*VARIANTS[variant]), batch_of(5)
    expected = gradient(model, batch)
    assert_same(gradient(model, batch, chunk_size=2), expected)
    assert_same(gradient(model_of(*VARIANTS[variant], "training.checkpointing=true"), batch), expected)


def test_a_head_draws_by_the_number_of_the_step_and_only_in_training() -> None:
    model, batch = model_of("head.name=xpool", "head.dropout=0.4"), batch_of(5)
    state = torch.random.get_rng_state()
    losses = [float(backward(model, batch, [5], 0, TrainingConfig(), draw)) for draw in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(state, torch.random.get_rng_state()) and not model.head.training


def test_each_part_of_a_head_has_its_learning_rate() -> None:
    def rates(*overrides: str) -> list[tuple[float, int]]:
        experiment = load_experiment(TOY, overrides)
        return [(group["lr"], len(group["params"])) for group in groups_of(experiment, build_model(experiment))]

    assert rates() == [(1e-2, 2)]
    chain = ["head.name=seqlstm+xpool"]
    assert rates(*chain) == [(1e-2, 2), (1e-4, 4), (3e-5, 16)]
    assert rates(*chain, "training.learning_rate=1e-3") == [(1e-3, 2), (1e-4, 4), (3e-5, 16)]
    assert rates(*chain, "training.head_learning_rate=1e-3", "tuning.name=zero-shot") == [(1e-3, 4), (1e-3, 16)]


def test_each_protocol_has_its_learning_rate() -> None:
    def rates(*overrides: str) -> list[tuple[float, int]]:
        experiment = load_experiment(TOY, ["training.learning_rate=null", "tuning.name=prompts+lora", *overrides])
        return [(group["lr"], len(group["params"])) for group in groups_of(experiment, build_model(experiment))]

    assert rates() == [(1e-2, 2), (1e-3, 48)]
    assert rates("training.learning_rate=3e-3") == [(3e-3, 2), (3e-3, 48)]


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


@pytest.mark.usefixtures("slow")
def test_two_workers_step_like_one(tmp_path: Path) -> None:
    """Loss to 1e-6 and gradients to 1e-5 relative; five pairs, so the workers' shares differ, in chunks of two pairs.

    With heads: rows of another width on each worker, a loss that sees all rows, and dropout.
    """
    port = free_port()
    mp.spawn(_worker, args=(2, port, tmp_path), nprocs=2)
    for place, head in enumerate(HEADS):
        loss, gradients = one_step(0, 1, head)
        for rank in (0, 1):
            other_loss, other = torch.load(tmp_path / f"{rank}.pt", weights_only=True)[place]
            torch.testing.assert_close(other_loss, loss, rtol=1e-6, atol=0)
            assert other.keys() >= gradients.keys()
            for name, expected in gradients.items():
                torch.testing.assert_close(
                    other[name], expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()) + noise(gradients)
                )


def _worker(rank: int, workers: int, port: int, folder: Path) -> None:
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=workers)
    torch.save([one_step(rank, workers, head, chunk_size=2) for head in HEADS], folder / f"{rank}.pt")
    dist.destroy_process_group()


HEADS: list[dict[str, object]] = [{}, {"name": "xpool", "dropout": 0.4}, {"name": "wti", "cdcr": 1.0}]


def one_step(
    rank: int, workers: int, head: dict[str, object], chunk_size: int | None = None
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and averaged gradients of one worker's share of a fixed batch of five pairs; Full, so the scale is trained."""
    torch.set_num_threads(1)
    tree = {"backbone": {"name": "ViT-toy", "pretrained": "ViT-toy.safetensors"}, "frames": {"count": 2}}
    model = build_model(load_experiment({**tree, "tuning": {"name": "full"}, "head": head}))
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 2, 64, 64, 3), dtype=np.uint8)
    captions = [f"a {color} circle" + " on it" * n for n, color in enumerate(("red", "blue", "green", "white", "pink"))]
    own = [video for video, _ in share([(i, 0) for i in range(5)], rank, workers)]
    batch = Batch(0, np.asarray(own), pixels[own], np.ones((len(own), 2), dtype=np.bool_), [captions[i] for i in own])
    loss = backward(model, batch, share_sizes(5, workers), rank, TrainingConfig(chunk_size=chunk_size), draw=3)
    average_gradients(list(model.trainable().values()), workers)
    return loss.detach(), {name: p.grad.clone() for name, p in model.trainable().items() if p.grad is not None}
