"""Adapter or zero-shot model -> embeddings (Ray Data) -> metrics and ranked results."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
import torch
from numpy.typing import NDArray

from pipelines.cluster import ResourceError, cluster_has, connected, uses_gpu
from pipelines.prepare import prepare
from pipelines.scoring import VIDEOS, embed, embed_texts, scores
from pipelines.store import read_manifest, read_videos
from pipelines.tracking import REGISTERED, download
from vop.adapter import Adapter, load_adapter, model_of
from vop.backbone import image_size
from vop.benchmarks import Record
from vop.config import ResourcesConfig, load_experiment
from vop.metrics import retrieval_ranks, top_k
from vop.model import RetrievalModel
from vop.rescoring import rescored_metrics

TOP = 10
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
        self.model = model_of(adapter).to(self.device)

    @torch.no_grad()
    def __call__(self, rows: pa.Table, store: str) -> dict[str, NDArray[Any]]:
        """Records -> a row for each video and each caption: its place in the gallery or among the queries, [E]."""
        pixels, mask = read_videos(store, rows["video_id"].to_pylist())
        captions = [caption for texts in rows["captions"].to_pylist() for caption in texts]
        video = self.model.encode_video(torch.from_numpy(pixels).to(self.device), torch.from_numpy(mask).to(self.device))
        text = self.model.encode_text(self.model.tokenize(captions).to(self.device))
        counts = [len(texts) for texts in rows["captions"].to_pylist()]
        firsts = rows["first_caption"].to_pylist()
        queries = [first + k for first, count in zip(firsts, counts, strict=True) for k in range(count)]
        return {
            "is_video": np.arange(len(video) + len(text)) < len(video),
            "place": np.asarray(rows["place"].to_pylist() + queries),
            "embedding": torch.cat([video, text]).cpu().numpy(),
        }


def embeddings(adapter: Adapter, store: str, records: Sequence[Record]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit embeddings of every caption [M, E], record by record, and of every video [N, E], each computed once."""
    firsts = np.cumsum([0, *(len(record.captions) for record in records)])
    rows = [
        {"place": i, "video_id": r.video_id, "captions": list(r.captions), "first_caption": int(firsts[i])}
        for i, r in enumerate(records)
    ]
    resources, blocks = adapter.experiment.resources, -(-len(rows) // VIDEOS)
    workers, use_gpu = _room(resources)
    results = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
        Embedder,
        batch_size=None,
        batch_format="pyarrow",
        fn_constructor_args=(adapter, resources.cpus_per_worker),
        fn_kwargs={"store": store},
        compute=ray.data.ActorPoolStrategy(size=min(workers, blocks)),
        num_cpus=resources.cpus_per_worker,
        num_gpus=1 if use_gpu else 0,
    )
    found = {(bool(row["is_video"]), int(row["place"])): row["embedding"] for row in results.iter_rows()}
    text_ME = np.stack([found[False, m] for m in range(firsts[-1])])
    return text_ME, np.stack([found[True, n] for n in range(len(records))])


def _room(resources: ResourcesConfig) -> tuple[int, bool]:
    """How many workers embed, and whether on GPUs: as in training, or fewer where the cluster is smaller."""
    use_gpu = cluster_has("GPU") >= 1 if resources.use_gpu is None else resources.use_gpu
    needs = {"CPU": resources.cpus_per_worker, **({"GPU": 1.0} if use_gpu else {})}
    for name, amount in needs.items():
        if cluster_has(name) < amount:
            raise ResourceError(
                f"the evaluation needs {amount:g} {name} for a worker, the cluster has {cluster_has(name):g}: "
                "set resources.cpus_per_worker or resources.use_gpu"
            )
    return min(resources.num_workers, *(int(cluster_has(name) / amount) for name, amount in needs.items())), use_gpu


def evaluate(adapter: Adapter, store: str, split: str = "test", here: bool = False) -> Evaluation:
    """Score a split of a store: every query against every video of the split. `here`: in this process, not in new ones."""
    records = read_manifest(store, split)
    if here:
        model = model_of(adapter).to("cuda" if torch.cuda.is_available() and uses_gpu(adapter.experiment.resources) else "cpu")
        text_ME, video_NE = (part.numpy() for part in embed(model, store, records))
    else:
        with connected():
            text_ME, video_NE = embeddings(adapter, store, records)
    owner = [i for i, record in enumerate(records) for _ in record.captions]
    t2v, _ = retrieval_ranks(text_ME, video_NE, owner)
    best_scores, best = top_k(text_ME, video_NE, TOP)
    captions = [caption for record in records for caption in record.captions]
    queries = [
        {
            "query": caption,
            "video_id": records[owner[m]].video_id,
            "group": records[owner[m]].group,
            "rank": float(t2v.rank[m]),
            "top": "\t".join(records[i].video_id for i in best[m]),
            "scores": " ".join(f"{score:.4f}" for score in best_scores[m]),
        }
        for m, caption in enumerate(captions)
    ]
    metrics = scores(records, torch.from_numpy(text_ME), torch.from_numpy(video_NE))
    bank_BE = None if split == "train" else querybank(model_of(adapter), read_manifest(store, "train"))
    metrics |= rescored_metrics(text_ME, video_NE, owner, bank_BE)
    return Evaluation(metrics, queries)


def querybank(model: RetrievalModel, records: Sequence[Record]) -> torch.Tensor:
    """Unit embeddings [B, E] of at most BANK captions of the training split, evenly spread over it, for QB-Norm."""
    captions = [caption for record in records for caption in record.captions]
    chosen = [captions[i] for i in np.linspace(0, len(captions) - 1, min(BANK, len(captions))).astype(int)]
    return embed_texts(model, chosen) if chosen else torch.zeros(0, 1)


def evaluate_adapter(where: str | Path, overrides: Sequence[str] = (), split: str = "test") -> Evaluation:
    """Score a saved adapter: as it was, or with overrides. Raises as `find_adapter` does."""
    adapter = find_adapter(where, overrides)
    with connected():
        prepared = prepare(adapter.experiment, image_size(adapter.experiment.backbone))
        return evaluate(adapter, prepared.folder, split)


def find_adapter(where: str | Path, overrides: Sequence[str] = ()) -> Adapter:
    """An adapter, for other videos, other resources, or weights and caches that lie elsewhere.

    where: its folder, or what MLflow has (see `download`; `tracking....` of the overrides says which MLflow). Another
    `benchmark.name` begins with the defaults of that benchmark. Raises AdapterError or ConfigError for what is no adapter, and
    ConfigError for overrides that are not valid; whether tensors and backbone fit is said by `model_of`.
    """
    folder = Path(where).expanduser()
    if str(where).startswith(REGISTERED) or not (folder.exists() or "/" in str(where)):
        tracking = load_experiment("", [override for override in overrides if override.startswith("tracking.")]).tracking
        with TemporaryDirectory() as scratch:
            adapter = load_adapter(download(tracking, str(where), "adapter", Path(scratch))[1])
    else:
        adapter = load_adapter(folder)
    tree = adapter.experiment.tree()
    if any(override.startswith("benchmark.name=") for override in overrides):
        tree["benchmark"] = {}
    return replace(adapter, experiment=load_experiment(tree, overrides))


def write_queries(path: Path, queries: Sequence[dict[str, Any]]) -> Path:
    """Write the ranked results as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(queries[0]))
        writer.writeheader()
        writer.writerows(queries)
    return path
