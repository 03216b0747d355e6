"""Heads: the contract, the slow reference, and what each promises."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support import oracle, oracle_heads
from tests.support.tiny import CLIP_MEAN, CLIP_STD, TINY, disturb, random_captions, random_videos, tiny_clip
from vop.config import ConfigError, kinds, load_experiment
from vop.errors import AdapterError
from vop.heads import xpool
from vop.heads.mean import Head as Mean
from vop.model.adapter import adapter_of, load_adapter, save_adapter
from vop.model.backbone import Backbone
from vop.model.loss import contrastive_loss
from vop.model.retrieval import RetrievalModel, build_model, shape_of_model
from vop.retriever import Retriever
from vop.scores import heads
from vop.scores.heads import scores_of
from vop.scores.ranks import pair_accuracy, retrieval_ranks, top_k
from vop.scores.rescoring import compare
from vop.testing import HeadContract

MASK = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
ORACLE = {
    "mean": [],
    "xpool": [],
    "xpool-heads": ["head.heads=4"],
    "wti": ["head.cdcr=0.5", "head.cdcr_rest=0.03"],
    "wti-linear": ["head.weights=linear"],
    "wti-none": ["head.weights=none"],
    "seqtransf": ["head.layers=2"],
    "seqlstm": [],
    "seqtransf+wti": ["head.layers=1", "head.weights=deep"],
    "seqlstm+xpool": [],
}
UNSEEN = ("key.bias", "0.bias", "2.bias", "4.bias")


@pytest.mark.parametrize("name", kinds("head"))
class TestHeads(HeadContract):
    """What every head keeps to."""

    unseen = ("head.key.bias", "head.of_tokens.2.bias", "head.of_frames.2.bias")


@pytest.fixture(scope="module", params=TINY)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_clip(request.param, tmp_path_factory.mktemp("configs"))


def made(backbone: Backbone, *overrides: str) -> RetrievalModel:
    experiment = load_experiment({"frames": {"count": 3}}, overrides)
    model = build_model(experiment, dataclasses.replace(backbone, clip=copy.deepcopy(backbone.clip)))
    disturb(model.trainable().values(), 0.2)
    return model


@pytest.mark.parametrize("variant", ORACLE)
def test_agrees_with_the_slow_reference(tiny: Backbone, variant: str) -> None:
    torch.manual_seed(0)
    name = variant.partition("-")[0]
    overrides = [f"head.name={name}", *ORACLE[variant], "text_prompt.length=1", "video_prompt.length=1"]
    model, experiment = made(tiny, *overrides), load_experiment({}, overrides)
    pixels, tokens = random_videos(model, 3), random_captions(model, [4, 0, 2])
    parameters = dict(model.named_parameters())
    normalized = ((pixels / 255 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)).permute(0, 1, 4, 2, 3)
    texts = [oracle.place_embeddings(model.clip, parameters, experiment, ids.tolist()) for ids in tokens]
    videos = []
    for video, mask_F in zip(normalized, MASK, strict=True):
        frames = oracle.frame_embeddings(model.clip, parameters, experiment, video)
        videos.append([frame for frame, real in zip(frames, mask_F, strict=True) if real])
    for stage in (part for part in name.split("+") if part in oracle_heads.STAGES):
        own = oracle_heads.below(parameters, f"stages.{stage}.")
        blocks = getattr(model.stages[stage], "blocks", None)
        videos = [oracle_heads.STAGES[stage](own, experiment.head, frames, blocks) for frames in videos]
    last = name.split("+")[-1]
    interaction = oracle_heads.INTERACTIONS.get(last, oracle_heads.mean)
    own = oracle_heads.below(parameters, "head.")
    slow = torch.stack([torch.stack([interaction(own, experiment.head, text, video) for video in videos]) for text in texts])

    rows = model(pixels, MASK, tokens)
    scores, extra = model.head.scores(*rows), model.head.extra_loss(*rows)
    torch.testing.assert_close(scores.double(), slow, atol=1e-5, rtol=0)
    found, expected = contrastive_loss(scores * 10), contrastive_loss(slow * 10)
    if "head.cdcr=0.5" in overrides:
        assert extra is not None
        slow_extra = oracle_heads.cdcr(own, experiment.head, texts, videos)
        torch.testing.assert_close(extra.double(), slow_extra, rtol=1e-5, atol=1e-6)
        found, expected = found + extra, expected + slow_extra
    trainable = model.trainable()
    gradients = torch.autograd.grad(found, list(trainable.values()))
    for key, gradient, slow_grad in zip(
        trainable, gradients, torch.autograd.grad(expected, list(trainable.values())), strict=True
    ):
        if key.endswith(UNSEEN) and slow_grad.norm() < 1e-6:  # a softmax does not see what is the same for all
            assert gradient.norm() < 1e-5
            continue
        assert slow_grad.norm() > 1e-6, f"{key} has no part in the result"
        assert (gradient - slow_grad).norm() <= 1e-4 * slow_grad.norm(), key


# --- X-Pool -------------------------------------------------------------------------------------------------------


class Plain(xpool.Head):
    """The form with a vector for each pair."""

    plain = True


def pooling(E: int, frames: int, heads: int = 1) -> tuple[xpool.Head, Plain]:
    """A head away from its start, and the same in the plain form; both in double, without dropout."""
    clip = type("Clip", (), {"text_projection": torch.zeros(1, E)})
    head = xpool.Head(xpool.Config(name="xpool", heads=heads, dropout=0), clip, frames)  # type: ignore[arg-type]
    disturb(head.parameters(), 0.05)
    plain = Plain(xpool.Config(name="xpool", heads=heads, dropout=0), clip, frames)  # type: ignore[arg-type]
    plain.load_state_dict(head.state_dict())
    return head.double().eval(), plain.double().eval()


@pytest.mark.parametrize("heads", [1, 4])
def test_collapsed_pooling_is_the_plain_one(heads: int) -> None:
    """Scores to 1e-12 in double, gradients to 1e-10, with frames of padding."""
    torch.manual_seed(0)
    head, plain = pooling(64, 5, heads)
    text, video = torch.randn(7, 1, 64, dtype=torch.float64), torch.randn(9, 5, 64, dtype=torch.float64) + 1
    mask, places = torch.ones(9, 5, dtype=torch.bool), torch.ones(7, 1, dtype=torch.bool)
    mask[0, 1:] = mask[3, 4:] = False
    results = []
    for form in (head, plain):
        inputs = [text.clone().requires_grad_(), video.clone().requires_grad_()]
        scores = form.scores(form.text_rows(inputs[0], places), form.video_rows(inputs[1], mask))
        results.append((scores, torch.autograd.grad((scores * 5).softmax(1).diagonal().sum(), [*form.parameters(), *inputs])))
    (collapsed, gradients), (expected, expected_gradients) = results
    assert expected.std() > 0.05 and (collapsed - expected).abs().max() < 1e-12
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-10, rtol=1e-9)


def test_one_frame_at_the_start_is_the_cosine_with_what_the_norm_leaves() -> None:
    clip = type("Clip", (), {"text_projection": torch.zeros(1, 64)})
    head = xpool.Head(xpool.Config(name="xpool"), clip, 1).eval()  # type: ignore[arg-type]
    text, video = torch.randn(4, 1, 64, dtype=torch.float64), 20 * torch.randn(4, 1, 64, dtype=torch.float64)
    found = head.double().scores(
        head.text_rows(text, text[..., 0] < torch.inf), head.video_rows(video, video[..., 0] < torch.inf)
    )
    expected = F.normalize(text[:, 0], dim=-1) @ F.normalize(video[:, 0] - video[:, 0].mean(-1, keepdim=True), dim=-1).T
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)


# --- the others ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy() -> Callable[..., RetrievalModel]:
    tree = {"backbone": {"name": "ViT-toy", "pretrained": "ViT-toy.safetensors"}, "frames": {"count": 3}}
    return lambda *overrides: build_model(load_experiment(tree, overrides))


def scored(model: RetrievalModel) -> Tensor:
    torch.manual_seed(0)
    with torch.no_grad():
        return model.head.scores(
            *model(random_videos(model, 3), MASK, model.tokenize(["a dog", "two red discs", "a cat sits"]))
        )


def test_frames_through_copied_blocks_are_others_and_through_zeros_the_same(toy: Callable[..., RetrievalModel]) -> None:
    copied = toy("head.name=seqtransf")
    assert torch.equal(
        copied.stages["seqtransf"].blocks[3].mlp.c_fc.weight, copied.clip.transformer.resblocks[3].mlp.c_fc.weight
    )
    assert torch.equal(copied.stages["seqtransf"].position, copied.clip.positional_embedding)
    mean = scored(toy())
    assert (scored(copied) - mean).abs().max() > 1e-3
    torch.testing.assert_close(scored(toy("head.name=seqtransf", "head.init=zero")), mean, atol=1e-6, rtol=0)


def test_a_frame_stage_reads_the_order_and_the_interactions_do_not(toy: Callable[..., RetrievalModel]) -> None:
    pixels = random_videos(toy(), 2)
    for name in kinds("head"):
        model = toy(f"head.name={name}")
        with torch.no_grad():
            text = model.encode_text(model.tokenize(["a dog", "two red discs"]))
            one, other = (model.encode_video(x, torch.ones(2, 3, dtype=torch.bool)) for x in (pixels, pixels.flip(1)))
        first, second = (
            scores_of(text, rows, model.head).at(*torch.cartesian_prod(*[torch.arange(2)] * 2).T) for rows in (one, other)
        )
        assert torch.equal(first, second) == (name in ("mean", "xpool", "wti", "discovla")), name


class Slow(Mean):
    """The default head, as one that has scores of its own."""

    dot = False


def test_metrics_of_a_head_are_those_of_its_scores() -> None:
    """Ranks, the best, pairs and both rescorings, over several tiles, with ties."""
    rng = np.random.default_rng(0)
    text, video, bank = (F.normalize(torch.tensor(rng.integers(-2, 3, (n, 6))) + 0.1, dim=1) for n in (1100, 60, 40))
    owner, head = np.concatenate([np.arange(60), rng.integers(0, 60, 1040)]), Slow(None, None, 3)  # type: ignore[arg-type]
    for slow, fast in zip(retrieval_ranks(text, video, owner, head), retrieval_ranks(text, video, owner), strict=True):
        np.testing.assert_array_equal(slow.rank, fast.rank)
    for one, other in zip(top_k(text, video, 5, head), top_k(text, video, 5), strict=True):
        np.testing.assert_array_equal(one, other)
    opposite = (owner + 1) % 60
    assert pair_accuracy(text, video, owner, opposite, head=head) == pair_accuracy(text, video, owner, opposite)
    found, expected = compare(text, video, owner, bank, head, top=5), compare(text, video, owner, bank, top=5)
    assert found.rescored_metrics() == expected.rescored_metrics()
    np.testing.assert_array_equal(found.best_MK, expected.best_MK)


def test_scores_that_are_no_numbers_are_refused() -> None:
    rows = torch.ones(2, 4)
    with pytest.raises(ValueError, match="not finite: 1 of 2 gallery rows, first row 1"):
        scores_of(rows, rows.clone().index_fill_(0, torch.tensor([1]), torch.nan), Slow(None, None, 3))  # type: ignore[arg-type]


def test_wide_rows_are_looked_at_in_pieces_and_named_by_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = list[int]()
    whole = heads.finite

    def counted(name: str, rows: Tensor, start: int = 0) -> Tensor:
        looked.append(rows.numel())
        return whole(name, rows, start)

    monkeypatch.setattr(heads, "HELD", 8)
    monkeypatch.setattr(heads, "finite", counted)
    rows = torch.randn(7, 3)
    scores_of(rows, rows, Slow(None, None, 3))  # type: ignore[arg-type]
    assert max(looked) <= 8 and sum(looked) == 2 * rows.numel()
    with pytest.raises(ValueError, match="gallery rows, first row 5"):
        scores_of(rows, rows.clone().index_fill_(0, torch.tensor([5]), torch.nan), Slow(None, None, 3))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["xpool", "wti"])
def test_a_retriever_scores_with_the_head(toy: Callable[..., RetrievalModel], name: str) -> None:
    model = toy(f"head.name={name}")
    retriever, texts = Retriever(model, load_experiment({"frames": {"count": 3}})), ["a dog", "two red discs on a wall"]
    with torch.no_grad():
        rows = model.encode_video(random_videos(model, 3), MASK)
        expected = model.head.scores(model.encode_text(model.tokenize(texts)), rows)
    np.testing.assert_allclose(retriever.similarity(texts, rows.numpy()), expected, atol=1e-5)
    assert retriever.embed_texts([]).shape[0] == 0 and retriever.embed_videos([]).shape == (0, rows.shape[1])
    with pytest.raises(ValueError, match=rf"\[\*, {rows.shape[1]}\]"):
        retriever.similarity(texts, np.zeros((1, 3), np.float32))


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["head.name=xpol"], ["head.name", "'xpol'", ", ".join(kinds("head"))]),
        (["head.name=xpool+wti"], ["nothing can follow xpool", "seqlstm, seqtransf"]),
        (["head.name=seqlstm+seqlstm+wti"], ["has seqlstm twice"]),
        (["head.name=seqtransf+"], ["head.name", "''"]),
        (["head.name=xpool", "head.heads=7"], ["head.heads: 7", "512"]),
        (["head.name=xpool", "head.layers=2"], ["head.layers", "heads, dropout"]),
        (["head.name=seqtransf+wti", "head.layers=13"], ["head.layers"]),
        (["head.name=seqtransf", "frames.count=78"], ["frames.count: 78", "77"]),
        (["head.name=wti", "text_prompt.suffix=2"], ["wti", "text_prompt.suffix"]),
    ],
)
def test_what_does_not_fit_is_refused_before_work(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        shape_of_model(load_experiment({}, overrides))
    assert all(word in str(error.value) for word in words), error.value


def test_an_adapter_of_another_head_is_refused(toy: Callable[..., RetrievalModel], tmp_path: Path) -> None:
    tree = {"backbone": {"name": "ViT-toy", "pretrained": "ViT-toy.safetensors"}, "head": {"name": "xpool"}}
    folder = save_adapter(adapter_of(toy("head.name=xpool"), load_experiment(tree)), tmp_path)
    assert load_adapter(folder).experiment.head.name == "xpool"
    card = json.loads((folder / "adapter.json").read_text())
    for head, word in (
        ({"name": "mean"}, "not expected .*head.key.bias"),
        ({"name": "none"}, "there is no 'none'"),
        ({"name": "xpool", "heads": 65}, "head.heads"),
    ):
        (folder / "adapter.json").write_text(json.dumps({**card, "model": {**card["model"], "head": head}}))
        with pytest.raises(AdapterError, match=word):
            load_adapter(folder)


def test_a_chain_has_the_fields_of_its_parts_and_travels() -> None:
    made, again = (load_experiment({}, ["head.name=seqtransf+wti", "head.layers=2", "head.cdcr=0.5"]) for _ in range(2))
    assert made == again == pickle.loads(pickle.dumps(made)) == load_experiment(made.tree())
    assert made.flat()["head.layers"] == 2 and made.flat()["head.cdcr"] == 0.5
