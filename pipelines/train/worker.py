"""What every Ray Train worker runs: Job -> tuned tensors, with a validation and a checkpoint each epoch."""

from __future__ import annotations

import logging
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.cluster.connect import quiet
from pipelines.data.activations import activations_of
from pipelines.data.local import keep
from pipelines.data.reader import Batch, Pair
from pipelines.data.store import read_manifest
from pipelines.data.streaming import training_batches
from pipelines.locations import checkpoint_folder
from pipelines.output import Output
from pipelines.score.embed import embed, scores
from pipelines.tracking import Run
from pipelines.train.captions import check_frame_captions
from pipelines.train.checkpoint import best_of, save, state_of
from pipelines.train.copies import Finite, on_device
from pipelines.train.elastic import LEFT
from pipelines.train.on_disk import last
from pipelines.train.order import all_batches, share, share_sizes
from pipelines.train.step import average_gradients, backward
from pipelines.train.training import Training, TrainingError, training_of
from vop.benchmarks import Record
from vop.config import Experiment, Tree, validated, with_value
from vop.fingerprint import fingerprint
from vop.messages import Progress
from vop.model.adapter import Adapter
from vop.model.head import joined
from vop.model.retrieval import build_model

logger = logging.getLogger(__name__)
LOSS = "train/loss"
FIRST = "val/t2v/R1"  # of a run's metrics: MLflow's pages open on the one that was logged first
NAMED = 12  # videos of a batch in a message


@dataclass(frozen=True)
class Job:
    """What the workers of a training are given: the experiment, the folder of its frame store, its run."""

    experiment: Experiment
    store: str
    run: Run

    @property
    def cpus(self) -> float:
        """Of each worker."""
        return self.experiment.resources.cpus_per_worker

    @property
    def checkpoints(self) -> Path:
        """Where they are on this machine."""
        return checkpoint_folder(self.experiment.tracking, self.run.id)

    def tree(self) -> Tree:
        """The job as JSON-ready dictionaries, as Ray carries it to the workers, who have other working directories."""
        place = Output.of(self.experiment.tracking).place
        tree = with_value(self.experiment.tree(), "tracking.output", place)
        return {"experiment": tree, "store": self.store, "run": asdict(self.run)}

    @classmethod
    def of(cls, tree: Tree) -> Job:
        """The job that `tree` was made of."""
        return cls(validated(tree["experiment"]), tree["store"], Run(**tree["run"]))


@dataclass(frozen=True)
class Worker:
    """A worker's place in a training: its rank among `workers`, its device, whom it tells each epoch's metrics.

    trial: in a trial of a sweep, of which the sweep tells: nothing is said of its epochs.
    """

    rank: int
    workers: int
    device: torch.device
    report: Callable[[dict[str, float]], None]
    trial: bool = False

    @property
    def speaks(self) -> bool:
        """Whether it says how far the training is."""
        return self.rank == 0 and not self.trial


def train_loop(tree: Tree) -> None:
    """What a worker of Ray Train runs; tree: of a Job."""
    logging.getLogger("ray.train.v2._internal.util").setLevel(logging.CRITICAL)  # tracebacks: the driver says a line and a file
    context, device = ray.train.get_context(), ray.train.torch.get_device()
    job = Job.of(tree)
    train(job, Worker(context.get_world_rank(), context.get_world_size(), device, ray.train.report))
    if Output.of(job.experiment.tracking).is_copy:  # the address has all
        shutil.rmtree(job.checkpoints, ignore_errors=True)


def train(job: Job, worker: Worker) -> Adapter:
    """One worker of a training, from its last checkpoint if there is one; returns what is best on validation."""
    quiet()
    # Frames from Ray's object store are read-only; they are only copied to the device.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    experiment, store = job.experiment, job.store
    if worker.speaks:
        logger.info("building the model")
    torch.set_num_threads(max(1, int(job.cpus)))  # else every worker spins on all cores
    records, validation = read_manifest(store, "train"), read_manifest(store, experiment.training.select)
    steps = all_batches([len(record.captions) for record in records], experiment.training, experiment.seed)
    data = fingerprint([[record.video_id, *record.captions, *record.frame_captions] for record in (*records, *validation)])
    training = training_of(experiment, build_model(experiment).to(worker.device), sum(len(epoch) for epoch in steps), data)
    check_frame_captions(training.model, experiment, records)
    Output.of(experiment.tracking).pull(job.checkpoints)
    _resume(training, job.checkpoints, worker)
    logged = job.run.steps(LOSS) if worker.rank == 0 else set()
    for number, metrics in enumerate(training.history if worker.rank == 0 else (), 1):
        log_epoch(job.run, metrics, number, logged)  # of a process that died between checkpoint and log
    todo = [share(batch, worker.rank, worker.workers) for epoch in steps[training.epoch :] for batch in epoch]
    reused = activations_of(training.model, experiment, store, records)
    if reused is not None:
        reused.fill(training.model, worker.rank, worker.workers)
    keep(store, experiment.data.local_gb)
    batches = on_device(training_batches(experiment, store, records, todo, training.step, reused), worker.device)
    names = [record.video_id for record in records]
    for epoch in steps[training.epoch :]:
        cpu = time.process_time()
        metrics = train_epoch(training, batches, epoch, worker, names)
        metrics |= _validate(training, store, validation, worker)
        metrics["epoch/cpu_seconds"] = time.process_time() - cpu  # of this worker: steps and validation
        metrics["epoch/workers"] = worker.workers
        training.keep_best(metrics)
        training.history.append(metrics)
        if worker.rank == 0:
            save(training, job.checkpoints)
            log_epoch(job.run, metrics, training.epoch, logged)
        if worker.speaks:
            logger.info("%s", _line(training.epoch, experiment.training.epochs, metrics))
        worker.report({**metrics, LEFT: experiment.training.epochs - training.epoch})
    assert training.best is not None
    return training.best


