"""What the frozen layers below the first prompt make of a video: computed once, kept on disk, reused.

Where prompts start above the first layer and a video's frames are always the same, so are the tokens that enter the first
layer that training touches. They are kept in memory-mapped files below `data.cache`, a folder for each set of frames, backbone,
layer and precision: later epochs read them instead of pixels, and so does every run and every trial that shares the four.
`data.activations_gb` holds for all such folders together (`cache.py`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from pipelines.data.cache import Kept, kept, mapped
from pipelines.data.store import content_keys, opened, read_videos
from vop.benchmarks import Record
from vop.config import Experiment
from vop.fingerprint import fingerprint
from vop.model.precision import computing
from vop.model.retrieval import RetrievalModel
from vop.model.walkers import visual_of
from vop.places import PlaceError, absolute, amount, is_remote

logger = logging.getLogger(__name__)
BATCH = 8  # videos
FORMAT = 2
ODD = 0x9E3779B97F4A7C15  # so that rows in each other's place are told too


class Activations:
    """Tokens [N, F, L, D], fp32, of N videos, each a row of one memory-mapped file.

    Several processes may fill it at once: what they write is the same, and a row has its checksum after it was written. A row
    without, or whose checksum is another one (a damaged or cut file, a machine that stopped), is computed again.
    """

    def __init__(self, folder: Kept, store: str, video_ids: Sequence[str], shape: tuple[int, int, int], precision: str):
        self.folder, self.store, self.precision = folder, store, precision
        self.video_ids, self.rows = list(video_ids), {video_id: row for row, video_id in enumerate(video_ids)}
        videos, frames = len(video_ids), shape[0]
        self.tokens_NFLD = mapped(folder.path / "tokens", np.float32, (videos, *shape))
        self.mask_NF = mapped(folder.path / "mask", np.bool_, (videos, frames))
        self.sums_N = mapped(folder.path / "sums", np.uint64, (videos,))

    def read(self, video_ids: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Tokens [B, F, L, D] and masks [B, F] of videos, after `fill`."""
        rows = [self.rows[video_id] for video_id in video_ids]
        assert self.sums_N[rows].all()
        return self.tokens_NFLD[rows], self.mask_NF[rows]

    def fill(self, model: RetrievalModel, rank: int = 0, workers: int = 1) -> None:
        """Compute what is not there yet or damaged, each worker its share; afterwards `read` has all of it."""
        missing = self._wrong(np.arange(len(self.video_ids)))
        if workers > 1:
            dist.barrier()  # before anybody writes: all have the same share
        if len(missing) and rank == 0:
            size = amount(self.tokens_NFLD.nbytes)
            logger.info("layers below the first prompt: once for %d videos, then reused (%s)", len(missing), size)
        self._compute(model, missing[rank::workers])
        if workers > 1:
            dist.barrier()
            self._compute(model, self._wrong(missing))  # of workers on machines with a disk of their own

    def _wrong(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those rows whose content is not the one that was written."""
        return np.asarray([row for row in rows if int(self.sums_N[row]) != self._sum(int(row))], np.int64)

    def _sum(self, row: int) -> int:
        """Of all 64-bit words of a row, its mask and its number; never 0. It tells damage ten times faster than a CRC."""
        words = int(self.tokens_NFLD[row].reshape(-1).view(np.uint64).sum()) + int(self.mask_NF[row].view(np.uint8).sum())
        return (words + ODD * (row + 1)) % 2**64 or 1

    @torch.no_grad()
    def _compute(self, model: RetrievalModel, rows: NDArray[np.int64]) -> None:
        device = model.clip.logit_scale.device
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            pixels, mask = read_videos(self.store, [self.video_ids[row] for row in part])
            with computing(device, self.precision):
                tokens_BFLD = model.activations(torch.from_numpy(pixels).to(device))
            self.tokens_NFLD[part], self.mask_NF[part] = tokens_BFLD.float().cpu().numpy(), mask
            self.sums_N[part] = [self._sum(int(row)) for row in part]


def activations_of(model: RetrievalModel, experiment: Experiment, store: str, records: Sequence[Record]) -> Activations | None:
    """The reusable activations of a training's videos; None where there are none, or no room within `data.activations_gb`."""
    if not (shape := reusable(model, experiment)):
        return None
    keys, precision = content_keys(store), experiment.training.precision
    ids = [record.video_id for record in records]
    frames = [opened(store).options.identity, [keys[video_id] for video_id in ids]]
    name = fingerprint([FORMAT, frames, model.backbone.identity, model.frozen_layers, precision])
    needed = len(records) * bytes_of(shape)
    found = folder = None
    try:
        limit = experiment.data.activations_gb * 1e9
        folder = kept(root_of(experiment), name, needed, limit, "data.activations_gb")
        found = Activations(folder, store, ids, shape, precision)
    except PlaceError as error:  # without them training takes longer, and is the same
        if folder is not None:
            folder.discard()
        logger.warning("layers below the first prompt: computed anew in each epoch: %s", error)
    return found if _all_have_room(found is not None) else None


def reusable(model: RetrievalModel, experiment: Experiment) -> tuple[int, int, int] | None:
    """Frames, tokens and width of what of a video can be reused; None where nothing can. The model may be a shape alone."""
    fixed = experiment.frames.sampling != "random" and experiment.data.store
    if not fixed or not model.frozen_layers or not experiment.data.activations_gb:
        return None
    visual = visual_of(model.clip)
    only_class = visual.reads_class_token and model.frozen_layers == len(visual.blocks)
    return model.frames, 1 if only_class else visual.tokens, visual.width


def bytes_of(shape: tuple[int, int, int] | None) -> int:
    """What the reused activations of one video take on disk."""
    return 4 * math.prod(shape) if shape else 0


def root_of(experiment: Experiment) -> Path:
    """The folder of this machine that all of them are in."""
    cache = experiment.data.cache
    return Path(absolute("~/.cache/vop" if is_remote(cache) else cache)) / "activations"


def _all_have_room(mine: bool) -> bool:
    """Whether all workers of a training can reuse activations: some that do and some that do not would wait for each other."""
    if not (dist.is_available() and dist.is_initialized()):
        return mine
    answers: list[bool | None] = [None] * dist.get_world_size()
    dist.all_gather_object(answers, mine)
    return all(answers)
