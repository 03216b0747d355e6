"""What the frozen layers below the first prompt make of a video: computed once, kept on disk, reused.

Where prompts start above the first layer and a video's frames are always the same, so are the tokens that enter the first
layer that training touches. They are kept in memory-mapped files below `data.cache`, a folder for each set of videos, weights,
layer and precision: later epochs read them instead of pixels, and so does every run and every trial that shares the four.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from pipelines.store import content_keys, read_videos
from vop.benchmarks import Record
from vop.config import Experiment
from vop.model import RetrievalModel

BATCH = 8  # videos


class Activations:
    """Tokens [N, F, L, D], fp32, of N videos, each a row of one memory-mapped file.

    Several processes may fill it at once: what they write is the same, and a row is marked as there after it was written.
    """

    def __init__(self, folder: Path, store: str, video_ids: Sequence[str], shape: tuple[int, int, int], precision: str):
        self.store, self.precision = store, precision
        self.video_ids, self.rows = list(video_ids), {video_id: row for row, video_id in enumerate(video_ids)}
        folder.mkdir(parents=True, exist_ok=True)
        videos, frames = len(video_ids), shape[0]
        self.tokens_NFLD = _mapped(folder / "tokens", np.float32, (videos, *shape))
        self.mask_NF = _mapped(folder / "mask", np.bool_, (videos, frames))
        self.there_N = _mapped(folder / "there", np.bool_, (videos,))

    def read(self, video_ids: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Tokens [B, F, L, D] and masks [B, F] of videos that `fill` has computed."""
        rows = [self.rows[video_id] for video_id in video_ids]
        assert self.there_N[rows].all()
        return self.tokens_NFLD[rows], self.mask_NF[rows]

    def fill(self, model: RetrievalModel, rank: int = 0, workers: int = 1) -> None:
        """Compute what is not there yet, each worker its share; afterwards `read` has all of it."""
        missing = np.flatnonzero(~self.there_N)
        if len(missing) and rank == 0:
            size = self.tokens_NFLD.nbytes / 1e9
            print(f"layers below the first prompt: once for {len(missing)} videos, then reused ({size:.1f} GB)", flush=True)
        self._compute(model, missing[rank::workers])
        if workers > 1:
            dist.barrier()
            self._compute(model, np.flatnonzero(~self.there_N))  # of workers on machines with a disk of their own

    @torch.no_grad()
    def _compute(self, model: RetrievalModel, rows: NDArray[np.int64]) -> None:
        device = model.clip.logit_scale.device
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            pixels, mask = read_videos(self.store, [self.video_ids[row] for row in part])
            with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                tokens_BFLD = model.activations(torch.from_numpy(pixels).to(device))
            self.tokens_NFLD[part], self.mask_NF[part] = tokens_BFLD.float().cpu().numpy(), mask
            self.there_N[part] = True


def activations_of(model: RetrievalModel, experiment: Experiment, store: str, records: Sequence[Record]) -> Activations | None:
    """The reusable activations of a training's videos; None where there are none, or more than `data.activations_gb`."""
    fixed = experiment.frames.sampling != "random" and experiment.data.store
    if not fixed or not model.frozen_layers or not experiment.data.activations_gb:
        return None
    visual = model.clip.visual
    depth, width = len(visual.transformer.resblocks), visual.conv1.out_channels
    tokens = 1 if model.frozen_layers == depth else len(visual.positional_embedding)
    needed = 4 * len(records) * model.frames * tokens * width / 1e9
    if needed > experiment.data.activations_gb:
        print(
            f"layers below the first prompt: computed anew in each epoch; to reuse them takes {needed:.1f} GB of disk, "
            f"data.activations_gb allows {experiment.data.activations_gb:g}",
            flush=True,
        )
        return None
    keys = content_keys(store)
    ids = [record.video_id for record in records]
    what = [model.backbone.weights, model.frozen_layers, experiment.training.precision, store, *(keys[i] for i in ids)]
    cache = experiment.data.cache if "://" not in experiment.data.cache else "~/.cache/vop"
    folder = Path(cache).expanduser() / "activations" / hashlib.sha256(repr(what).encode()).hexdigest()[:16]
    return Activations(folder, store, ids, (model.frames, tokens, width), experiment.training.precision)


def _mapped(path: Path, kind: type, shape: tuple[int, ...]) -> NDArray[Any]:
    """An array in a file, zeros where nothing was written; who comes first makes the file."""
    with path.open("ab") as file:
        os.ftruncate(file.fileno(), int(np.prod(shape)) * np.dtype(kind).itemsize)
    return np.memmap(path, kind, "r+", shape=shape)
