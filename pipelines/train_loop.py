"""What every Ray Train worker runs: Experiment -> tuned tensors, with a validation and a checkpoint each epoch."""

from __future__ import annotations

import math
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.activations import activations_of
from pipelines.cluster import quiet
from pipelines.data import Batch, Pair, epoch_batches, share, share_sizes, training_batches
from pipelines.scoring import embed, scores
from pipelines.step import average_gradients, backward
from pipelines.store import read_manifest
from pipelines.tracking import Run
from vop.adapter import Adapter, adapter_of, load_adapter, load_tensors, save_adapter
from vop.benchmarks import Record
from vop.config import Experiment, kind, validated
from vop.model import RetrievalModel, build_model

STATE = "training.pt"  # in a checkpoint, beside the best adapter


@dataclass
class Progress:
    """Where a training is; all of it is in a checkpoint."""

    epoch: int = 0
    step: int = 0
    best_score: tuple[float, float] = (-math.inf, -math.inf)
    best: Adapter | None = None


@dataclass(frozen=True)
class Worker:
    """A worker's place in a training: its rank among `workers`, the checkpoint it starts from, whom it reports epochs to.

    report(metrics, checkpoint=...): the first worker gives a checkpoint too. prints: a line an epoch.
    """

    rank: int
    workers: int
    device: torch.device
    checkpoint: ray.train.Checkpoint | None
    report: Callable[..., None]
    prints: bool = True


def train_loop(config: dict[str, Any]) -> None:
    """What a worker of Ray Train runs; config as in `train`."""
    context, device, checkpoint = ray.train.get_context(), ray.train.torch.get_device(), ray.train.get_checkpoint()
    train(config, Worker(context.get_world_rank(), context.get_world_size(), device, checkpoint, ray.train.report))


def train(config: dict[str, Any], worker: Worker) -> Adapter:
    """One worker of a training; returns what is best on validation. config: experiment (tree), store, run_uri, run_id, cpus."""
    quiet()
    # Frames from Ray's object store are read-only; they are only copied to the device.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    experiment, store = validated(config["experiment"]), config["store"]
    rank, workers = worker.rank, worker.workers
    torch.set_num_threads(max(1, int(config["cpus"])))  # else every worker spins on all cores
    model = build_model(experiment).to(worker.device)
    trained = list(model.trainable().values())
    records, validation = read_manifest(store, "train"), read_manifest(store, experiment.training.select)
    steps = [
        epoch_batches([len(r.captions) for r in records], experiment.training.batch_size, experiment.seed, epoch)
        for epoch in range(experiment.training.epochs)
    ]
    optimizer, schedule = optimizer_of(experiment, trained, sum(len(epoch) for epoch in steps))
    progress = Progress()
    if worker.checkpoint is not None:  # Ray Train has restarted this worker
        _resume(worker.checkpoint, model, optimizer, schedule, progress)
    run = Run(config["run_uri"], config["run_id"])
    todo = [share(batch, rank, workers) for epoch in steps[progress.epoch :] for batch in epoch]
    reused = activations_of(model, experiment, store, records)
    if reused is not None:
        reused.fill(model, rank, workers)
    batches = training_batches(experiment, store, records, todo, progress.step, reused)
    for epoch in range(progress.epoch, experiment.training.epochs):
        cpu = time.process_time()
        metrics = train_epoch(model, optimizer, schedule, experiment, batches, steps[epoch], rank, workers)
        progress.epoch, progress.step = epoch + 1, progress.step + len(steps[epoch])
        metrics |= _validate(model, experiment, store, validation, rank, workers)
        metrics["epoch/cpu_seconds"] = time.process_time() - cpu  # of this worker: steps and validation
        score = (metrics["val/t2v/R1"], -metrics["val/t2v/MnR"])
        if score > progress.best_score:
            progress.best_score = score
            progress.best = adapter_of(model, experiment, epoch=epoch + 1, validation=metrics)
        if rank == 0:
            run.log(metrics, step=epoch + 1)
        if rank == 0 and worker.prints:
            print(_line(epoch + 1, experiment.training.epochs, metrics), flush=True)
        _report(optimizer, schedule, model, progress, metrics, worker)
    assert progress.best is not None
    return progress.best


