"""What holds on a GPU; skipped where there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipelines.data.reader import Batch
from pipelines.train.copies import Finite, on_device
from pipelines.train.step import backward
from pipelines.train.training import training_of
from pipelines.train.worker import Worker, train_epoch
from tests.support.steps import TOY, assert_same, batch_of, gradient, model_of
from vop.config import load_experiment
from vop.model.retrieval import build_model
from vop.paper.methods import ANYWHERE, overrides_of
from vop.scores.rescoring import compare

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
GPU, PAIRS = torch.device("cuda"), 5
WAYS = {name: [f"{key}={value}" for key, value in overrides_of(name, 12).items()] for name in ANYWHERE if name != "zero-shot"}
SYNCS = ("WTI", "seqTransf+WTI", "seqLSTM")  # the lengths of texts, or of videos, decide their work


@pytest.mark.parametrize("name", WAYS)
def test_a_step_is_the_cpus(name: str) -> None:
    batch, expected, found = batch_of(PAIRS), model_of(*WAYS[name]), model_of(*WAYS[name]).to(GPU)
    loss, gradients = gradient(expected, batch, precision="fp32")
    on_gpu, gradients_there = gradient(found, batch, precision="fp32")
    if "X-Pool" not in name:  # what it drops at random is drawn on the device
        assert_same((on_gpu.cpu(), {key: grad.cpu() for key, grad in gradients_there.items()}), (loss, gradients))
    else:
        torch.testing.assert_close(on_gpu.cpu(), loss, rtol=0.2, atol=0.05)


@pytest.mark.parametrize(("precision", "bound"), [("tf32", 0.02), ("bf16", 0.1)])
def test_fewer_bits_are_near(precision: str, bound: float) -> None:
    batch, model = batch_of(PAIRS), model_of().to(GPU)
    expected, _ = gradient(model, batch, precision="fp32")
    found, _ = gradient(model, batch, precision=precision)
    assert found != expected and abs(found - expected) < bound * abs(expected)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("name", [name for name in WAYS if name not in SYNCS])
def test_no_step_waits_for_the_gpu(name: str, precision: str) -> None:
    experiment = load_experiment(TOY, [*WAYS[name], f"training.precision={precision}"])
    training = training_of(experiment, build_model(experiment).to(GPU), 10, "")
    batch = batch_of(PAIRS)
    batch = replace(batch, pixels_BFHWC=torch.from_numpy(batch.pixels_BFHWC).pin_memory().numpy())
    batches = on_device(iter([batch] * 4), GPU)
    backward(training.model, next(batches), [PAIRS], 0, experiment.training)  # what torch makes once
    training.optimizer.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            training.optimizer.zero_grad(set_to_none=True)
            loss = backward(training.model, next(batches), [PAIRS], 0, experiment.training)
            finite = Finite(loss)
            training.optimizer.step()
            training.schedule.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert finite and torch.isfinite(loss)


def test_batches_arrive_as_they_were() -> None:
    rng = np.random.default_rng(0)

    def batch(step: int) -> Batch:
        pixels = torch.from_numpy(rng.integers(0, 256, (8, 4, 64, 64, 3), dtype=np.uint8)).pin_memory().numpy()
        return replace(batch_of(PAIRS), step=step, pixels_BFHWC=pixels)

    kept = [batch(step) for step in range(20)]
    sums = [int(one.pixels_BFHWC.astype(np.int64).sum()) for one in kept]  # type: ignore[union-attr]
    busy = torch.randn(4096, 4096, device=GPU)
    found = []
    for one in on_device(iter(kept), GPU):
        busy = busy @ busy / 64
        found.append(torch.as_tensor(one.pixels_BFHWC).long().sum())
    assert [int(one) for one in found] == sums


def test_an_epoch_on_a_gpu_learns() -> None:
    experiment = load_experiment(TOY, ["training.learning_rate=0.01"])
    training = training_of(experiment, build_model(experiment).to(GPU), 40, "")
    worker = Worker(0, 1, GPU, lambda metrics: None, trial=True)
    batch, steps = batch_of(PAIRS), [[(0, 0)] * PAIRS] * 20
    losses = [train_epoch(training, on_device(iter([batch] * 20), GPU), steps, worker, ["a"])["train/loss"] for _ in range(2)]
    assert losses[1] < losses[0]


def test_chunks_are_the_whole() -> None:
    whole = gradient(model_of().to(GPU), batch_of(PAIRS))
    assert_same(gradient(model_of().to(GPU), batch_of(PAIRS), chunk_size=2), whole)


def test_ranks_are_those_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed=0)
    text, video, bank = (rng.standard_normal((n, 64)).astype(np.float32) for n in (3000, 2000, 500))
    text, video, bank = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (text, video, bank))
    owner = rng.integers(0, 2000, 3000)
    owner[:2000] = np.arange(2000)
    there = compare(text, video, owner, bank, top=10)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    here = compare(text, video, owner, bank, top=10)
    for found, expected in ((there.t2v, here.t2v), (there.v2t, here.v2t)):
        assert np.array_equal(found.higher_Q, expected.higher_Q) and np.array_equal(found.ties_Q, expected.ties_Q)
