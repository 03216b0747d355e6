"""One step of training on W workers: the loss over the pairs of all, and its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.data import Batch
from vop.config import TrainingConfig
from vop.loss import contrastive_loss
from vop.model import RetrievalModel


def backward(model: RetrievalModel, batch: Batch | None, sizes: list[int], rank: int, training: TrainingConfig) -> Tensor:
    """Add the gradient of the loss over the pairs of all workers to the trained parameters; returns the loss.

    sizes: how many pairs each of the W workers has. `batch` is None for a worker that has none in this step. The gradient is
    W times that of this worker's own pairs, to be averaged. With `chunk_size` the embeddings come first, without a graph; then
    the loss's gradient in them goes chunk by chunk through the model (Gao et al., RepL4NLP 2021): equal, in a chunk's memory.
    """
    chunks = _chunks(batch, training.chunk_size)
    if len(chunks) < 2:
        loss = _loss(model, embeddings(model, batch, training.precision), sizes, rank)
        loss.backward()
        return loss.detach()
    with torch.no_grad():
        embedded = [embeddings(model, chunk, training.precision) for chunk in chunks]
    text_BE, video_BE = (torch.cat(part).requires_grad_() for part in zip(*embedded, strict=True))
    loss = _loss(model, (text_BE, video_BE), sizes, rank)
    loss.backward()
    assert text_BE.grad is not None and video_BE.grad is not None
    lengths = [len(chunk.captions) for chunk in chunks]
    for chunk, text_grad, video_grad in zip(chunks, text_BE.grad.split(lengths), video_BE.grad.split(lengths), strict=True):
        text, video = embeddings(model, chunk, training.precision)
        ((text * text_grad).sum() + (video * video_grad).sum()).backward()
    return loss.detach()


def embeddings(model: RetrievalModel, batch: Batch | None, precision: str) -> tuple[Tensor, Tensor]:
    """Unit text and video embeddings of a batch, ([B, E], [B, E]); none for no batch."""
    device = model.clip.logit_scale.device
    if batch is None:
        nothing = next(iter(model.trainable().values())).sum() * torch.zeros(0, model.clip.visual.proj.shape[1], device=device)
        return nothing, nothing
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        text_BE = model.encode_text(model.tokenize(batch.captions).to(device, non_blocking=True))
        mask_BF = torch.from_numpy(batch.mask_BF).to(device, non_blocking=True)
        if batch.activations_BFLD is not None:
            activations = torch.from_numpy(batch.activations_BFLD).to(device, non_blocking=True)
            return text_BE, model.encode_activations(activations, mask_BF)
        return text_BE, model.encode_video(torch.from_numpy(batch.pixels_BFHWC).to(device, non_blocking=True), mask_BF)


def _chunks(batch: Batch | None, size: int | None) -> list[Batch]:
    if batch is None or size is None:
        return []
    return [batch.part(start, start + size) for start in range(0, len(batch.captions), size)]


def _loss(model: RetrievalModel, own: tuple[Tensor, Tensor], sizes: list[int], rank: int) -> Tensor:
    text, video = (gathered(part_BE, sizes, rank) for part_BE in own)
    return contrastive_loss(text @ video.T * model.scale)


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
