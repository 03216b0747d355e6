"""`vop throughput scores`: ranks both ways, the top ten and both rescorings of many texts and videos, against what was before.

Before: every score in fp64, a pass for each result, whole rows sorted for the best ten. It is kept here as the reference of
what ranks and ties are. One thread; the embeddings are such that about half of the texts find their video first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.throughput import interleaved, median_ratio
from pipelines.throughput.data import Measurement
from pipelines.throughput.model import peak_memory
from vop.scores.ranks import Ranks
from vop.scores.rescoring import BETA, SCALE, compare

WIDTH, BANK, TOP, CHUNK = 512, 2000, 10, 1024
SMALL = 5  # what was before is timed with so many times fewer texts and videos
NOISE = 0.24  # of a text's embedding beside its video's, in each place: about half are found first among 50,000
SECONDS, MIB = 100, 600

Array = NDArray[np.float32]


def measure(items: int, rounds: int) -> list[Measurement]:
    """Time what was before and what is now side by side with fewer `items`, then what is now with all of them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        few, many = embeddings(max(2, items // SMALL)), embeddings(items)
        costs = interleaved({"before": partial(before, *few), "now": partial(now, *few)}, rounds)
        ratio = median_ratio(costs["now"], costs["before"])
        used: list[float] = []
        memory = peak_memory(lambda: used.append(interleaved({"now": partial(now, *many)}, 1, warm_up=False)["now"][0].cpu))
    finally:
        torch.set_num_threads(threads)
    what = f"both directions, top {TOP} and both rescorings of {len(few[0]):,} x {len(few[1]):,}, CPU, over what was before"
    rows = [Measurement(what, f"{ratio:.3f}", "1", ratio <= 1)]
    what = f"the same of {items:,} x {items:,}"
    rows.append(Measurement(f"{what}, CPU seconds", f"{used[0]:.0f}", f"{SECONDS} for 50,000", used[0] <= SECONDS))
    if memory is not None:
        rows.append(Measurement(f"{what}, MiB beside the embeddings", f"{memory:.0f}", f"{MIB} for 50,000", memory <= MIB))
    return rows


def embeddings(items: int) -> tuple[Array, Array, Array]:
    """Unit embeddings of so many texts and their videos, and of a bank."""
    rng = np.random.default_rng(0)
    video_NE, noise_NE, bank_BE = (rng.standard_normal((n, WIDTH), np.float32) for n in (items, items, BANK))
    noise_NE *= NOISE
    noise_NE += _unit(video_NE)
    return _unit(noise_NE), video_NE, _unit(bank_BE)


def _unit(x_NE: Array) -> Array:
    x_NE /= np.linalg.norm(x_NE, axis=1, keepdims=True)
    return x_NE


def now(text_NE: Array, video_NE: Array, bank_BE: Array) -> dict[str, Ranks]:
    """All results at once."""
    found = compare(text_NE, video_NE, np.arange(len(video_NE)), bank_BE, top=TOP)
    return {"t2v": found.t2v, "v2t": found.v2t} | found.rescored


def before(text_NE: Array, video_NE: Array, bank_BE: Array) -> dict[str, Ranks]:
    """All results, each by a pass of its own."""
    owner = np.arange(len(video_NE))
    top_k_before(text_NE, video_NE, TOP)
    return all_ranks_before(text_NE, video_NE, owner, bank_BE)


def all_ranks_before(text_ME: Array, video_NE: Array, owner_M: NDArray[np.int64], bank_BE: Array) -> dict[str, Ranks]:
    """Ranks both ways, raw and by corrected scores."""
    videos_N = np.arange(len(video_NE))
    ways: dict[str, tuple[bool, Callable[[Tensor], Tensor] | None]] = {
        "t2v": (True, None),
        "v2t": (False, None),
        "dsl/t2v": (True, dual_softmax_before(text_ME, video_NE)),
        "dsl/v2t": (False, dual_softmax_before(video_NE, text_ME)),
        "qbnorm/t2v": (True, querybank_norm_before(bank_BE, video_NE)),
    }
    return {
        name: ranks_before(text_ME, video_NE, owner_M, videos_N, rescore)
        if t2v
        else ranks_before(video_NE, text_ME, videos_N, owner_M, rescore)
        for name, (t2v, rescore) in ways.items()
    }


def ranks_before(
    query_QE: Array,
    gallery_GE: Array,
    truth_Q: NDArray[np.int64],
    owner_G: NDArray[np.int64],
    rescore: Callable[[Tensor], Tensor] | None = None,
) -> Ranks:
    """Ranks of the truths, from all scores in fp64, a chunk of whole rows at a time."""
    truth, owner = torch.tensor(truth_Q), torch.tensor(owner_G)
    higher, ties = [], []
    for start, scores_CG in _chunks(query_QE, gallery_GE):
        scores_CG = rescore(scores_CG) if rescore else scores_CG
        true_CG = truth[start : start + CHUNK, None] == owner
        best_C1 = scores_CG.where(true_CG, -torch.inf).amax(1, keepdim=True)
        scores_CG.masked_fill_(true_CG, -torch.inf)
        higher.append((scores_CG > best_C1).sum(1))
        ties.append((scores_CG == best_C1).sum(1))
    return Ranks(torch.cat(higher).numpy(), torch.cat(ties).numpy())


def top_k_before(text_ME: Array, video_NE: Array, k: int) -> tuple[Array, NDArray[np.int64]]:
    """Scores and places of the k best videos of each text, from whole rows sorted."""
    best = [scores_CG.sort(dim=1, descending=True, stable=True) for _, scores_CG in _chunks(text_ME, video_NE)]
    scores_MK, places_MK = (torch.cat([getattr(b, part)[:, :k].clone() for b in best]) for part in ("values", "indices"))
    return scores_MK.numpy(), places_MK.numpy()


def dual_softmax_before(query_QE: Array, gallery_GE: Array, scale: float = SCALE) -> Callable[[Tensor], Tensor]:
    """From raw scores to the keys by which dual softmax ranks."""
    total_G, above = _log_sum_exp(query_QE, gallery_GE, scale), 2 * scale + 120

    def rescore(scores_CG: Tensor) -> Tensor:
        scores_CG = scores_CG.double()
        log_CG = scores_CG.abs().log() + scale * scores_CG - total_G
        return torch.where(scores_CG == 0, 0.0, scores_CG.sign() * (log_CG + above)).round(decimals=9)

    return rescore


def querybank_norm_before(bank_BE: Array, gallery_GE: Array, beta: float = BETA) -> Callable[[Tensor], Tensor]:
    """From raw scores to the keys by which QB-Norm ranks."""
    total_G = _log_sum_exp(bank_BE, gallery_GE, beta)
    hub_G = torch.zeros(len(gallery_GE), dtype=torch.bool)
    for _, scores_CG in _chunks(bank_BE, gallery_GE):
        hub_G |= _best(scores_CG).any(0)

    def rescore(scores_CG: Tensor) -> Tensor:
        is_hubs_C1 = (_best(scores_CG) & hub_G).any(1, keepdim=True)
        return torch.where(is_hubs_C1, scores_CG.double() - total_G / beta, scores_CG.double()).round(decimals=9)

    return rescore


def _log_sum_exp(query_QE: Array, gallery_GE: Array, scale: float) -> Tensor:
    total_G = torch.full((len(gallery_GE),), -torch.inf, dtype=torch.float64)
    for _, scores_CG in _chunks(query_QE, gallery_GE):
        total_G = torch.logaddexp(total_G, (scale * scores_CG.double()).logsumexp(0))
    return total_G


def _best(scores_CG: Tensor) -> Tensor:
    return scores_CG == scores_CG.amax(1, keepdim=True)


def _chunks(query_QE: Array, gallery_GE: Array) -> Iterator[tuple[int, Tensor]]:
    query, gallery = (torch.tensor(x).double() for x in (query_QE, gallery_GE))
    for start in range(0, len(query), CHUNK):
        yield start, (query[start : start + CHUNK] @ gallery.T).float()
