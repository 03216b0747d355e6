"""Retrieval metrics, fair to tied scores (the rule: method, section 2), in chunks of the score matrix.

Q queries, G gallery items, M captions, N videos, E joint embedding, C a chunk of queries. Embeddings are
L2-normalized, numpy or torch, on any device; scores are dot products, computed on the CPU. Results are numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = Tensor | NDArray[Any] | Sequence[Any]
CHUNK = 1024  # rows of the score matrix held at a time


@dataclass(frozen=True, eq=False)
class Ranks:
    """Per query, how many items scored strictly higher than the truth, how many others the same; int64 [Q].

    `ranks[mask_Q]` or `ranks[indices]` are those of some queries, each still against the whole gallery.
    """

    higher_Q: NDArray[np.int64]
    ties_Q: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.higher_Q)

    def __getitem__(self, queries: Any) -> Ranks:
        return Ranks(np.atleast_1d(self.higher_Q[queries]), np.atleast_1d(self.ties_Q[queries]))

    @property
    def rank(self) -> NDArray[np.float64]:
        """[Q], from 1: the expected rank over random orders of the tied items, so it may end in .5."""
        return 1 + self.higher_Q + self.ties_Q / 2

    def hit(self, k: int) -> NDArray[np.float64]:
        """[Q], in 0..1: the probability that the truth is in the top k when ties are put in random order."""
        places_Q = self.ties_Q + 1
        return np.clip(k - self.higher_Q, 0, places_Q) / places_Q

    def metrics(self, prefix: str = "") -> dict[str, float]:
        """R1, R5, R10 (percent), MdR, MnR (ranks, from 1), queries (a count). ValueError for none."""
        if not len(self):
            raise ValueError(f"{prefix}metrics of no queries")
        recall = {f"{prefix}R{k}": 100 * float(self.hit(k).mean()) for k in (1, 5, 10)}
        middle = {f"{prefix}MdR": float(np.median(self.rank)), f"{prefix}MnR": float(self.rank.mean())}
        return recall | middle | {f"{prefix}queries": len(self)}


def ranks(
    query_QE: Array,
    gallery_GE: Array,
    truth_Q: Array,
    owner_G: Array | None = None,
    *,
    rescore: Callable[[Tensor], Tensor] | None = None,
    chunk: int = CHUNK,
) -> Ranks:
    """Rank the truth of each query among all gallery items.

    truth_Q: int [Q], the index of the true item; or, with `owner_G` (int [G]), the label its true items carry
    there. Of several true items the best counts; the others never count against it, not even as ties. `rescore`
    turns a chunk of raw scores [C, G] into those that rank (`vop/rescoring.py`). Raises ValueError for lengths
    that disagree, for a query without a true item and for scores that are not finite.
    """
    truth_Q, owner_G = _tensor(truth_Q), _tensor(range(len(gallery_GE)) if owner_G is None else owner_G)
    if (len(truth_Q), len(owner_G)) != (len(query_QE), len(gallery_GE)):
        raise ValueError(f"{len(query_QE)} x {len(gallery_GE)} scores, {len(truth_Q)} x {len(owner_G)} labels")
    higher, ties = [], []
    for start, scores_CG in score_chunks(query_QE, gallery_GE, chunk):
        if rescore:
            scores_CG = _finite("rescored", rescore(scores_CG), start)
        true_CG = truth_Q[start : start + chunk, None] == owner_G
        if not (found_C := true_CG.any(1)).all():
            raise ValueError(f"query {start + int(found_C.int().argmin())} has no true item in the gallery")
        best_C1 = scores_CG.where(true_CG, -torch.inf).amax(1, keepdim=True)
        scores_CG.masked_fill_(true_CG, -torch.inf)
        higher.append((scores_CG > best_C1).sum(1))
        ties.append((scores_CG == best_C1).sum(1))
    return Ranks(torch.cat(higher).numpy(), torch.cat(ties).numpy())


def retrieval_ranks(text_ME: Array, video_NE: Array, video_of_text_M: Array) -> tuple[Ranks, Ranks]:
    """Ranks of each caption's video (t2v, M queries) and of each video's best caption (v2t, N queries).

    video_of_text_M: int [M], the video of each caption. v2t competes with the captions of other videos only.
    Raises as `ranks`, so also for a video without a caption.
    """
    t2v = ranks(text_ME, video_NE, video_of_text_M)
    return t2v, ranks(video_NE, text_ME, torch.arange(len(video_NE)), video_of_text_M)


def retrieval_metrics(
    text_ME: Array, video_NE: Array, video_of_text_M: Array, group_M: Array | None = None
) -> dict[str, float]:
    """`Ranks.metrics` of both directions, flat: "t2v/R1" to "t2v/queries", "v2t/R1" to "v2t/queries".

    group_M: a name for each caption; adds "<name>/t2v/..." over its captions and "<name>/v2t/..." over their
    videos, each still ranked against everything. Raises as `ranks`.
    """
    t2v, v2t = retrieval_ranks(text_ME, video_NE, video_of_text_M)
    result = t2v.metrics("t2v/") | v2t.metrics("v2t/")
    names_M = np.asarray([] if group_M is None else group_M)
    for name in np.unique(names_M):
        member_M = names_M == name
        videos = np.unique(_tensor(video_of_text_M).numpy()[member_M])
        result |= t2v[member_M].metrics(f"{name}/t2v/") | v2t[videos].metrics(f"{name}/v2t/")
    return result


def pair_accuracy(text_ME: Array, video_NE: Array, truth_M: Array, opposite_M: Array, tolerance: float = 1e-6) -> float:
    """Percent of captions that score higher with their own video than with its opposite; chance is 50.

    truth_M, opposite_M: int [M], videos; the opposite is the same clip reversed in time, -1 for none (left
    out). Scores at most `tolerance` apart are a tie and count one half. Raises ValueError when no caption has
    an opposite, for an index outside the gallery and for embeddings that are not finite.
    """
    text_ME, video_NE = _embeddings("text", text_ME), _embeddings("video", video_NE)
    truth_M, opposite_M = _tensor(truth_M), _tensor(opposite_M)
    paired_M = opposite_M != -1
    if not paired_M.any():
        raise ValueError("no caption has an opposite video")
    pairs = torch.stack([truth_M, opposite_M])[:, paired_M]
    if pairs.min() < 0 or pairs.max() >= len(video_NE):
        raise ValueError(f"videos {int(pairs.min())} to {int(pairs.max())}, in a gallery of {len(video_NE)}")
    own_M, other_M = (text_ME[paired_M] * video_NE[pairs]).sum(-1)
    margin_M = (own_M - other_M).where((own_M - other_M).abs() > tolerance, 0.0)
    return 50 * (1 + float(margin_M.sign().mean()))


def top_k(text_ME: Array, video_NE: Array, k: int, *, chunk: int = CHUNK) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scores and indices of each caption's k best videos (all, if there are fewer), both [M, k], best first.

    Equal scores come in the order of the gallery. Raises ValueError for scores that are not finite.
    """
    scores, indices = [], []
    for _, scores_CG in score_chunks(text_ME, video_NE, chunk):
        best = scores_CG.sort(dim=1, descending=True, stable=True)
        scores.append(best.values[:, :k].clone())  # a view would keep the whole chunk alive
        indices.append(best.indices[:, :k].clone())
    return torch.cat(scores).numpy(), torch.cat(indices).numpy()


def score_chunks(query_QE: Array, gallery_GE: Array, chunk: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (first row, fp32 scores [<= chunk, G]), all finite."""
    query_QE, gallery_GE = _embeddings("query", query_QE), _embeddings("gallery", gallery_GE)
    for start, query_CE in zip(count(0, chunk), torch.split(query_QE, chunk), strict=False):
        # In fp64 first: BLAS sums the last columns in another order, so in fp32 equal items would not tie.
        yield start, _finite("score", (query_CE @ gallery_GE.T).float(), start)


def _tensor(x: Array) -> Tensor:
    return x.detach().cpu() if isinstance(x, Tensor) else torch.tensor(x)


def _embeddings(name: str, x_RE: Array) -> Tensor:
    return _finite(name, _tensor(x_RE).double())


def _finite(name: str, x_RC: Tensor, start: int = 0) -> Tensor:
    bad_R = ~x_RC.isfinite().all(1)
    if bad_R.any():
        first = start + int(bad_R.int().argmax())
        raise ValueError(f"not finite: {int(bad_R.sum())} of {len(x_RC)} {name} rows, first row {first}")
    return x_RC
