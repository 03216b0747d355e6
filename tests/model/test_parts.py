"""Methods inside the blocks: the slow reference, and what each promises."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support import oracle_discovla, oracle_parts
from tests.support.families import family
from tests.support.tiny import CLIP_MEAN, CLIP_STD, TINY, assert_meets, disturb, random_captions, random_videos, tiny_clip
from vop.config import ConfigError, load_experiment
from vop.model.backbone import Backbone
from vop.model.loss import contrastive_loss
from vop.model.part import Context, Part
from vop.model.retrieval import RetrievalModel, build_model
from vop.model.walkers import text_of, visual_of
from vop.tuning import tempme

SLOW = {**oracle_parts.METHODS, "discovla": (oracle_discovla.text, oracle_discovla.video)}
MASK = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
DGL = ["video_prompt.name=dgl", "video_prompt.length=3", "text_prompt.length=2", "video_prompt.carried=2"]
ORACLE = {
    "tempme": ["tuning.name=tempme"],
    "tempme much": ["tuning.name=tempme", "tuning.merged=1", "tuning.share=0.3", "tuning.joined_share=0.5", "tuning.rank=2"],
    "cross-modal": ["tuning.name=cross-modal"],
    "cross-modal shared": ["tuning.name=cross-modal", "tuning.cross_shared=20", "tuning.cross_width=4"],
    "mv-adapter": ["tuning.name=mv-adapter", "tuning.mv_width=8"],
    "st-adapter": ["tuning.name=st-adapter", "tuning.st_width=6"],
    "ia3": ["tuning.name=ia3"],
    "dgl": DGL,
    "dgl-transformer": ["video_prompt.name=dgl-transformer", *DGL[1:]],
    "discovla": ["tuning.name=discovla"],
    "discovla wide": ["tuning.name=discovla", "tuning.disco_visual=9", "tuning.disco_width=3", "tuning.rank=2"],
}


@pytest.fixture(scope="module", params=TINY)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_clip(request.param, tmp_path_factory.mktemp("configs"))


def made(backbone: Backbone, *overrides: str, frames: int = 3, std: float = 0.2) -> RetrievalModel:
    experiment = load_experiment({"frames": {"count": frames}}, overrides)
    model = build_model(experiment, dataclasses.replace(backbone, clip=copy.deepcopy(backbone.clip)))
    disturb(model.trainable().values(), std)
    return model


def embedded(model: RetrievalModel, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        return model.encode_video(pixels, torch.ones(pixels.shape[:2], dtype=torch.bool))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("variant", ORACLE)
def test_agrees_with_the_slow_reference(tiny: Backbone, variant: str) -> None:
    name, overrides = variant.partition(" ")[0], ORACLE[variant]
    model, experiment = made(tiny, *overrides), load_experiment({}, overrides)
    pixels, tokens = random_videos(model, 2), random_captions(model, [4, 0])
    normalized = ((pixels / 255 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)).permute(0, 1, 4, 2, 3)
    parameters = dict(model.named_parameters())
    of_text, of_video = SLOW[name]
    extra = [JOINS[len(visual_of(tiny.clip).blocks)]] if name == "tempme" else []
    slow_text = torch.stack([of_text(model.clip, parameters, experiment, ids.tolist()) for ids in tokens])
    slow_video = torch.stack(
        [of_video(model.clip, parameters, experiment, *one, *extra) for one in zip(normalized, MASK[:2], strict=True)]
    )
    text, video = model(pixels, MASK[:2], tokens)
    assert_meets(model, (text, video), (slow_text, slow_video))


@pytest.mark.parametrize("name", ["mv-adapter", "st-adapter", "ia3", "tempme", "cross-modal", "discovla"])
def test_where_training_begins(tiny: Backbone, name: str) -> None:
    """At CLIP; but not what merges, nor what starts at random."""
    clip, model = made(tiny, "tuning.name=zero-shot"), made(tiny, f"tuning.name={name}", std=0)
    pixels, tokens = random_videos(clip, 2), random_captions(clip, [5, 0])
    with torch.no_grad():
        both = [one(pixels, MASK[:2], tokens) for one in (model, clip)]
    same = [torch.allclose(a, b, atol=1e-6, rtol=0) for a, b in zip(*both, strict=True)]
    assert same == {"tempme": [True, False], "discovla": [True, False], "cross-modal": [False, False]}.get(name, [True, True])


@pytest.mark.parametrize("variant", [name for name in ORACLE if " " not in name])
def test_which_can_tell_a_clip_from_its_reverse(tiny: Backbone, variant: str) -> None:
    """On time pairs those that cannot are right on half of the pairs."""
    model = made(tiny, *ORACLE[variant])
    pixels = random_videos(model, 2)
    difference = (embedded(model, pixels) - embedded(model, pixels.flip(1))).norm(dim=-1)
    if variant in ("cross-modal", "ia3", "dgl", "discovla"):
        assert difference.max() < 2e-6
    else:
        assert difference.min() > 1e-4


@pytest.mark.parametrize("variant", ORACLE)
def test_a_checkpoint_changes_no_gradient(tiny: Backbone, variant: str) -> None:
    found = []
    for again in ("false", "true"):
        torch.manual_seed(0)
        model = made(tiny, *ORACLE[variant], f"training.checkpointing={again}")
        text, video = model(random_videos(model, 2), MASK[:2], random_captions(model, [4, 0]))
        found.append(torch.autograd.grad(contrastive_loss(text @ video.T * 10), list(model.trainable().values())))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("variant", ORACLE)
def test_in_bf16_it_is_nearly_the_same(tiny: Backbone, variant: str) -> None:
    """But where rounding decides what is merged."""
    model = made(tiny, *ORACLE[variant], std=0.05)
    batch = random_videos(model, 3), MASK, random_captions(model, [4, 0, 2])
    exact = model(*batch)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(*batch)
    contrastive_loss(rounded[0] @ rounded[1].T).backward()
    for one, other in zip(exact, rounded, strict=True):
        assert other.dtype == torch.float32 and other.isfinite().all()
        assert "tempme" in variant or (one * other).sum(-1).min() > 0.99


@pytest.mark.parametrize("variant", ["mv-adapter", "st-adapter", "dgl", "dgl-transformer", "discovla"])
def test_frames_of_padding_are_not_seen(tiny: Backbone, variant: str) -> None:
    model = made(tiny, *ORACLE[variant])
    pixels = random_videos(model, 3)
    other = pixels.clone()
    other[~MASK] = 255 - other[~MASK]
    with torch.no_grad():
        torch.testing.assert_close(model.encode_video(other, MASK), model.encode_video(pixels, MASK), atol=1e-6, rtol=0)


def test_carried_prompts_may_enter_and_go_on_without_others(tiny: Backbone) -> None:
    """In the layers of `depth` frames have prompts; from its first one on the carried ones are there."""
    model = made(tiny, *DGL, "video_prompt.depth=2-3", "tuning.name=prompts+adapter-ffn")
    assert model.frozen_layers == 0
    together = embedded(model, pixels := random_videos(model, 2))
    torch.testing.assert_close(embedded(model, pixels[1:]), together[1:], atol=1e-5, rtol=0)
    model = made(tiny, *DGL, "video_prompt.depth=2-3")
    assert model.frozen_layers == 1
    with torch.no_grad():
        mask = torch.ones(2, 3, dtype=torch.bool)
        assert torch.equal(model.encode_activations(model.activations(pixels), mask), embedded(model, pixels))
        assert not torch.allclose(embedded(model, pixels), together, atol=1e-3)


def test_adapters_go_with_a_split_layer(tiny: Backbone) -> None:
    """Where the frames of a video are in a row."""
    for name in ("mv-adapter", "st-adapter", "cross-modal"):
        model = made(tiny, f"tuning.name=prompts+{name}", "video_encoder.split_layer=2")
        together = embedded(model, pixels := random_videos(model, 2))
        torch.testing.assert_close(embedded(model, pixels[1:]), together[1:], atol=1e-5, rtol=0)


# --- TempMe ---------------------------------------------------------------------------------------------------------

JOINS = {4: [1, 1, 3, 1], 5: [1, 1, 1, 3, 1]}  # of three frames, by depth
LENGTHS = {  # sequences and tokens in attention, tokens after merging: ViT-B/32 and B/16 with 12 frames
    50: [*((12, 50 - 2 * layer, 48 - 2 * layer) for layer in range(8)), (6, 48, 44), (3, 62, 56), (1, 118, 107), (1, 107, 97)],
    197: [
        *((12, 197 - 2 * layer, 195 - 2 * layer) for layer in range(8)),
        *((6, 254, 229), (3, 321, 289), (1, 607, 547), (1, 547, 493)),
    ],
}
NARROW = 16


@pytest.mark.parametrize("tokens", LENGTHS)
def test_tempme_has_the_published_lengths(tokens: int) -> None:
    """Of all rows of the last layer too, though only class tokens are read there."""
    config, joins = tempme.Config(name="tempme"), tempme.joins_of(tempme.Config(name="tempme"), 12, 12)
    assert joins == [*[1] * 8, 2, 2, 3, 1]
    rows, context, found, sequences = torch.randn(12, tokens, NARROW), Context("visual", 12, tokens), [], 12
    order = torch.arange(12.0)[:, None] * torch.ones(NARROW)
    rows[:, 0] = order
    for layer, join in enumerate(joins):
        part = tempme.Merge(config, join, sequences, layer >= 8, NARROW)
        rows, sequences = part.enter(rows, context), sequences // join
        bias_BL = part.key_bias(context)
        assert (bias_BL is None) if layer == 0 else (bias_BL is not None and bias_BL.exp().sum().round() == 12 * tokens)
        length = rows.shape[1]
        rows = part.between(rows, rows.unflatten(-1, (2, -1)).transpose(1, 2), context)
        found.append((len(rows), length, rows.shape[1]))
        assert context.sizes_BL1 is not None and context.sizes_BL1.sum() == 12 * tokens
        assert torch.equal(rows[:, : context.joined].reshape(12, NARROW), order), "class tokens stay, in the order of frames"
    assert found == LENGTHS[tokens]


def test_tempme_multiplies_less() -> None:
    """0.647 of what the blocks of ViT-B/32 do with 12 frames."""
    D = 768

    def products(lengths: list[tuple[int, int, int]]) -> int:
        return sum(n * (4 * D * D * L + 2 * L * L * D + 8 * D * D * after) for n, L, after in lengths)

    assert round(products(LENGTHS[50]) / products([(12, 50, 50)] * 12), 3) == 0.647


@pytest.mark.parametrize(
    ("frames", "most", "found"),
    [
        (12, 3, [2, 2, 3]),
        (4, 3, [2, 2]),
        (1, 3, []),
        (7, 3, [7]),
        (16, 3, [2, 2, 4]),
        (24, 3, [2, 3, 4]),
        (12, 1, [12]),
        (12, 0, []),
    ],
)
def test_tempme_joins_the_factors_of_the_frames(frames: int, most: int, found: list[int]) -> None:
    assert tempme.factors(frames, most) == found


def test_tempme_goes_with_prompts_and_with_adapters_of_single_tokens(tiny: Backbone) -> None:
    for kind in ("shared", "position", "context"):
        model = made(tiny, "tuning.name=prompts+tempme+adapter-ffn", f"video_prompt.name={kind}")
        pixels = random_videos(model, 2)
        together = embedded(model, pixels)
        torch.testing.assert_close(embedded(model, pixels[1:]), together[1:], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["tuning.name=prompts+tempme", "video_encoder.split_layer=2"], "split_layer must be null"),
        (["tuning.name=st-adapter+tempme"], "merges the tokens that another needs frame by frame"),
        (["tuning.name=prompts+tempme", *DGL], "belong to no frame"),
        (["tuning.name=prompts+mv-adapter", *DGL], "belong to no frame"),
        (["tuning.name=prompts+discovla", *DGL], "belong to no frame"),
        (["tuning.name=prompts+discovla", "video_encoder.split_layer=2"], "split_layer must be null"),
        (["tuning.name=prompts+discovla", "text_prompt.suffix=1"], "suffix must be 0"),
        (["tuning.name=discovla+tempme"], "merges the tokens that another needs frame by frame"),
        (["video_encoder.split_layer=2", *DGL], "video_encoder.split_layer"),
        (["tuning.name=cross-modal", "tuning.cross_shared=40"], "tuning.cross_shared: 40: the towers of"),
    ],
)
def test_what_does_not_go_together_is_refused(tiny: Backbone, overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        made(tiny, *overrides)


# --- other towers ---------------------------------------------------------------------------------------------------

NEEDS = {
    "tempme": "reads and rest",
    "dgl": "reads and rest",
    "mv-adapter": "class token",
    "st-adapter": "",
    "ia3": "",
    "cross-modal": "",
    "discovla": "reads and rest",
    "dgl-transformer": "reads and rest",
}
TOWERS = {  # families of towers, and what each has
    "ViT-L-14-CLIPA": "class token",
    "ViT-B-32-SigLIP2-256": "",
    "PE-Core-B-16": "class token",
    "EVA01-g-14": "class token reads and rest",
    "EVA02-B-16": "class token",
    "EVA02-E-14": "class token reads and rest",
    "MobileCLIP-B": "class token reads and rest",
}


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("name", TOWERS)
def test_every_method_runs_in_a_tower_or_refuses_it_by_name(name: str, tmp_path: Path) -> None:
    backbone = family(tmp_path, name)
    tokens = backbone.tokenize(["a dog", "two red cats"], backbone.context_length)
    clip = build_model(load_experiment({"frames": {"count": 2}}, ["tuning.name=zero-shot"]), backbone)
    pixels, mask = random_videos(clip, 2, frames=2), torch.tensor([[True, True], [True, False]])
    for method, needs in NEEDS.items():
        overrides = ORACLE[method] if "dgl" in method else [f"tuning.name={method}"]
        experiment = load_experiment({"frames": {"count": 2}, "backbone": {"name": name}}, overrides)
        if needs not in TOWERS[name]:
            with pytest.raises(ConfigError, match=f"{method}: .*{name}"):
                build_model(experiment, backbone)
            continue
        model = build_model(experiment, backbone)
        if method in ("mv-adapter", "st-adapter", "ia3"):
            for found, expected in zip(model(pixels, mask, tokens), clip(pixels, mask, tokens), strict=True):
                torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        disturb(model.trainable().values(), 0.05)
        text, video = model(pixels, mask, tokens)
        contrastive_loss(text @ video.T * 10).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.trainable().values())
        alone = model.encode_video(pixels[1:], mask[1:])
        torch.testing.assert_close(alone, video[1:], atol=1e-5, rtol=0)


def test_a_kind_of_prompt_may_see_all_tokens(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = made(tiny), []
    prompts, shared = model.video.prompts, type(model.video.prompts).forward

    def forward(index: int, tokens_BFLD: Tensor) -> Tensor:
        seen.append(tuple(tokens_BFLD.shape))
        return shared(prompts, index, tokens_BFLD)

    monkeypatch.setattr(prompts, "forward", forward)
    pixels = random_videos(model, 2)
    before = embedded(model, pixels)
    prompts.sees_tokens = True
    assert torch.equal(embedded(model, pixels), before)
    visual, depth = visual_of(model.clip), len(seen) // 2
    assert set(seen[:depth]) == {(2, 3, visual.width)} and set(seen[depth:]) == {(2, 3, visual.tokens, visual.width)}


# --- parts in general -----------------------------------------------------------------------------------------------


class Watch(Part):
    """Notes the shapes that it is given, and the context."""

    every_row = True

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[object, ...]] = []

    def after_attention(self, read_BRD: Tensor, out_BRD: Tensor, context: Context) -> Tensor:
        self.seen.append((context.tower, context.layer, context.frames, context.mask_BF, tuple(read_BRD.shape)))
        return out_BRD


def test_a_part_that_needs_every_row_gets_them_all_and_changes_nothing(tiny: Backbone) -> None:
    model = made(tiny)
    pixels, tokens = random_videos(model, 3), random_captions(model, [4, 0, 2])
    with torch.no_grad():
        expected = model(pixels, MASK, tokens)
        parts = []
        for tower in (text_of(model.clip), visual_of(model.clip)):
            parts.append(Watch())
            tower.blocks[-1].add_module("watch", parts[-1])
        found = model(pixels, MASK, tokens)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    text, visual = text_of(model.clip), visual_of(model.clip)
    ((tower, layer, frames, mask, shape),) = parts[0].seen
    assert (tower, layer, frames, mask, shape) == ("text", len(text.blocks) - 1, 1, None, (3, tokens.shape[1], text.width))
    ((tower, layer, frames, mask, shape),) = parts[1].seen
    assert (tower, layer, frames, shape) == ("visual", len(visual.blocks) - 1, 3, (9, visual.tokens, visual.width))
    assert mask is MASK


def test_what_lies_below_the_lowest_part_is_reused(tiny: Backbone) -> None:
    model = made(tiny, "tuning.name=zero-shot")
    visual_of(model.clip).blocks[2].add_module("watch", Watch())
    assert model.frozen_layers == 2
    pixels = random_videos(model, 3)
    with torch.no_grad():
        assert torch.equal(model.encode_activations(model.activations(pixels), MASK), model.encode_video(pixels, MASK))
