"""A tuned model on videos of your own: which of a folder's videos fits a text best.

Frames go into the frame store of the benchmark `gallery`, embeddings into a file beside them: a second search decodes and
embeds only what is new or has changed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from pipelines.data.prepare import Prepared, prepare
from pipelines.data.shards import short
from pipelines.data.store import content_keys, read_manifest
from pipelines.score.adapters import check_scoring, find_adapter
from pipelines.score.embed import embed_texts, embed_videos
from pipelines.search.check import check_search
from vop.benchmarks import Record
from vop.claim import claimed
from vop.config import ConfigError
from vop.model.adapter import Adapter, model_of
from vop.model.architecture import image_size
from vop.model.retrieval import RetrievalModel
from vop.places import PlaceError, absolute, join, located
from vop.scores.ranks import top_k
from vop.whole import write_whole

logger = logging.getLogger(__name__)
SAVED = 256  # videos embedded between two saves of the index


@dataclass(frozen=True)
class Hit:
    """A video that was found: its path below the folder, and its score with the text: cosine similarity, or the head's."""

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
    check_search(where, videos, texts)
    videos = absolute(videos)
    gallery = ["benchmark.name=gallery", f"benchmark.videos={json.dumps(videos)}", "data.max_failed_fraction=1"]
    adapter = find_adapter(where, [*overrides, *gallery])
    prepared = prepare(adapter.experiment, image_size(adapter.experiment.backbone), check_scoring(adapter))
    records = read_manifest(prepared.folder)
    if not records:
        raise ConfigError(f"none of the {prepared.videos} videos below {videos} can be read: see {prepared.report}")
    use_gpu = torch.cuda.is_available() and adapter.experiment.resources.use_gpu is not False
    model = model_of(adapter).to("cuda" if use_gpu else "cpu")
    video_NR = index(model, adapter, prepared.folder, records)
    scores_MK, best_MK = top_k(embed_texts(model, texts).numpy(), video_NR, top, model.head)
    hits = {
        text: [Hit(records[video].video_id, float(score)) for video, score in zip(best, scores, strict=True)]
        for text, best, scores in zip(texts, best_MK, scores_MK, strict=True)
    }
    return Found(hits, len(records), prepared)


def index(model: RetrievalModel, adapter: Adapter, store: str, records: Sequence[Record]) -> NDArray[np.float32]:
    """The head's rows [N, R] of a store's videos; those that the store's index holds are not computed again.

    Where the index cannot be written (another user's store, a full disk) they are computed all the same, with a warning.
    """
    name = f"index-{adapter.fingerprint}.parquet"
    keys = content_keys(store)
    known = _read(store, name, model.head.dot)
    if any(keys[record.video_id] not in known for record in records):
        try:
            with claimed(store):
                known = _read(store, name, model.head.dot, told=True)  # who had the store before may have done all of it
                _embed(model, store, records, keys, known, name)
        except PlaceError as error:
            logger.warning("the index is not kept, and made anew by the next search: %s", error)
            _embed(model, store, records, keys, known)
    return np.stack([known[keys[record.video_id]] for record in records])


def _embed(
    model: RetrievalModel,
    store: str,
    records: Sequence[Record],
    keys: Mapping[str, str],
    known: dict[str, NDArray[np.float32]],
    name: str = "",
) -> None:
    """Add to `known` what it lacks, and save it under a name, if there is one, as it grows."""
    new = [record for record in records if keys[record.video_id] not in known]
    for start in range(0, len(new), SAVED):
        part = new[start : start + SAVED]
        video_NR = embed_videos(model, store, part).numpy()
        known |= {keys[record.video_id]: row for record, row in zip(part, video_NR, strict=True)}
        if name:
            rows = pa.table({"key": list(known), "embedding": list(known.values())})
            write_whole(store, name, [rows], rows.schema)


def _read(store: str, name: str, unit: bool, told: bool = False) -> dict[str, NDArray[np.float32]]:
    """Content keys and rows of an index; nothing where there is none or it is damaged, which is said unless it was.

    unit: whether each row must have the length 1.
    """
    filesystem, inside = located(join(store, name))
    try:
        with filesystem.open_input_file(inside) as file:
            table = pq.ParquetFile(file, page_checksum_verification=True).read()
        vectors = table["embedding"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
        whole = np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-2) if unit else np.isfinite(vectors).all()
        if vectors.dtype != np.float32 or not whole:
            raise ValueError("it holds other things than embeddings")
        return dict(zip(table["key"].cast(pa.string()).to_pylist(), vectors, strict=True))
    except FileNotFoundError:
        return {}
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        logger.log(logging.DEBUG if told else logging.WARNING, "%s is damaged (%s): made anew", join(store, name), short(error))
        return {}
