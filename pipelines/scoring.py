"""Embeddings of videos and texts in one process, and what a split's embeddings score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipelines.data import stream_videos
from vop.benchmarks import Record
from vop.metrics import pair_accuracy, retrieval_metrics
from vop.model import RetrievalModel

VIDEOS, TEXTS = 32, 256  # embedded at once


def embed(model: RetrievalModel, store: str, records: Sequence[Record]) -> tuple[Tensor, Tensor]:
    """Unit embeddings of all captions [M, E] (record by record) and of all videos [N, E], on the CPU."""
    texts = [caption for record in records for caption in record.captions]
    return embed_texts(model, texts), embed_videos(model, store, records)


@torch.no_grad()
def embed_videos(model: RetrievalModel, store: str, records: Sequence[Record]) -> Tensor:
    """Unit embeddings [N, E] of a store's videos, on the CPU."""
    device = model.clip.logit_scale.device
    batches = stream_videos(store, [record.video_id for record in records], VIDEOS)
    parts = [model.encode_video(torch.from_numpy(p).to(device), torch.from_numpy(m).to(device)).cpu() for p, m in batches]
    return torch.cat(parts)


@torch.no_grad()
def embed_texts(model: RetrievalModel, texts: Sequence[str]) -> Tensor:
    """Unit embeddings [M, E] of texts, on the CPU."""
    device = model.clip.logit_scale.device
    parts = [list(texts[start : start + TEXTS]) for start in range(0, len(texts), TEXTS)]
    return torch.cat([model.encode_text(model.tokenize(part).to(device)).cpu() for part in parts])


def scores(records: Sequence[Record], text_ME: Tensor, video_NE: Tensor) -> dict[str, float]:
    """All metrics of a split, its groups and its time pairs; keys such as `t2v/R1`, `ordinary/t2v/R1`, `pair_accuracy`."""
    owner = [i for i, record in enumerate(records) for _ in record.captions]
    groups = np.asarray([records[i].group for i in owner])
    metrics = retrieval_metrics(text_ME, video_NE, owner, groups if any(groups) else None)
    place = {r.video_id: i for i, r in enumerate(records)}
    opposite = np.asarray([place.get(records[i].opposite, -1) for i in owner])
    if (opposite >= 0).any():
        metrics["pair_accuracy"] = pair_accuracy(text_ME, video_NE, owner, opposite)
    return metrics
