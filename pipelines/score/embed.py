"""Embeddings of videos and texts in one process, and what a split's embeddings score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipelines.data.reader import READERS, stream_videos
from vop.benchmarks import Record
from vop.model.head import Head, joined
from vop.model.precision import computing
from vop.model.retrieval import RetrievalModel
from vop.scores.ranks import Ranks, grouped_metrics, pair_accuracy, retrieval_ranks

VIDEOS, TEXTS = 32, 256  # embedded at once


def embed(
    model: RetrievalModel, store: str, records: Sequence[Record], precision: str = "fp32", readers: int = READERS
) -> tuple[Tensor, Tensor]:
    """Rows of all captions [M, S] (record by record) and of all videos [N, R], on the CPU: see `vop/model/head.py`."""
    texts = [caption for record in records for caption in record.captions]
    return embed_texts(model, texts, precision), embed_videos(model, store, records, precision, readers)


@torch.no_grad()
def embed_videos(
    model: RetrievalModel, store: str, videos: Sequence[Record | str], precision: str = "fp32", readers: int = READERS
) -> Tensor:
    """Rows [N, R] of a store's videos (records or ids), on the CPU; the next are read while the model computes."""
    device = model.clip.logit_scale.device
    with computing(device, precision):
        batches = stream_videos(store, [v if isinstance(v, str) else v.video_id for v in videos], VIDEOS, readers=readers)
        return torch.cat([model.encode_video(*(torch.from_numpy(x).to(device) for x in batch)).cpu() for batch in batches])


@torch.no_grad()
def embed_texts(model: RetrievalModel, texts: Sequence[str], precision: str = "fp32") -> Tensor:
    """Rows [M, S] of texts, on the CPU."""
    device = model.clip.logit_scale.device
    parts = [list(texts[start : start + TEXTS]) for start in range(0, len(texts), TEXTS)]
    with computing(device, precision):
        return joined([model.encode_text(model.tokenize(part)).cpu() for part in parts])


def scores(
    records: Sequence[Record], text_MS: Tensor, video_NR: Tensor, head: Head | None, ranks: tuple[Ranks, Ranks] | None = None
) -> dict[str, float]:
    """All metrics of a split, its groups and its time pairs; keys such as `t2v/R1`, `ordinary/t2v/R1`, `pair_accuracy`.

    head: what scores the rows, None where dot products do; ranks: t2v and v2t, where they are known already.
    """
    owner = owners(records)
    groups = np.asarray([records[i].group for i in owner])
    t2v, v2t = ranks or retrieval_ranks(text_MS, video_NR, owner, head)
    metrics = grouped_metrics(t2v, v2t, owner, groups if any(groups) else None)
    place = {r.video_id: i for i, r in enumerate(records)}
    opposite = np.asarray([place.get(records[i].opposite, -1) for i in owner])
    if (opposite >= 0).any():
        metrics["pair_accuracy"] = pair_accuracy(text_MS, video_NR, owner, opposite, head=head)
    return metrics


def owners(records: Sequence[Record]) -> list[int]:
    """Of each caption, record by record, the place of its video."""
    return [i for i, record in enumerate(records) for _ in record.captions]