def train_epoch(
    training: Training, batches: Iterator[Batch], steps: Sequence[Sequence[Pair]], worker: Worker, names: Sequence[str]
) -> dict[str, float]:
    """All steps of one epoch over videos of these names; returns the mean loss and the share of time spent waiting for data.

    Raises TrainingError for a loss that is not finite.
    """
    losses: list[Tensor] = []
    finite: list[Finite] = []
    experiment = training.experiment
    waited, started = 0.0, time.monotonic()
    trained = list(training.model.trainable().values())
    doing = f"epoch {training.epoch + 1}/{experiment.training.epochs}"
    with Progress(logger, doing, len(steps), "steps", says_end=False) if worker.speaks else nullcontext() as progress:
        for step in steps:
            sizes = share_sizes(len(step), worker.workers)
            asked = time.monotonic()
            batch = next(batches) if sizes[worker.rank] else None
            waited += time.monotonic() - asked
            training.optimizer.zero_grad(set_to_none=True)
            draw = (experiment.seed << 32) + training.step + len(losses)
            losses.append(backward(training.model, batch, sizes, worker.rank, experiment.training, draw))
            finite.append(Finite(losses[-1]))
            _refuse_infinite(training, losses, finite, steps, names, behind=worker.device.type != "cpu")
            average_gradients(trained, worker.workers)
            training.optimizer.step()
            training.schedule.step()
            if progress:
                progress.add()
    _refuse_infinite(training, losses, finite, steps, names)
    seconds = time.monotonic() - started
    training.epoch, training.step = training.epoch + 1, training.step + len(steps)
    return {
        LOSS: float(torch.stack(losses).mean()),
        "train/learning_rate": float(training.schedule.get_last_lr()[0]),
        "train/data_wait_fraction": waited / seconds,
        "train/seconds": seconds,
        "train/pairs_per_second": sum(len(step) for step in steps) / seconds,
    }


def _validate(training: Training, store: str, records: Sequence[Record], worker: Worker) -> dict[str, float]:
    """Metrics on the validation split, as `val/...`; each worker embeds its share of the videos."""
    bounds = np.linspace(0, len(records), worker.workers + 1).astype(int)
    own, data = records[bounds[worker.rank] : bounds[worker.rank + 1]], training.experiment.data
    precision = training.experiment.training.precision
    parts: list[tuple[Tensor, Tensor] | None] = [embed(training.model, store, own, precision, data.readers) if own else None]
    if worker.workers > 1:
        gathered: list[Any] = [None] * worker.workers
        dist.all_gather_object(gathered, parts[0])
        parts = gathered
    text_MS = joined([part[0] for part in parts if part])
    video_NR = torch.cat([part[1] for part in parts if part])
    return {f"val/{name}": value for name, value in scores(records, text_MS, video_NR, training.model.head).items()}


def _line(epoch: int, epochs: int, metrics: dict[str, float]) -> str:
    pairs = f"  pairs {metrics['val/pair_accuracy']:.1f}%" if "val/pair_accuracy" in metrics else ""
    return (
        f"epoch {epoch}/{epochs}  loss {metrics['train/loss']:.3f}  val R@1 t2v {metrics['val/t2v/R1']:.1f} "
        f"v2t {metrics['val/v2t/R1']:.1f}{pairs}  {metrics['train/seconds']:.0f} s  "
        f"waited for data {metrics['train/data_wait_fraction']:.1%}"
    )


def _refuse_infinite(
    training: Training,
    losses: Sequence[Tensor],
    finite: Sequence[Finite],
    steps: Sequence[Sequence[Pair]],
    names: Sequence[str],
    behind: bool = False,
) -> None:
    """Stop at a loss that is not finite, on every worker. behind: look at the loss before the last, which a device has done."""
    place = len(losses) - 1 - behind
    if place < 0 or finite[place]:
        return
    step = training.step + place
    videos = [names[video] for video, _ in steps[place]]
    more = f" and {len(videos) - NAMED} more" if len(videos) > NAMED else ""
    raise TrainingError(
        f"step {step + 1} (epoch {training.epoch + 1}): the loss is {float(losses[place]):g} at learning rate "
        f"{training.rate(step):.3g}: lower training.learning_rate, or look at the videos and captions of this batch: "
        f"{', '.join(videos[:NAMED])}{more}"
    )


def log_epoch(run: Run, metrics: dict[str, float], epoch: int, logged: set[int]) -> None:
    """Log an epoch's metrics once, whatever dies and starts again; logged: epochs that are."""
    if epoch not in logged:
        run.log({FIRST: metrics[FIRST], **metrics}, step=epoch)


def _resume(training: Training, folder: Path, worker: Worker) -> None:
    """Go on from the last checkpoint, if there is one. Raises TrainingError if it is not this training's."""
    if checkpoint := last(folder):
        state = state_of(checkpoint)
        if state["data"] != training.data:
            raise TrainingError(
                f"{checkpoint}: the training began with other videos or captions than there are now; bring them back, or start "
                "another training"
            )
        training.restore(state, best_of(checkpoint, training.experiment))
        if worker.speaks:
            words = "going on after epoch %d/%d, workers: %d"
            logger.info(words, training.epoch, training.experiment.training.epochs, worker.workers)
    if worker.workers > 1:
        epochs: list[Any] = [None] * worker.workers
        dist.all_gather_object(epochs, training.epoch)
        if len(set(epochs)) > 1:
            raise TrainingError(
                f"{folder}: the workers see other checkpoints: tracking.output must be a folder that they share, or an address"
            )
