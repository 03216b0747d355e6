"""DiscoVLA as it trains: captions of frames through the highest text layers, and the losses of the head."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.data.reader import Batch
from pipelines.train.step import backward, rows_of
from tests.support import oracle_discovla as slow
from tests.support.steps import assert_same, gradient
from tests.support.tiny import CLIP_MEAN, CLIP_STD, TINY, disturb, random_captions, random_videos, tiny_clip
from vop.config import TrainingConfig, load_experiment
from vop.model.backbone import Backbone
from vop.model.retrieval import RetrievalModel, build_model
from vop.model.walkers import text_of

MASK = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
BOTH = ["tuning.name=discovla", "head.name=discovla"]
WORDS = ("a red circle", "a dog", "two green squares on a blue wall", "rain")


@pytest.fixture(scope="module", params=TINY)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_clip(request.param, tmp_path_factory.mktemp("configs"))


def made(backbone: Backbone, *overrides: str) -> RetrievalModel:
    experiment = load_experiment({"frames": {"count": 3}}, [*BOTH, *overrides])
    clip = copy.deepcopy(backbone.clip)
    clip.logit_scale.data.fill_(2.3)  # exp is about 10: at 100 the softmax leaves one of many
    model = build_model(experiment, dataclasses.replace(backbone, clip=clip))
    disturb(model.trainable().values(), 0.2)
    return model


def rows(model: RetrievalModel, pixels: Tensor, tokens: Tensor, of_frames: Tensor) -> tuple[Tensor, Tensor]:
    """As a step of training makes them."""
    model.head.train()
    text, video = model(pixels, MASK, tokens)
    model.head.eval()
    return torch.cat([text, model.encode_frame_captions(of_frames, MASK)], dim=1), video


@pytest.mark.usefixtures("slow")
def test_its_loss_is_that_of_the_slow_reference(tiny: Backbone) -> None:
    torch.manual_seed(0)
    model = made(tiny, "head.alignment=0.4", "head.distillation=0.7", "tuning.disco_text=1")
    pixels, tokens = random_videos(model, 3), random_captions(model, [4, 0, 2])
    of_frames = random_captions(model, [5, 3, 4, 6, 2, 0, 4, 4, 3])
    text_BS, video_BR = rows(model, pixels, tokens, of_frames)
    extra = model.head.extra_loss(text_BS, video_BR)
    assert extra is not None
    found = model.loss(model.head.scores(text_BS, video_BR)) + extra

    parameters, clip, config = dict(model.named_parameters()), model.clip, model.head
    normalized = ((pixels / 255 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)).permute(0, 1, 4, 2, 3)
    texts = [slow.text(clip, parameters, None, ids.tolist()) for ids in tokens]
    videos = [slow.video(clip, parameters, None, *one) for one in zip(normalized, MASK, strict=True)]
    of_text = [
        slow.captions(clip, parameters, ids.tolist(), mask)
        for ids, mask in zip(of_frames.unflatten(0, (3, 3)), MASK, strict=True)
    ]
    of_video = [slow.frames(clip, parameters, *one) for one in zip(normalized, MASK, strict=True)]
    expected = slow.loss(texts, videos, of_text, of_video, model.scale.detach().double(), config)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-6)
    trainable = model.trainable()
    both = (torch.autograd.grad(loss, list(trainable.values())) for loss in (found, expected))
    for name, one, other in zip(trainable, *both, strict=True):
        assert other.norm() > 1e-6, f"{name} has no part in the result"
        assert (one - other).norm() <= 1e-4 * other.norm(), name


def test_texts_that_stand_alone_pass_its_text_adapters(tiny: Backbone) -> None:
    """At inference only captions and videos are embedded, and the adapters of texts have no part."""
    model = made(tiny)
    assert any("disco" in name for name, _ in text_of(model.clip).blocks[-1].named_parameters())
    tokens = random_captions(model, [4, 0, 5])
    with torch.no_grad():
        before, of_frames = model.encode_text(tokens), model.encode_frame_captions(tokens, torch.ones(1, 3, dtype=torch.bool))
        disturb(p for name, p in text_of(model.clip).blocks[-1].named_parameters() if "disco" in name)
        assert torch.equal(model.encode_text(tokens), before)
        assert not torch.allclose(model.encode_frame_captions(tokens, torch.ones(1, 3, dtype=torch.bool)), of_frames)
    plain = build_model(load_experiment({"frames": {"count": 3}}, BOTH[:1]), tiny)
    names = [name for name in model.trainable() if name not in plain.trainable()]
    assert names and all(".disco." in name and "visual" not in name for name in names)


def test_captions_of_padding_change_nothing(tiny: Backbone) -> None:
    torch.manual_seed(0)
    model = made(tiny)
    pixels, tokens, of_frames = random_videos(model, 3), random_captions(model, [4, 0, 2]), random_captions(model, [4] * 9)
    other = of_frames.clone()
    other[~MASK.flatten()] = random_captions(model, [6, 3, 5])
    with torch.no_grad():
        for one, same in zip(rows(model, pixels, tokens, of_frames), rows(model, pixels, tokens, other), strict=True):
            torch.testing.assert_close(one, same, atol=1e-6, rtol=0)


def test_without_captions_it_is_the_mean(tiny: Backbone) -> None:
    model, plain = made(tiny, "head.alignment=0", "head.distillation=0"), made(tiny, "head.name=mean")
    assert list(model.trainable()) == list(plain.trainable())
    pixels, tokens = random_videos(model, 3), random_captions(model, [4, 0, 2])
    model.head.train()
    with torch.no_grad():
        for one, other in zip(model(pixels, MASK, tokens), plain(pixels, MASK, tokens), strict=True):
            assert torch.equal(one, other)
    assert model.head.extra_loss(*model(pixels, MASK, tokens)) is None


# --- a step of training -----------------------------------------------------------------------------------------------


def toy(*overrides: str) -> RetrievalModel:
    tree = {"backbone": {"name": "ViT-toy", "pretrained": "ViT-toy.safetensors"}, "frames": {"count": 4}}
    model = build_model(load_experiment(tree, [*BOTH, *overrides]))
    disturb(model.trainable().values(), 0.05)
    return model


def batch_of(pairs: int) -> Batch:
    rng = np.random.default_rng(0)
    pixels, mask = rng.integers(0, 256, (pairs, 4, 64, 64, 3), dtype=np.uint8), np.ones((pairs, 4), dtype=np.bool_)
    mask[0, 3:] = False
    of_frames = [tuple(WORDS[(n + f) % 4] for f in range(4)) for n in range(pairs)]
    return Batch(0, np.arange(pairs), pixels, mask, [f"{word} on a wall" for word in WORDS[:pairs]], frame_captions=of_frames)


def test_chunks_give_the_same_step() -> None:
    model = toy()
    whole = gradient(model, batch_of(4))
    assert_same(gradient(model, batch_of(4), chunk_size=3), whole)
    assert all(name in whole[1] for name in model.trainable())


def test_a_step_adds_both_losses_and_evaluation_keeps_narrow_rows() -> None:
    losses = {}
    for name, overrides in {
        "none": ["head.alignment=0", "head.distillation=0"],
        "one": ["head.distillation=0"],
        "both": [],
    }.items():
        model = toy(*overrides)
        losses[name] = float(backward(model, batch_of(3), [3], 0, TrainingConfig()))
        text, video = rows_of(toy("head.alignment=0", "head.distillation=0"), batch_of(3), "fp32")
        assert text.shape == video.shape == (3, model.embedding_width) and model.video_width == model.embedding_width
    assert len({round(loss, 4) for loss in losses.values()}) == 3 and losses["none"] < losses["both"]
