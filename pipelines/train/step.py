"""One step of training on W workers: the loss over the pairs of all, and its gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.data.reader import Batch
from vop.config import TrainingConfig
from vop.model.head import joined
from vop.model.precision import computing
from vop.model.retrieval import RetrievalModel


def backward(
    model: RetrievalModel, batch: Batch | None, sizes: list[int], rank: int, training: TrainingConfig, draw: int = 0
) -> Tensor:
    """Add the gradient of the loss over the pairs of all workers to the trained parameters; returns the loss.

    sizes: how many pairs each of the W workers has. `batch` is None for a worker that has none in this step. The gradient is
    W times that of this worker's own pairs, to be averaged. With `chunk_size` the rows come first, without a graph; then the
    loss's gradient in them goes chunk by chunk through the model (Gao et al., RepL4NLP 2021): equal, in a chunk's memory.
    draw: a number of this step, for what a head draws at random (dropout): the same on all workers, and after a restart.
    """
    with _head_trains(model):
        return _backward(model, batch, sizes, rank, training, draw)


def _backward(
    model: RetrievalModel, batch: Batch | None, sizes: list[int], rank: int, training: TrainingConfig, draw: int
) -> Tensor:
    chunks = _chunks(batch, training.chunk_size)
    if len(chunks) < 2:
        loss = _loss(model, rows_of(model, batch, training.precision), sizes, rank, draw)
        loss.backward()
        return loss.detach()
    with torch.no_grad():
        found = [rows_of(model, chunk, training.precision) for chunk in chunks]
    text_BS, video_BR = (joined(part).requires_grad_() for part in zip(*found, strict=True))
    loss = _loss(model, (text_BS, video_BR), sizes, rank, draw)
    loss.backward()
    assert text_BS.grad is not None and video_BR.grad is not None
    lengths = [len(chunk.captions) for chunk in chunks]
    for chunk, text_grad, video_grad in zip(chunks, text_BS.grad.split(lengths), video_BR.grad.split(lengths), strict=True):
        text, video = rows_of(model, chunk, training.precision)
        ((text * text_grad[:, : text.shape[1]]).sum() + (video * video_grad).sum()).backward()
    return loss.detach()


@contextmanager
def _head_trains(model: RetrievalModel) -> Iterator[None]:
    """The head in training mode; CLIP stays as it is."""
    for part in (model.stages, model.head):
        part.train()
    try:
        yield
    finally:
        for part in (model.stages, model.head):
            part.eval()


def rows_of(model: RetrievalModel, batch: Batch | None, precision: str) -> tuple[Tensor, Tensor]:
    """The head's rows of texts and videos of a batch, ([B, S], [B, R]); none for no batch."""
    device = model.clip.logit_scale.device
    if batch is None:
        width = model.embedding_width if _is_dot(model) else 0
        nothing = next(iter(model.trainable().values())).sum() * torch.zeros(0, width, device=device)
        return nothing, nothing
    with computing(device, precision):
        text_BE = model.encode_text(model.tokenize(batch.captions))
        mask_BF = torch.as_tensor(batch.mask_BF, device=device)
        if model.head.captions:
            tokens_NT = model.tokenize([caption for own in batch.frame_captions for caption in own])
            text_BE = torch.cat([text_BE, model.encode_frame_captions(tokens_NT, mask_BF)], dim=1)
        if batch.activations_BFLD is not None:
            return text_BE, model.encode_activations(torch.as_tensor(batch.activations_BFLD, device=device), mask_BF)
        return text_BE, model.encode_video(torch.as_tensor(batch.pixels_BFHWC, device=device), mask_BF)


def _chunks(batch: Batch | None, size: int | None) -> list[Batch]:
    if batch is None or size is None:
        return []
    return [batch.part(start, start + size) for start in range(0, len(batch.captions), size)]


def _loss(model: RetrievalModel, own: tuple[Tensor, Tensor], sizes: list[int], rank: int, draw: int) -> Tensor:
    head, device = model.head, own[0].device
    if _is_dot(model):
        text, video = (gathered(part_BE, sizes, rank) for part_BE in own)
        return model.loss(text @ video.T)
    text, video = (gathered(_as_wide(part, sizes), sizes, rank) for part in own)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(draw)
        loss, extra = model.loss(head.scores(text, video)), head.extra_loss(text, video)
    return loss if extra is None else loss + extra


def _is_dot(model: RetrievalModel) -> bool:
    """Whether a training's rows are what scores are the dot products of, and nothing more."""
    return model.head.dot and not model.head.captions


def _as_wide(own_BR: Tensor, sizes: list[int]) -> Tensor:
    """Rows with zeros behind them, as wide as those of the worker that has the widest."""
    if len(sizes) == 1:
        return own_BR
    width = torch.tensor(own_BR.shape[1], device=own_BR.device)
    dist.all_reduce(width, dist.ReduceOp.MAX)
    return torch.nn.functional.pad(own_BR, (0, int(width) - own_BR.shape[1]))


def gathered(own_BE: Tensor, sizes: list[int], rank: int) -> Tensor:
    """The rows of all workers, in their order: [sum(sizes), E]; gradients flow to this worker's own rows.

    Every worker computes the whole loss, so the gradient of its own rows is exact. It is scaled by W here because
    `average_gradients` divides by W; with that, W workers of batch B step like one of batch W * B.
    """
    if len(sizes) == 1:
        return own_BE
    if own_BE.requires_grad:
        own_BE.register_hook(lambda gradient: gradient * len(sizes))
    padded = torch.zeros(max(sizes), own_BE.shape[1], device=own_BE.device, dtype=own_BE.dtype)
    padded[: len(own_BE)] = own_BE.detach()
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([own_BE if r == rank else part[:size] for r, (part, size) in enumerate(zip(parts, sizes, strict=True))])


def average_gradients(parameters: Sequence[torch.nn.Parameter], workers: int) -> None:
    """Replace gradients by their mean over the workers, in one message."""
    if workers == 1:
        return
    for parameter in parameters:  # a worker without pairs in this step has none
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]) / workers
    dist.all_reduce(flat)
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)
