"""What a training step is compared with computes the same loss and the same gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipelines.throughput.references import Walk, authors, loss_of, plain
from tests.support.tiny import random_captions, random_videos, tiny_clip
from vop.config import load_experiment
from vop.model.loss import contrastive_loss
from vop.model.retrieval import build_model


@pytest.mark.parametrize("name", ["tiny-even", "tiny-odd"])
@pytest.mark.parametrize("walk", [plain, authors])
def test_reference_computes_the_same(walk: Walk, name: str, tmp_path: Path) -> None:
    backbone = tiny_clip(name, tmp_path)
    model = build_model(load_experiment({"frames": {"count": 3}, "text_prompt": {"length": 4}}), backbone)
    tokens_BT, pixels_BFHWC = random_captions(model, [5, 0, 3]), random_videos(model, 3)
    mask_BF = torch.ones(3, 3, dtype=torch.bool)
    ours = contrastive_loss(model.encode_text(tokens_BT) @ model.encode_video(pixels_BFHWC, mask_BF).T * model.scale)
    theirs = loss_of(walk, model, tokens_BT, pixels_BFHWC)
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)
    trainable = model.trainable()
    for one, other in zip(*(torch.autograd.grad(loss, list(trainable.values())) for loss in (theirs, ours)), strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm() and other.norm() > 1e-6
    assert all(block.attn.batch_first for block in model.clip.transformer.resblocks)
