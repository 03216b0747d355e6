"""Checkpoints: what a training that died goes on from, written and read."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from pipelines.output import Output
from pipelines.train.on_disk import EPOCH, PARTIAL, SUMS, last, sum_of
from pipelines.train.training import Training, TrainingError
from vop.config import Experiment
from vop.messages import one_line
from vop.model.adapter import Adapter, load_adapter, save_adapter

STATE = "training.pt"  # beside the best adapter


def save(training: Training, folder: Path) -> Path:
    """Write a training's state below `folder`, then remove what was there before it; returns the checkpoint's folder.

    Raises TrainingError where it cannot be written, such as on a full disk, PlaceError where it cannot be sent to the output's
    address; what was there before stays.
    """
    assert training.best is not None
    done, partial = folder / f"{EPOCH}{training.epoch:06}", folder / PARTIAL
    for place in (done, partial):  # of a process that was killed, or damaged
        shutil.rmtree(place, ignore_errors=True)
    try:
        save_adapter(training.best, partial)
        torch.save(training.state(), partial / STATE)
        sums = {file.name: sum_of(file) for file in sorted(partial.iterdir())}
        (partial / SUMS).write_text(json.dumps(sums), encoding="utf-8")
        for place in (*partial.iterdir(), partial):  # else a machine that loses power may keep the name without the bytes
            _flush(place)
        partial.rename(done)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have their own of a full disk
        free = shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free / 1e9
        raise TrainingError(
            f"the checkpoint of epoch {training.epoch} cannot be written below {folder}: {one_line(error)[:300]} "
            f"({free:.2f} GB are free there)"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _flush(folder)
    output = Output.of(training.experiment.tracking)
    output.push(done)
    for other in folder.glob(f"{EPOCH}*"):
        if other != done:
            output.remove(other)
    return done


def state_of(checkpoint: Path) -> dict[str, Any]:
    """What `Training.state` gave."""
    return dict(torch.load(checkpoint / STATE, map_location="cpu", weights_only=True))


def best_of(checkpoint: Path, experiment: Experiment) -> Adapter:
    """The best adapter until then, of this experiment."""
    return load_adapter(checkpoint, experiment)


def epochs_of(folder: Path) -> list[dict[str, float]]:
    """The metrics of the epochs that a training with checkpoints below `folder` has done."""
    checkpoint = last(folder)
    return list(state_of(checkpoint)["history"]) if checkpoint else []


def trained(folder: Path, experiment: Experiment) -> Adapter | None:
    """The best adapter of a training that has done all of its epochs; else None."""
    checkpoint = last(folder)
    done = checkpoint is not None and state_of(checkpoint)["epoch"] == experiment.training.epochs
    return best_of(checkpoint, experiment) if checkpoint and done else None


def _flush(place: Path) -> None:
    number = os.open(place, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
