"""What an index keeps of windows, and what it is asked with: embeddings, and the rows of a head with a score of its own.

B windows or texts, E joint embedding, R and S what the head keeps of a video and of a text.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vop.config import Experiment, HeadConfig
from vop.heads.mean import Head as Mean
from vop.model.architecture import PACKAGED
from vop.model.precision import computing
from vop.model.retrieval import RetrievalModel
from vop.retriever import Retriever
from vop.video.windows import WindowRule


def rule_of(retriever: Retriever, length: float, stride: float) -> WindowRule:
    """How a model takes frames of windows: as many, and chosen so, as it does of a video."""
    frames, how = retriever.experiment.frames, retriever.model.backbone.preprocess
    return WindowRule(
        length=length,
        stride=stride,
        count=frames.count,
        size=retriever.model.backbone.size,
        sampling="fps" if frames.sampling == "fps" else "uniform",
        fps=frames.fps,
        drawn=frames.count * frames.candidates if frames.sampling == "random" else 0,
        resize=how.resize,
        interpolation=how.interpolation,
    )


def is_tiny(experiment: Experiment) -> str:
    """A sentence where the backbone is one that comes with the package, else ""."""
    name = experiment.backbone.name
    if not (PACKAGED / f"{name}.safetensors").is_file():
        return ""
    return f"{name} is the tiny CLIP of the package: what is found with it means nothing, beyond that it can be tried"


@torch.inference_mode()
def window_rows(model: RetrievalModel, pixels_BFHWC: Tensor, mask_BF: Tensor) -> tuple[Tensor, Tensor | None]:
    """Unit embeddings [B, E], and the head's rows [B, R] unless a dot product of the first is its score; on the CPU.

    With such a head the embedding is the mean of its frames', as the default head has it: it says what is worth scoring.
    """
    device = model.clip.logit_scale.device
    pixels_BFHWC, mask_BF = (x.to(device) for x in (pixels_BFHWC, mask_BF))
    with computing(device):
        if model.head.dot:
            return model.encode_video(pixels_BFHWC, mask_BF).cpu(), None
        frames_BFE = model.frame_embeddings(model.activations(pixels_BFHWC), mask_BF)
    return _mean(model).video_rows(frames_BFE, mask_BF).cpu(), model.head.video_rows(frames_BFE, mask_BF).cpu()


@torch.inference_mode()
def text_rows(model: RetrievalModel, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
    """Unit embeddings [B, E] of texts, and the head's rows [B, S] as in `window_rows`; on the CPU."""
    tokens_BT = model.tokenize(list(texts))
    with computing(model.clip.logit_scale.device):
        rows = model.encode_text(tokens_BT).cpu()
        if model.head.dot:
            return rows, None
        return _mean(model).text_rows(*model.text_places(tokens_BT, every=False)).cpu(), rows


def _mean(model: RetrievalModel) -> Mean:
    return Mean(HeadConfig(), model.clip, model.frames)
