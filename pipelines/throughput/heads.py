"""`vop throughput heads`: scores of each head against a dot product and, of X-Pool, against its plain form; what each stores.

Scores are computed as an evaluation does (`vop/scores`), on one thread; frame stages score as the dot product does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from pipelines.throughput import interleaved, median_ratio
from pipelines.throughput.data import Measurement
from pipelines.throughput.model import peak_memory
from vop.config import load_experiment
from vop.heads import xpool
from vop.model.backbone import shape_of_backbone
from vop.model.head import Head, build_head, chain_of
from vop.scores.heads import scores_of
from vop.scores.ranks import retrieval_ranks

HEADS = ("mean", "xpool", "wti")
TOKENS, FRAMES = 20, 12
SAVING = 20  # how many times less CPU X-Pool shall take than in its plain form
MIB = 600
ACTIVITYNET = 4917  # texts and videos of its test split


class Plain(xpool.Head):
    """X-Pool with a vector for each pair."""

    plain = True

    def numbers_per_pair(self, text_width: int) -> int:
        """Four vectors."""
        return 4 * self.width


Rows = tuple[Tensor, Tensor]


def measure(items: int, rounds: int) -> list[Measurement]:
    """Score `items` texts with as many videos by each head in turn."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        heads = {name: head_of(name) for name in HEADS}
        heads["xpool, plain"] = _plain(heads["xpool"])
        rows = {name: rows_of(head, items) for name, head in heads.items()}
        costs = interleaved({name: partial(score, *rows[name], head) for name, head in heads.items()}, rounds)
        memory = {name: _peak(*rows[name], heads[name]) for name in HEADS}
        whole = _whole(heads["xpool"])
    finally:
        torch.set_num_threads(threads)
    pairs, found = f"{items:,} x {items:,}", []
    for name in heads:
        rate = items**2 / min(cost.cpu for cost in costs[name])
        found.append(Measurement(f"{name}, {pairs}: scores in a CPU second", f"{rate:,.0f}"))
        found.append(Measurement(f"{name}: CPU over a dot product", f"{median_ratio(costs[name], costs['mean']):.1f}"))
        found.append(Measurement(f"{name}: bytes of a video", f"{4 * rows[name][1].shape[1]:,}"))
        if (peak := memory.get(name)) is not None:
            what = f"{name}, {pairs}: MiB of both ranks beside the rows"
            found.append(Measurement(what, f"{peak:.0f}", f"{MIB}", peak <= MIB))
    if whole is not None:
        what = f"xpool, {ACTIVITYNET:,} x {ACTIVITYNET:,}: MiB of both ranks and the rows"
        found.append(Measurement(what, f"{whole:.0f}", f"{MIB}", whole <= MIB))
    ratio = median_ratio(costs["xpool, plain"], costs["xpool"])
    found.append(Measurement("xpool: CPU of its plain form over its own", f"{ratio:.1f}", f"{SAVING}", ratio >= SAVING))
    return found


def head_of(name: str) -> Head:
    """The interaction of a head on ViT-B/32, at its start."""
    experiment = load_experiment({"backbone": {"pretrained": "random"}}, [f"head.name={chain_of(name)[1]}"])
    return build_head(experiment.head, shape_of_backbone(experiment.backbone).clip, FRAMES)[1]


def _plain(head: Head) -> Head:
    assert isinstance(head, xpool.Head)
    plain = copy.deepcopy(head)
    plain.__class__ = Plain
    return plain


@torch.no_grad()
def rows_of(head: Head, items: int) -> Rows:
    """Rows of so many texts and their videos, of embeddings drawn at random."""
    generator = torch.Generator().manual_seed(0)
    base, width = torch.randn(items, 1, 512, generator=generator), TOKENS if head.tokens else 1
    text = base + torch.randn(items, width, 512, generator=generator)
    video = base + torch.randn(items, FRAMES, 512, generator=generator)
    places, mask = torch.ones(items, width, dtype=torch.bool), torch.ones(items, FRAMES, dtype=torch.bool)
    make: tuple[Callable[..., Tensor], ...] = (head.text_rows, head.video_rows)
    texts, videos = (
        torch.cat([rows(*part) for part in zip(x.split(100), m.split(100), strict=True)])
        for rows, x, m in zip(make, (text, video), (places, mask), strict=True)
    )
    return texts, videos


def score(texts: Tensor, videos: Tensor, head: Head) -> None:
    """All scores, a tile at a time."""
    for _ in scores_of(texts, videos, head, exact=True).tiles():
        pass


def _peak(texts: Tensor, videos: Tensor, head: Head) -> float | None:
    return peak_memory(lambda: retrieval_ranks(texts, videos, torch.arange(len(videos)), head))


def _whole(head: Head) -> float | None:
    """MiB of scoring ActivityNet."""
    rows = rows_of(head, ACTIVITYNET)
    peak = _peak(*rows, head)
    return None if peak is None else peak + sum(x.nbytes for x in rows) / 2**20
