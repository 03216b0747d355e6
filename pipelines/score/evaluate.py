"""Adapter or zero-shot model -> embeddings (Ray Data) -> metrics and ranked results."""

from __future__ import annotations

import csv
import logging
import warnings
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
import torch
from numpy.typing import NDArray

from pipelines.cluster.connect import ResourceError, connected, labelled, needs_of, uses_gpu, workers_that_fit
from pipelines.cluster.growth import awaited
from pipelines.data.prepare import prepare
from pipelines.data.store import read_manifest
from pipelines.score.adapters import check_scoring, find_scored
from pipelines.score.embed import VIDEOS, embed, embed_texts, embed_videos, owners, scores
from vop.annotations.cells import written
from vop.benchmarks import Record
from vop.config import ConfigError, ResourcesConfig
from vop.messages import Progress
from vop.model.adapter import Adapter, model_of
from vop.model.architecture import image_size
from vop.model.head import Head, is_dot
from vop.scores.rescoring import compare

logger = logging.getLogger(__name__)
TOP = 10
BLOCK = 4 * VIDEOS  # records that an actor takes at a time: it reads the next VIDEOS of them while it embeds
BANK = 2000  # training captions for QB-Norm


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a split, and a row a query: caption, its video, its rank, the best videos."""

    metrics: dict[str, float]
    queries: list[dict[str, Any]]


class Embedder:
    """A Ray Data actor that holds the tuned model."""

    def __init__(self, adapter: Adapter, cpus: float):
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # as in train_loop
        torch.set_num_threads(max(1, int(cpus)))
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model, self.precision = model_of(adapter).to(self.device), adapter.experiment.training.precision
        self.readers = adapter.experiment.data.readers

    def __call__(self, rows: pa.Table, store: str) -> pa.Table:
        """Records -> a row for each video and each text of each kind: its place among those of its kind, its bytes."""
        video = embed_videos(self.model, store, rows["video_id"].to_pylist(), self.precision, self.readers)
        found = [("video", rows["place"].to_pylist(), video)]
        for kind in ("caption", "bank"):
            texts = [text for own in rows[kind].to_pylist() for text in own]
            firsts = zip(rows[f"first_{kind}"].to_pylist(), rows[kind].to_pylist(), strict=True)
            places = [first + k for first, own in firsts for k in range(len(own))]
            found += [(kind, places, embed_texts(self.model, texts, self.precision))] if texts else []
        return pa.table(
            {
                "kind": [kind for kind, places, _ in found for _ in places],
                "place": [place for _, places, _ in found for place in places],
                "row": [row.tobytes() for _, _, embedded in found for row in embedded.numpy()],
            }
        )


def embeddings(
    adapter: Adapter, store: str, records: Sequence[Record], bank: Sequence[str] = ()
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32] | None]:
    """Rows of every caption [M, S], record by record, of every video [N, R], of the bank's texts [B, S].

    Each is computed once, by actors that hold a model each; the bank is shared out over the records.
    """
    firsts = np.cumsum([0, *(len(record.captions) for record in records)])
    bounds = np.linspace(0, len(bank), len(records) + 1).astype(int)
    rows = [
        {
            **{"place": i, "video_id": record.video_id},
            **{"caption": list(record.captions), "first_caption": int(firsts[i])},
            **{"bank": list(bank[bounds[i] : bounds[i + 1]]), "first_bank": int(bounds[i])},
        }
        for i, record in enumerate(records)
    ]
    resources = adapter.experiment.resources
    workers, needs = _room(resources)
    blocks = min(len(rows), max(workers, -(-len(rows) // BLOCK)))
    results = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
        Embedder,
        batch_size=None,
        batch_format="pyarrow",
        fn_constructor_args=(adapter, resources.cpus_per_worker),
        fn_kwargs={"store": store},
        compute=ray.data.ActorPoolStrategy(size=min(workers, blocks)),
        num_cpus=resources.cpus_per_worker,
        num_gpus=needs.get("GPU", 0),
        **labelled("train"),
    )
    found: dict[str, dict[int, bytes]] = {"caption": {}, "video": {}, "bank": {}}
    number = len(rows) + int(firsts[-1]) + len(bank)
    embedded = closing(iter(results.iter_rows()))  # as in `decode`
    with Progress(logger, "embedding", number, "videos and captions") as progress, embedded as items:
        for row in items:
            found[row["kind"]][row["place"]] = row["row"]
            progress.add()
    return _stacked(found["caption"]), _stacked(found["video"]), _stacked(found["bank"]) if bank else None


def _stacked(found: dict[int, bytes]) -> NDArray[np.float32]:
    """Rows by their places as one array; shorter ones get zeros at their end."""
    rows = np.zeros((len(found), max(map(len, found.values())) // 4), np.float32)
    for place, row in found.items():
        rows[place, : len(row) // 4] = np.frombuffer(row, np.float32)
    return rows


def _room(resources: ResourcesConfig) -> tuple[int, dict[str, float]]:
    """How many workers embed, and what each takes. ResourceError where the cluster has, and will have, no room for one."""
    needs = needs_of(resources.model_copy(update={"num_workers": 1}))
    if lacks := awaited("the evaluation needs {} for a worker", [needs]):
        raise ResourceError(f"{lacks}: set resources.cpus_per_worker or resources.use_gpu")
    return min(resources.most, workers_that_fit(needs)), needs


def evaluate(adapter: Adapter, store: str, split: str = "test", in_process: bool = False) -> Evaluation:
    """Score a split of a store: every query against every video of the split. `in_process`: without new processes.

    Raises ConfigError for a split without videos that can be read.
    """
    records = read_manifest(store, split)
    if not records:
        raise ConfigError(f"{store}: benchmark {adapter.experiment.benchmark.name} has no readable {split} videos to score")
    bank = querybank(read_manifest(store, "train")) if split != "train" else []
    head: Head | None = None  # dot products
    if in_process:
        model = model_of(adapter).to("cuda" if torch.cuda.is_available() and uses_gpu(adapter.experiment.resources) else "cpu")
        precision = adapter.experiment.training.precision
        text_MS, video_NR = (part.numpy() for part in embed(model, store, records, precision, adapter.experiment.data.readers))
        bank_BS = embed_texts(model, bank, precision).numpy() if bank else None
        head = model.head
    else:
        with connected():
            text_MS, video_NR, bank_BS = embeddings(adapter, store, records, bank)
        if not is_dot(adapter.experiment.head):
            head = model_of(adapter).head
    owner = owners(records)
    found = compare(text_MS, video_NR, owner, bank_BS, head, top=TOP)
    captions, rank = [caption for record in records for caption in record.captions], found.t2v.rank
    queries = [
        {
            "query": caption,
            "video_id": records[owner[m]].video_id,
            "group": records[owner[m]].group,
            "rank": float(rank[m]),
            "top": "\t".join(records[i].video_id for i in found.best_MK[m]),
            "scores": " ".join(f"{score:.4f}" for score in found.best_scores_MK[m]),
        }
        for m, caption in enumerate(captions)
    ]
    metrics = scores(records, torch.from_numpy(text_MS), torch.from_numpy(video_NR), head, (found.t2v, found.v2t))
    return Evaluation(metrics | found.rescored_metrics(), queries)


def querybank(records: Sequence[Record]) -> list[str]:
    """At most BANK captions of the training split, evenly spread over it, for QB-Norm."""
    captions = [caption for record in records for caption in record.captions]
    return [captions[i] for i in np.linspace(0, len(captions) - 1, min(BANK, len(captions))).astype(int)]


def evaluate_adapter(where: str | Path, overrides: Sequence[str] = (), split: str = "test", recipe: str = "") -> Evaluation:
    """Score a saved adapter: on what its run was scored on, or on a recipe's, and with overrides.

    Raises as `find_scored` and `check_scoring` do.
    """
    adapter = find_scored(where, overrides, recipe)
    tasks = check_scoring(adapter, [split])
    with connected():
        prepared = prepare(adapter.experiment, image_size(adapter.experiment.backbone), tasks)
        return evaluate(adapter, prepared.folder, split)


def write_queries(path: Path, queries: Sequence[dict[str, Any]]) -> Path:
    """Write the ranked results as CSV, without formulas (`vop/annotations/cells.py`)."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(queries[0]))
        writer.writeheader()
        writer.writerows({name: written(value) for name, value in query.items()} for query in queries)
    return path
