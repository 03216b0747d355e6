"""All that can be known of a training before work, in seconds and without Ray: `vop check`, `--dry-run`, and every training."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.data.check import check_output, check_videos, is_written
from pipelines.data.options import store_folder
from pipelines.data.room import Reused, Room
from pipelines.data.store import MANIFEST
from pipelines.data.tasks import Tasks
from pipelines.locations import check_server
from pipelines.output import Output
from pipelines.train.captions import check_frame_captions
from pipelines.train.order import epoch_batches, thin_steps
from vop.annotations.records import SPLITS, Record
from vop.config import ConfigError, Experiment
from vop.model.architecture import FEW, caption_tokens, image_size
from vop.places import PlaceError, absolute, free_bytes, is_remote, join

if TYPE_CHECKING:
    from vop.model.retrieval import RetrievalModel

logger = logging.getLogger(__name__)
COPIES = 8  # of what is trained, on disk at once: two checkpoints of weights, two moments and the best weights
THIN = 0.1  # of the steps may hold few pairs before it is said


@dataclass(frozen=True)
class Plan:
    """videos: of each split; to_decode: of them, those that the frame store does not hold yet, which take `room`.

    steps: of the first epoch, if every video can be read; trainable: numbers that are trained; reused: what the activations
    take that are reused.
    """

    videos: Mapping[str, int]
    to_decode: Mapping[str, int]
    tasks: Tasks
    epochs: int
    steps: int
    trainable: int
    room: Room
    reused: Reused


def check(experiment: Experiment) -> tuple[int, Tasks | None]:
    """Raise what `plan` raises; but a benchmark that is written on first use is not looked at before it is.

    Returns how many numbers are trained, and what `find_tasks` found of the videos.
    """
    model = _check_machine(experiment)
    return model.count_trainable(), _plan(experiment, model).tasks if is_written(experiment) else None


def plan(experiment: Experiment) -> Plan:
    """What `run_experiment` would do.

    Raises TrackingError for an MLflow server that does not answer, PlaceError for a place without room or that cannot be
    written, ConfigError for a model that cannot be built and for a split that is missing, BenchmarkError for bad annotation
    files, and FailedVideosError where none of a few videos can be read. Warns of an order of training that teaches little.
    """
    return _plan(experiment, _check_machine(experiment))


def _check_machine(experiment: Experiment) -> RetrievalModel:
    """The shape of the model; all but the videos is checked."""
    from vop.model.retrieval import shape_of_model

    check_server(experiment.tracking)
    check_captions(experiment)
    model = shape_of_model(experiment)
    trainable = model.count_trainable()
    free, needed = check_output(experiment.tracking), COPIES * 4 * trainable
    if free is not None and needed > free:
        raise PlaceError(
            f"tracking.output={experiment.tracking.output} has no room for checkpoints: {trainable:,} trained numbers take "
            f"{needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free"
        )
    return model


def shared_places(experiment: Experiment) -> dict[str, str]:
    """Places that the driver and all workers must see alike, for `check_shared`."""
    output, cache = experiment.tracking.output, experiment.data.cache
    made = join(store_folder(experiment, image_size(experiment.backbone)), MANIFEST)  # of a store that others may have made
    store = made if not is_remote(cache) and os.path.isfile(made) else absolute(cache)
    return {f"tracking.output={output}": Output.of(experiment.tracking).place, f"data.cache={cache}": store}


def check_captions(experiment: Experiment) -> None:
    """Raise ConfigError for text prompts that leave no room for captions; warn of those that leave little."""
    if (left := caption_tokens(experiment)) < FEW:
        words = "text_prompt.length: %d prompts leave %d tokens for a caption (a word takes one or more): longer ones are cut"
        logger.warning(words, experiment.text_prompt.length, left)


def _plan(experiment: Experiment, model: RetrievalModel) -> Plan:
    training, trainable = experiment.training, model.count_trainable()
    needed = ("train", training.select) if trainable and training.epochs else ()
    tasks, room = check_videos(experiment, image_size(experiment.backbone), needed)
    todo = set(tasks.table["key"].to_pylist())
    videos = Counter(record.split for record in tasks.records)
    if not videos["test"] and not videos[training.select]:
        raise ConfigError(f"benchmark {experiment.benchmark.name} has no test and no {training.select} videos to score")
    to_decode = Counter(record.split for record, key in zip(tasks.records, tasks.keys, strict=True) if key in todo)
    train = [record for record in tasks.records if record.split == "train"]
    captions = [len(record.captions) for record in train]
    steps = epoch_batches(captions, training.batch_size, experiment.seed, 0, training.captions_per_video)
    if needed:
        check_frame_captions(model, experiment, train)
        _warn_of_thin_steps(experiment, train, *thin_steps(steps, len(train), training.batch_size), len(steps))
    return Plan(
        videos={split: videos[split] for split in SPLITS},
        to_decode={split: to_decode[split] for split in SPLITS},
        tasks=tasks,
        epochs=training.epochs,
        steps=len(steps),
        trainable=trainable,
        room=room,
        reused=_reused(experiment, model, len(train) if needed else 0, room),
    )


def _reused(experiment: Experiment, model: RetrievalModel, videos: int, room: Room) -> Reused:
    from pipelines.data.activations import bytes_of, reusable, root_of

    folder = root_of(experiment)
    free = free_bytes(str(folder))
    if free is not None and not is_remote(experiment.data.cache):
        free -= room.needed
    return Reused(folder, videos * bytes_of(reusable(model, experiment)), free, experiment.data.activations_gb * 1e9)


def _warn_of_thin_steps(experiment: Experiment, train: list[Record], thin: int, single: int, steps: int) -> None:
    if thin < 2 or thin <= THIN * steps:
        return
    full = min(experiment.training.batch_size, len(train))
    counts = sorted(len(record.captions) for record in train)
    most = max(train, key=lambda record: len(record.captions)).video_id
    logger.warning(
        "%d of the %d steps of an epoch hold less than half of %d pairs, %d of them a single one, which teaches nothing: "
        "a batch holds a video once, and %s has %d captions, half of the videos at most %d; "
        "training.captions_per_video takes fewer of them",
        *(thin, steps, full, single, most, counts[-1], counts[(len(counts) - 1) // 2]),
    )
