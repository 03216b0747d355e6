"""Checkpoints: what a training that died goes on from. One folder an epoch, there whole or not at all; the last is kept."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from pipelines.output import Output
from pipelines.train.training import Training, TrainingError
from vop.config import Experiment
from vop.messages import one_line
from vop.model.adapter import Adapter, load_adapter, save_adapter
from vop.places import PlaceError

logger = logging.getLogger(__name__)
STATE = "training.pt"  # beside the best adapter
SUMS = "sha256.json"
EPOCH, PARTIAL = "epoch-", "partial"
ERRORS = "error.log"  # beside the checkpoints: the full text of what stopped the training


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
        sums = {file.name: _sum(file) for file in sorted(partial.iterdir())}
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


def remove(output: Output, folder: Path, kept: bool = False) -> None:
    """Remove what a training has below `folder`; kept: unless there is something to go on from, or to read."""
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)  # of a worker that was killed
    if kept and _holds_something(output, folder):
        return
    output.remove(folder)
    with suppress(OSError):  # of other runs there is more
        folder.parent.rmdir()


def _holds_something(output: Output, folder: Path) -> bool:
    try:
        return any(name == ERRORS or name.startswith(EPOCH) for name in output.names(folder))
    except PlaceError:  # an address that does not answer now
        return True


def last(folder: Path) -> Path | None:
    """The last checkpoint below `folder`, if there is one. One whose bytes have changed is said and left out."""
    for found in sorted(folder.glob(f"{EPOCH}*"), reverse=True):
        if damaged := _damaged(found):
            logger.warning("checkpoint %s is damaged (%s) and is not used", found, damaged)
        else:
            return found
    return None


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


def _damaged(checkpoint: Path) -> str:
    """The first file that is not as it was written, else ''."""
    try:
        sums = json.loads((checkpoint / SUMS).read_text(encoding="utf-8"))
        return next((name for name, known in sums.items() if _sum(checkpoint / name) != known), "")
    except (OSError, ValueError, AttributeError):
        return SUMS


def _sum(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _flush(place: Path) -> None:
    number = os.open(place, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
