"""The order of frames: variants that can see it learn time pairs by heart, the others cannot get below chance."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.transforms.functional import resize

from tests.support.tiny import disturb, random_videos
from vop.config import kinds, load_experiment
from vop.model.loss import contrastive_loss
from vop.model.retrieval import RetrievalModel, build_model
from vop.paper.methods import METHODS, overrides_of
from vop.toy.videos import DIRECTED, Clip, frames_of, plan

FRAMES, PAIRS = 4, 2
CHANCE = math.log(2)  # the loss of what cannot tell a clip from its reverse, at best
SPLIT = "video_encoder.split_layer=4"  # as deep as it is, layer 8 learns the same, more slowly

SEES_ORDER = {
    "P": (["video_prompt.name=position"], 1e-2),
    "C": (["video_prompt.name=context"], 3e-3),
    "F": ([SPLIT], 3e-2),
    "F+P": (["video_prompt.name=position", SPLIT], 1e-2),
    "F+C": (["video_prompt.name=context", SPLIT], 3e-3),
    "ST-Adapter": (["tuning.name=st-adapter"], 3e-3),
}
BLIND = {
    "vop": ([], 1e-2),
    "full": (["tuning.name=full"], 1e-4),
    "adapter-attn": (["tuning.name=adapter-attn"], 1e-3),
    "adapter-ffn": (["tuning.name=adapter-ffn"], 1e-3),
    "lora": (["tuning.name=lora"], 1e-3),
    "ia3": (["tuning.name=ia3"], 1e-2),
    "cross-modal": (["tuning.name=cross-modal"], 1e-3),
    "dgl": (["video_prompt.name=dgl"], 1e-2),
    "discovla": (["tuning.name=discovla"], 1e-3),
}
SEES_BY_CONSTRUCTION = {  # of METHODS; all others see frames as a set
    *("ST-Adapter", "MV-Adapter", "TempMe", "VoP^P", "VoP^C", "VoP^F", "VoP^F+P", "VoP^F+C", "DGL transformer"),
    *("seqTransf", "seqTransf+WTI", "seqLSTM"),
}


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    """Time pairs of two events that have a direction: a clip, its reverse, the next clip, ..."""
    chosen = plan()[0][: 2 * PAIRS]
    assert [clip.reverse for clip in chosen] == [False, True] * PAIRS
    assert len({clip.event.name for clip in chosen} & {event.name for event in DIRECTED}) == PAIRS
    return chosen


@pytest.fixture(scope="module")
def videos(clips: list[Clip]) -> Tensor:
    """Their frames, uint8 [2 * PAIRS, FRAMES, 64, 64, 3]: a reverse has those of its clip, in the other order."""
    sampled = [torch.from_numpy(picture) for clip in clips for picture in _middles(frames_of(clip))]
    square = torch.stack([resize(picture.permute(2, 0, 1), [64, 64]).permute(1, 2, 0) for picture in sampled])
    videos = square.unflatten(0, (len(clips), FRAMES))
    assert torch.equal(videos[0::2], videos[1::2].flip(1))
    return videos


def _middles(pictures: list) -> list:  # type: ignore[type-arg]
    length = len(pictures) // FRAMES
    return [pictures[number * length + (length - 1) // 2] for number in range(FRAMES)]


def model_of(overrides: list[str]) -> RetrievalModel:
    tree = {"backbone": {"name": "ViT-toy", "pretrained": "ViT-toy.safetensors"}, "frames": {"count": FRAMES}}
    return build_model(load_experiment(tree, overrides))


def right(scores_NN: Tensor) -> bool:
    """Whether every caption finds its own clip and every clip its own caption."""
    truth_N = torch.arange(len(scores_NN))
    return torch.equal(scores_NN.argmax(dim=1), truth_N) and torch.equal(scores_NN.argmax(dim=0), truth_N)


def train(model: RetrievalModel, videos: Tensor, clips: list[Clip], rate: float, steps: int) -> tuple[list[float], Tensor]:
    """Losses of up to `steps` steps on one batch of all pairs, and its last scores; ends once all are learnt by heart."""
    tokens = model.tokenize([clip.captions[0] for clip in clips])
    mask = torch.ones(videos.shape[:2], dtype=torch.bool)
    optimizer = torch.optim.AdamW(model.trainable().values(), lr=rate)
    losses: list[float] = []
    for _ in range(steps):
        text, video = model(videos, mask, tokens)
        scores = text @ video.T
        loss = contrastive_loss(scores * model.scale)
        losses.append(loss.item())
        if loss < CHANCE / 2 and right(scores):
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses, scores.detach()


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("name", METHODS)
def test_frames_in_another_order_change_scores_only_where_a_method_sees_order(name: str) -> None:
    """Of every method and head, away from its start: so the others are right on half of the time pairs."""
    model = model_of([f"{key}={value}" for key, value in overrides_of(name).items()])
    disturb(model.trainable().values(), 0.02 if name == "Full" else 0.1)
    torch.manual_seed(0)
    videos, mask = random_videos(model, 3, FRAMES), torch.ones(3, FRAMES, dtype=torch.bool)
    with torch.no_grad():
        text = model.encode_text(model.tokenize(["a red circle", "a dog", "two green squares grow"]))
        orders = (range(FRAMES), range(FRAMES - 1, -1, -1), (2, 0, 3, 1))
        first, *others = (model.head.scores(text, model.encode_video(videos[:, list(order)], mask)) for order in orders)
    assert first.std() > 1e-4, "it tells videos apart"
    for other in others:
        difference = float((other - first).abs().max())
        assert difference > 1e-4 if name in SEES_BY_CONSTRUCTION else difference < 1e-5, difference


def test_every_head_is_in_some_method() -> None:
    assert {*kinds("head")} == {"mean", *(part for own in METHODS.values() for part in own.get("head.name", "mean").split("+"))}


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("variant", SEES_ORDER)
def test_a_variant_that_sees_order_learns_time_pairs(variant: str, videos: Tensor, clips: list[Clip]) -> None:
    overrides, rate = SEES_ORDER[variant]
    losses, scores = train(model_of(overrides), videos, clips, rate, steps=300)
    assert losses[-1] < CHANCE / 2, f"after {len(losses)} steps the loss is {losses[-1]:.3f}"
    assert right(scores)


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("protocol", BLIND)
def test_an_order_blind_method_cannot_get_below_ln_2(protocol: str, videos: Tensor, clips: list[Clip]) -> None:
    overrides, rate = BLIND[protocol]
    losses, scores = train(model_of(overrides), videos, clips, rate, steps=25)
    assert min(losses) >= CHANCE - 1e-4 and losses[-1] < losses[0]
    # A clip and its reverse score the same with any caption, to rounding: right on half of the pairs by construction.
    torch.testing.assert_close(scores[:, 0::2], scores[:, 1::2], rtol=0, atol=1e-5)
