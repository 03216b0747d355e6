"""A tuned model on videos of your own: which of a folder's videos fits a text best.

Frames go into the frame store of the benchmark `gallery`, embeddings into a file beside them: a second search decodes and
embeds only what is new or has changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from pipelines.evaluate import find_adapter
from pipelines.files import listed, located, write_whole
from pipelines.prepare import Prepared, prepare
from pipelines.scoring import embed_texts, embed_videos
from pipelines.store import content_keys, read_manifest
from vop.adapter import Adapter, model_of
from vop.backbone import image_size
from vop.benchmarks import Record, is_remote
from vop.config import ConfigError
from vop.metrics import top_k
from vop.model import RetrievalModel

SAVED = 256  # videos embedded between two saves of the index


@dataclass(frozen=True)
class Hit:
    """A video that was found: its path below the folder, and its cosine similarity to the text."""

    video: str
    score: float


@dataclass(frozen=True)
class Found:
    """The best videos for each text, best first; how many videos were searched, and what could not be read."""

    hits: dict[str, list[Hit]]
    videos: int
    prepared: Prepared


def search(where: str | Path, videos: str, texts: Sequence[str], top: int = 5, overrides: Sequence[str] = ()) -> Found:
    """The `top` videos below `videos` for each text, by an adapter (`where` and `overrides` as in `find_adapter`).

    Raises as `find_adapter` does, BenchmarkError for a folder without videos, ConfigError for an empty text or where nothing
    can be read.
    """
    if not texts or not all(text.strip() for text in texts):
        raise ConfigError("give one or more texts to search for, such as 'a dog jumps over a fence'")
    videos = videos if is_remote(videos) else str(Path(videos).expanduser().resolve())
    gallery = ["benchmark.name=gallery", f"benchmark.videos={json.dumps(videos)}", "data.max_failed_fraction=1"]
    adapter = find_adapter(where, [*overrides, *gallery])
    prepared = prepare(adapter.experiment, image_size(adapter.experiment.backbone))
    records = read_manifest(prepared.folder)
    if not records:
        raise ConfigError(f"none of the {prepared.videos} videos below {videos} can be read: see {prepared.report}")
    use_gpu = torch.cuda.is_available() and adapter.experiment.resources.use_gpu is not False
    model = model_of(adapter).to("cuda" if use_gpu else "cpu")
    video_NE = index(model, adapter, prepared.folder, records)
    scores_MK, best_MK = top_k(embed_texts(model, texts).numpy(), video_NE, top)
    hits = {
        text: [Hit(records[video].video_id, float(score)) for video, score in zip(best, scores, strict=True)]
        for text, best, scores in zip(texts, best_MK, scores_MK, strict=True)
    }
    return Found(hits, len(records), prepared)


def index(model: RetrievalModel, adapter: Adapter, store: str, records: Sequence[Record]) -> NDArray[np.float32]:
    """Unit embeddings [N, E] of a store's videos; those that the store's index holds are not computed again."""
    name = f"index-{model_hash(adapter)}.parquet"
    keys, known = content_keys(store), dict(_read(store, name))
    new = [record for record in records if keys[record.video_id] not in known]
    for start in range(0, len(new), SAVED):
        part = new[start : start + SAVED]
        video_NE = embed_videos(model, store, part).numpy()
        known |= {keys[record.video_id]: row for record, row in zip(part, video_NE, strict=True)}
        rows = pa.table({"key": list(known), "embedding": list(known.values())})
        write_whole(store, name, [rows], rows.schema)
    return np.stack([known[keys[record.video_id]] for record in records])


def _read(store: str, name: str) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Content keys and embeddings of an index; nothing where there is none yet."""
    if name in {info.base_name for info in listed(store)}:
        filesystem, inside = located(f"{store}/{name}")
        table = pq.read_table(inside, filesystem=filesystem)
        vectors = table["embedding"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
        yield from zip(table["key"].to_pylist(), vectors, strict=True)


def model_hash(adapter: Adapter) -> str:
    """Changes with all that an embedding depends on beside the video: backbone, tensors and how they are used."""
    parts = ("frames", "text_prompt", "video_prompt", "video_encoder", "tuning")
    flat = {key: str(value) for key, value in adapter.experiment.flat().items() if key.startswith(parts)}
    digest = hashlib.sha256(json.dumps([adapter.backbone_weights, flat], sort_keys=True).encode())
    for name, tensor in sorted(adapter.tensors.items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
