"""Whether a training has the captions of frames that its head learns from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vop.annotations.records import Record
from vop.config import ConfigError, Experiment

if TYPE_CHECKING:
    from vop.model.retrieval import RetrievalModel

COLUMN = "frame_captions"


def check_frame_captions(model: RetrievalModel, experiment: Experiment, train: Sequence[Record]) -> None:
    """Raise ConfigError where the head wants a caption of each frame and a training video has none, or another number."""
    if not model.head.captions:
        return
    name, count = experiment.head.name, experiment.frames.count
    if experiment.frames.sampling == "random":
        raise ConfigError(f"frames.sampling: random: head.name={name} has captions of certain frames: choose uniform or fps")
    if not any(record.frame_captions for record in train):
        raise ConfigError(
            f"head.name: {name} learns from a caption of each frame, and benchmark {experiment.benchmark.name} has none: give "
            f"a table with the column {COLUMN} to benchmark.name=folder, or say head.alignment=0 head.distillation=0"
        )
    for record in train:
        found = next((len(own) for own in record.frame_captions or ((),) if len(own) != count), count)
        if found != count:
            raise ConfigError(
                f"{COLUMN}: {record.video_id} has {found} of them for a caption, head.name={name} needs as many as "
                f"frames.count={count}"
            )
