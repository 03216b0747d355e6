"""Scores corrected with knowledge that a single query does not have: dual softmax and QB-Norm.

Never the headline: both are reported beside the raw scores, under names of their own, with what they assume.

- Dual softmax (DSL; Cheng et al., CAMoE, arXiv 2109.04290): score S[q, g] times softmax(scale * S) over the *queries* q.
  It assumes that all queries of the test are known at once, and so that each gallery item is wanted by few of them;
  where each has exactly one (MSR-VTT and its like), that gives away part of the answer.
- QB-Norm (Bogolin et al., "Cross Modal Retrieval with Querybank Normalisation", CVPR 2022), with its dynamic inverted
  softmax: exp(beta * S[q, g]) divided by the sum of exp(beta * S[b, g]) over a bank b of training captions, for those
  queries alone whose best item is a hub: the best of some query in the bank. It assumes that training captions are at
  hand at search time and meet the same hubs; of the test it uses no other query. For text-to-video only: video-to-text
  would need a bank of training videos.

Shapes as in `vop/metrics.py`: Q queries, G gallery items, C a chunk of queries, E joint embedding, B captions in the bank.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vop.metrics import CHUNK, Array, Ranks, ranks, score_chunks

NAMES = ("dsl", "qbnorm")
SCALE = 100.0  # CLIP's logit scale: the temperature at which DSL is used with CLIP
BETA = 20.0  # QB-Norm's published inverse temperature, for cosines


def dual_softmax(query_QE: Array, gallery_GE: Array, *, scale: float = SCALE, chunk: int = CHUNK) -> Callable[[Tensor], Tensor]:
    """The function from raw scores [C, G] to dual-softmax scores; all queries are read here, in chunks."""
    total_G = _log_sum_exp(query_QE, gallery_GE, scale, chunk)

    # S * softmax(...) in logarithms, because the products are too small to compare as such. Negative scores keep their
    # order under their sign; `above` is more than any of the logarithms is below 0.
    above = 2 * scale + 120

    def rescore(scores_CG: Tensor) -> Tensor:
        scores_CG = scores_CG.double()
        log_CG = scores_CG.abs().log() + scale * scores_CG - total_G
        return _rounded(torch.where(scores_CG == 0, 0.0, scores_CG.sign() * (log_CG + above)))

    return rescore


def querybank_norm(bank_BE: Array, gallery_GE: Array, *, beta: float = BETA, chunk: int = CHUNK) -> Callable[[Tensor], Tensor]:
    """The function from raw scores [C, G] to QB-Norm's, as logarithms divided by beta. ValueError for an empty bank."""
    if not len(bank_BE):
        raise ValueError("QB-Norm needs at least one caption in its bank")
    total_G = _log_sum_exp(bank_BE, gallery_GE, beta, chunk)
    hub_G = torch.zeros(len(gallery_GE), dtype=torch.bool)
    for _, scores_CG in score_chunks(bank_BE, gallery_GE, chunk):
        hub_G |= _best(scores_CG).any(0)

    def rescore(scores_CG: Tensor) -> Tensor:
        is_hubs_C1 = (_best(scores_CG) & hub_G).any(1, keepdim=True)
        return _rounded(torch.where(is_hubs_C1, scores_CG.double() - total_G / beta, scores_CG.double()))

    return rescore


def rescored_ranks(text_ME: Array, video_NE: Array, video_of_text_M: Array, bank_BE: Array | None = None) -> dict[str, Ranks]:
    """Ranks by corrected scores: "dsl/t2v", "dsl/v2t" and, with a bank of training captions, "qbnorm/t2v"."""
    videos_N = torch.arange(len(video_NE))
    found = {
        "dsl/t2v": ranks(text_ME, video_NE, video_of_text_M, rescore=dual_softmax(text_ME, video_NE)),
        "dsl/v2t": ranks(video_NE, text_ME, videos_N, video_of_text_M, rescore=dual_softmax(video_NE, text_ME)),
    }
    if bank_BE is not None and len(bank_BE):
        found["qbnorm/t2v"] = ranks(text_ME, video_NE, video_of_text_M, rescore=querybank_norm(bank_BE, video_NE))
    return found


def rescored_metrics(text_ME: Array, video_NE: Array, video_of_text_M: Array, bank_BE: Array | None = None) -> dict[str, float]:
    """`Ranks.metrics` of `rescored_ranks`, flat: "dsl/t2v/R1", ...; "qbnorm/bank" is the number of captions in the bank."""
    found = rescored_ranks(text_ME, video_NE, video_of_text_M, bank_BE)
    result = {key: value for name, r in found.items() for key, value in r.metrics(f"{name}/").items()}
    return result | ({"qbnorm/bank": float(len(bank_BE))} if bank_BE is not None and "qbnorm/t2v" in found else {})


def _log_sum_exp(query_QE: Array, gallery_GE: Array, scale: float, chunk: int) -> Tensor:
    """[G], fp64: for each gallery item, log of the sum over the queries of exp(scale * score)."""
    total_G = torch.full((len(gallery_GE),), -torch.inf, dtype=torch.float64)
    for _, scores_CG in score_chunks(query_QE, gallery_GE, chunk):
        total_G = torch.logaddexp(total_G, (scale * scores_CG.double()).logsumexp(0))
    return total_G


def _rounded(scores_CG: Tensor) -> Tensor:
    """Equal items must tie: sums over queries may differ in their last bits."""
    return scores_CG.round(decimals=9)


def _best(scores_CG: Tensor) -> Tensor:
    """[C, G]: where a row's highest score is; several places if they tie."""
    return scores_CG == scores_CG.amax(1, keepdim=True)