def optimizer_of(
    experiment: Experiment, parameters: Sequence[torch.nn.Parameter], steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW, linear warm-up, then cosine to zero (paper, section 4.1)."""
    training = experiment.training
    rate = training.learning_rate or kind("tuning", experiment.tuning.name).LEARNING_RATE
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=training.weight_decay)
    warmup = max(1, round(steps * training.warmup))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def train_epoch(
    model: RetrievalModel,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    experiment: Experiment,
    batches: Iterator[Batch],
    steps: Sequence[Sequence[Pair]],
    rank: int,
    workers: int,
) -> dict[str, float]:
    """All steps of one epoch; returns the mean loss and the share of time spent waiting for data."""
    losses, waited, started = [], 0.0, time.monotonic()
    trained = list(model.trainable().values())
    for step in steps:
        sizes = share_sizes(len(step), workers)
        asked = time.monotonic()
        batch = next(batches) if sizes[rank] else None
        waited += time.monotonic() - asked
        optimizer.zero_grad(set_to_none=True)
        losses.append(backward(model, batch, sizes, rank, experiment.training))
        average_gradients(trained, workers)
        optimizer.step()
        schedule.step()
    seconds = time.monotonic() - started
    return {
        "train/loss": float(torch.stack(losses).mean()),
        "train/learning_rate": float(schedule.get_last_lr()[0]),
        "train/data_wait_fraction": waited / seconds,
        "train/seconds": seconds,
        "train/pairs_per_second": sum(len(step) for step in steps) / seconds,
    }


def _validate(
    model: RetrievalModel, experiment: Experiment, store: str, records: Sequence[Record], rank: int, workers: int
) -> dict[str, float]:
    """Metrics on the validation split, as `val/...`; each worker embeds its share of the videos."""
    bounds = np.linspace(0, len(records), workers + 1).astype(int)
    own = embed(model, store, records[bounds[rank] : bounds[rank + 1]]) if bounds[rank] < bounds[rank + 1] else None
    parts: list[tuple[Tensor, Tensor] | None] = [own]
    if workers > 1:
        parts = [None] * workers
        dist.all_gather_object(parts, own)
    text_ME = torch.cat([part[0] for part in parts if part])
    video_NE = torch.cat([part[1] for part in parts if part])
    return {f"val/{name}": value for name, value in scores(records, text_ME, video_NE).items()}


def _line(epoch: int, epochs: int, metrics: dict[str, float]) -> str:
    pairs = f"  pairs {metrics['val/pair_accuracy']:.1f}%" if "val/pair_accuracy" in metrics else ""
    return (
        f"epoch {epoch}/{epochs}  loss {metrics['train/loss']:.3f}  val R@1 t2v {metrics['val/t2v/R1']:.1f} "
        f"v2t {metrics['val/v2t/R1']:.1f}{pairs}  {metrics['train/seconds']:.0f} s  "
        f"waited for data {metrics['train/data_wait_fraction']:.1%}"
    )


def _report(
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    model: RetrievalModel,
    progress: Progress,
    metrics: dict[str, float],
    worker: Worker,
) -> None:
    """Report metrics and, from the first worker, a checkpoint."""
    if worker.rank != 0:
        worker.report(metrics)
        return
    assert progress.best is not None
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(progress.best, Path(folder))
        state = {
            "epoch": progress.epoch,
            "step": progress.step,
            "best_score": progress.best_score,
            "trained": {name: p.detach().cpu() for name, p in model.trainable().items()},
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
        }
        torch.save(state, Path(folder) / STATE)
        worker.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def _resume(
    checkpoint: ray.train.Checkpoint,
    model: RetrievalModel,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    progress: Progress,
) -> None:
    """Go on from the last checkpoint."""
    with checkpoint.as_directory() as folder:
        state = torch.load(Path(folder) / STATE, map_location="cpu", weights_only=True)
        progress.best = load_adapter(Path(folder))
    progress.epoch, progress.step, progress.best_score = state["epoch"], state["step"], tuple(state["best_score"])
    load_tensors(model, state["trained"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
