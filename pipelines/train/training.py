"""The state of a training: what its steps change, and what a checkpoint holds of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from vop.config import Experiment, kind, kinds_of
from vop.errors import VopError
from vop.model.adapter import Adapter, adapter_of, load_tensors
from vop.model.head import chain_of
from vop.model.retrieval import RetrievalModel


class TrainingError(VopError, RuntimeError):
    """A training that cannot go on; the message says where it stopped, why, and what is kept."""


class WorkerError(TrainingError):
    """A worker that died or failed for a reason that another try may not meet again."""


@dataclass
class Training:
    """A model on its way: epochs and steps done, the best validation score so far and the adapter that had it.

    data: a fingerprint of the videos and captions; history: the metrics of each epoch.
    """

    experiment: Experiment
    model: RetrievalModel
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    data: str
    epoch: int = 0
    step: int = 0
    best_score: tuple[float, float] = (-math.inf, -math.inf)
    best: Adapter | None = None
    history: list[dict[str, float]] = field(default_factory=list)

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        schedule: Any = self.schedule
        return float(schedule.base_lrs[0] * schedule.lr_lambdas[0](step))

    def keep_best(self, metrics: dict[str, float]) -> None:
        """Take the model as the best if it is, by its validation t2v R@1, then MnR."""
        score = (metrics["val/t2v/R1"], -metrics["val/t2v/MnR"])
        if score > self.best_score:
            self.best_score = score
            self.best = adapter_of(self.model, self.experiment, epoch=self.epoch, validation=metrics)

    def state(self) -> dict[str, Any]:
        """All of it but the best adapter, which has files of its own, for `torch.save`."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "best_score": self.best_score,
            "history": self.history,
            "data": self.data,
            "trained": {name: p.detach().cpu() for name, p in self.model.trainable().items()},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def restore(self, state: dict[str, Any], best: Adapter) -> None:
        """Go on from what `state` gave."""
        self.epoch, self.step, self.best_score = state["epoch"], state["step"], tuple(state["best_score"])
        self.best, self.history = best, list(state["history"])
        load_tensors(self.model, state["trained"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])


def training_of(experiment: Experiment, model: RetrievalModel, steps: int, data: str) -> Training:
    """A training of so many steps, before the first."""
    return Training(experiment, model, *optimizer_of(experiment, model, steps), data)


def optimizer_of(
    experiment: Experiment, model: RetrievalModel, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW, linear warm-up, then cosine to zero (paper, section 4.1); each part of a head has a learning rate of its own."""
    training = experiment.training
    fused = model.mean_C.is_cuda  # on the CPU the plain one, whose numbers are published
    optimizer = torch.optim.AdamW(groups_of(experiment, model), weight_decay=training.weight_decay, fused=fused)
    warmup = max(1, round(steps * training.warmup))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def groups_of(experiment: Experiment, model: RetrievalModel) -> list[dict[str, Any]]:
    """What is trained, by its highest learning rate: of each tuning protocol first, then of each part of the head."""
    training = experiment.training
    groups = [
        (model.tuned[name], training.learning_rate or protocol.LEARNING_RATE)
        for name, protocol in kinds_of("tuning", experiment.tuning.name).items()
    ]
    stages, interaction = chain_of(experiment.head.name)
    parts = [(name, model.stages[name]) for name in stages] + [(interaction, model.head)]
    groups += [
        (list(part.parameters()), training.head_learning_rate or kind("head", name).LEARNING_RATE) for name, part in parts
    ]
    return [{"params": parameters, "lr": rate} for parameters, rate in groups if parameters]
