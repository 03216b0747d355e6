"""The model against method.md: parameter counts, the slow reference of oracle.py, and what must hold of any CLIP."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support import oracle
from tests.support.tiny import (
    CLIP_MEAN,
    CLIP_STD,
    TINY,
    assert_meets,
    disturb,
    random_captions,
    random_videos,
    tiny_clip,
)
from vop.config import BackboneConfig, ConfigError, kinds, load_experiment
from vop.model.backbone import Backbone, load_backbone
from vop.model.block import run_block
from vop.model.retrieval import RetrievalModel, build_model
from vop.testing import TuningContract, VideoPromptContract

SHARED = "video_prompt.name=shared"
POSITION = "video_prompt.name=position"
CONTEXT = "video_prompt.name=context"
CLS = "video_prompt.role=cls"
NO_TEXT, NO_VIDEO = "text_prompt.length=0", "video_prompt.length=0"
ADAPTERS = ["adapter-attn", "adapter-ffn", "lora"]


def split(layer: int) -> str:
    return f"video_encoder.split_layer={layer}"


@pytest.fixture(scope="module", params=TINY)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return tiny_clip(request.param, tmp_path_factory.mktemp("configs"))


def make(backbone: Backbone, *overrides: str, frames: int = 3) -> RetrievalModel:
    return build_model(load_experiment({"frames": {"count": frames}}, overrides), backbone)


def make_prompted(backbone: Backbone, *overrides: str, frames: int = 3) -> RetrievalModel:
    """A model with prompts far from zero, as after a training."""
    model = make(backbone, *overrides, frames=frames)
    disturb(model.trainable().values(), 0.2)
    return model


def embed(model: RetrievalModel, pixels: Tensor, mask: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return model.encode_video(pixels, torch.ones(pixels.shape[:2], dtype=torch.bool) if mask is None else mask)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


# --- parameter counts: those of whole methods are in test_methods.py ------------------------------------------------


@pytest.mark.usefixtures("slow")
def test_context_module_counts(vit_b_32: Backbone) -> None:
    """The parts that method.md gives for VoP^C."""
    prompts = make(vit_b_32, CONTEXT, frames=12).video.prompts
    assert sum(parameter.numel() for parameter in prompts.context.parameters()) == 9_449_472
    assert sum(parameter.numel() for parameter in prompts.project.parameters()) == 4_721_664
    assert prompts.generic.numel() == 12 * 4 * 768


# --- the slow reference -------------------------------------------------------------------------------------------

ORACLE = {
    "vop": [SHARED],
    "vop-short": [SHARED, "text_prompt.length=1", "video_prompt.length=2"],
    "text-only": [NO_VIDEO],
    "video-only": [NO_TEXT],
    "first-layer": ["text_prompt.depth=1-1", "video_prompt.depth=1-1"],
    "not-first-layer": ["text_prompt.depth=2-3", "text_prompt.length=3", "video_prompt.depth=2-3"],
    "last-layer": ["text_prompt.depth=3-3", "video_prompt.depth=4-4"],
    "p": [POSITION],
    "p-specific-only": [POSITION, "video_prompt.length=3", "video_prompt.specific_length=3"],
    "p-depth": [POSITION, "video_prompt.depth=2-4", "video_prompt.specific_length=1"],
    "c": [CONTEXT],
    "c-lstm": [CONTEXT, "video_prompt.module=lstm"],
    "c-transformer": [CONTEXT, "video_prompt.module=transformer", "video_prompt.specific_length=2"],
    "c-depth": [CONTEXT, "video_prompt.depth=2-3", "video_prompt.specific_length=2"],
    "c-cls": [CONTEXT, CLS],
    "c-cls-lstm": [CONTEXT, CLS, "video_prompt.module=lstm", "video_prompt.length=5", "video_prompt.depth=2-4"],
    "c-cls-transformer": [CONTEXT, CLS, "video_prompt.module=transformer"],
    "f": [SHARED, split(2)],
    "f-1": [SHARED, split(1)],
    "f-3-depth": [SHARED, split(3), "video_prompt.depth=2-4"],
    "f-prompts-below": [SHARED, split(2), "video_prompt.depth=1-2"],
    "f-prompts-above": [SHARED, split(2), "video_prompt.depth=4-4"],
    "f-no-prompts": [NO_VIDEO, split(2)],
    "f+p": [POSITION, split(2)],
    "f+p-depth": [POSITION, split(3), "video_prompt.depth=3-4", "video_prompt.specific_length=2"],
    "f+c": [CONTEXT, split(2)],
    "f+c-cls": [CONTEXT, CLS, split(3), "video_prompt.depth=2-4"],
    "vop and lora": [SHARED, "tuning.name=prompts+lora"],
    "f+p and lora and bias": [POSITION, split(2), "tuning.name=prompts+lora+bias", "tuning.rank=2"],
}


@pytest.mark.parametrize("variant", ORACLE)
def test_agrees_with_the_slow_reference(tiny: Backbone, variant: str) -> None:
    model = make_prompted(tiny, *ORACLE[variant])
    pixels, tokens = random_videos(model, 2), random_captions(model, [4, 0])
    mask = torch.tensor([[True, True, True], [True, True, False]])

    normalized = ((pixels / 255 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)).permute(0, 1, 4, 2, 3)
    named, experiment = dict(model.named_parameters()), load_experiment({}, ORACLE[variant])
    slow_text = oracle.text_embeddings(model.clip, named, experiment, tokens)
    slow_video = oracle.video_embeddings(model.clip, named, experiment, normalized, mask)
    text, video = model(pixels, mask, tokens)
    assert_meets(model, (text, video), (slow_text, slow_video))


def test_the_papers_kinds_of_prompt_meet_the_slow_reference() -> None:
    names = {override.removeprefix("video_prompt.name=") for case in ORACLE.values() for override in case}
    assert {"shared", "position", "context"} <= names, "the kinds of the paper"


# --- what must hold of any CLIP -----------------------------------------------------------------------------------


@pytest.mark.parametrize("overrides", [["tuning.name=zero-shot"], [NO_TEXT, NO_VIDEO]], ids=["zero-shot", "length-0"])
def test_without_prompts_it_is_clip(tiny: Backbone, overrides: list[str]) -> None:
    model = make(tiny, *overrides)
    assert not model.trainable()
    pixels, tokens = random_videos(model, 2), random_captions(model, [5, 0])
    with torch.no_grad():
        images = (pixels.flatten(0, 1) / 255 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)
        frames = tiny.clip.encode_image(images.permute(0, 3, 1, 2), normalize=True).unflatten(0, (2, 3))
        torch.testing.assert_close(embed(model, pixels), F.normalize(frames.mean(1), dim=-1), atol=2e-6, rtol=0)
        expected = tiny.clip.encode_text(tokens, normalize=True)
        torch.testing.assert_close(model.encode_text(tokens), expected, atol=2e-6, rtol=0)


def test_split_at_the_last_layer_is_basic_vop(tiny: Backbone) -> None:
    basic = make_prompted(tiny, SHARED)
    split_last = make_prompted(tiny, SHARED, split(len(tiny.clip.visual.transformer.resblocks)))
    pixels = random_videos(basic, 2)
    assert torch.equal(embed(basic, pixels), embed(split_last, pixels))
    assert list(basic.trainable()) == list(split_last.trainable())


def test_basic_vop_cannot_tell_a_clip_from_its_reverse(tiny: Backbone) -> None:
    model = make_prompted(tiny, SHARED)
    pixels = random_videos(model, 2)
    torch.testing.assert_close(embed(model, pixels), embed(model, pixels.flip(1)), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "overrides",
    [
        [POSITION],
        [CONTEXT],
        [CONTEXT, "video_prompt.module=lstm"],
        [CONTEXT, "video_prompt.module=transformer"],
        [CONTEXT, CLS],
        [SHARED, split(2)],
    ],
    ids=["p", "c-bilstm", "c-lstm", "c-transformer", "c-cls", "f"],
)
def test_p_c_and_f_can_tell_a_clip_from_its_reverse(tiny: Backbone, overrides: list[str]) -> None:
    model = make_prompted(tiny, *overrides)
    pixels = random_videos(model, 2)
    difference = (embed(model, pixels) - embed(model, pixels.flip(1))).norm(dim=-1)
    assert difference.min() > 1e-4


def test_padded_frames_do_not_count(tiny: Backbone) -> None:
    model = make_prompted(tiny, SHARED, frames=4)
    pixels = random_videos(model, 2, frames=4)
    mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
    garbage = pixels.clone()
    garbage[0, 2:] = torch.randint(0, 256, garbage[0, 2:].shape, dtype=torch.uint8)
    expected = embed(model, pixels, mask)
    torch.testing.assert_close(embed(model, garbage, mask), expected, atol=1e-6, rtol=0)
    twice = pixels[:1, [0, 1, 0, 1]]  # the average of two frames is that of the two taken twice
    torch.testing.assert_close(embed(model, twice), expected[:1], atol=1e-6, rtol=0)
    torch.testing.assert_close(embed(model, pixels)[1], expected[1], atol=1e-6, rtol=0)
    assert (embed(model, pixels)[0] - expected[0]).norm() > 1e-3


def test_another_number_of_frames_is_refused(tiny: Backbone) -> None:
    model = make_prompted(tiny, POSITION, frames=4)
    with pytest.raises(ValueError, match="built for 4 frames a video, these have 8"):
        embed(model, random_videos(model, 1, frames=8))


@pytest.mark.parametrize("module", ["bilstm", "lstm", "transformer"])
def test_context_runs_in_bf16(tiny: Backbone, module: str) -> None:
    model = make_prompted(tiny, CONTEXT, f"video_prompt.module={module}", frames=3)
    pixels = random_videos(model, 2, frames=3)
    expected = embed(model, pixels)
    with torch.autocast("cpu", torch.bfloat16):
        found = embed(model, pixels)
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0)


def test_context_may_begin_smaller(tiny: Backbone) -> None:
    """Of the layer behind the module alone, and by one start: nothing else is drawn otherwise."""
    starts = []
    for scale in (1.0, 0.1):
        torch.manual_seed(0)
        starts.append(make(tiny, CONTEXT, f"video_prompt.init_scale={scale}", frames=3).video.prompts)
    large, small = (dict(prompts.named_parameters()) for prompts in starts)
    for name, parameter in large.items():
        torch.testing.assert_close(small[name], parameter * 0.1 if name.startswith("project.") else parameter)


def test_a_caption_does_not_depend_on_the_rest_of_the_batch(tiny: Backbone) -> None:
    model = make_prompted(tiny)
    tokens = random_captions(model, [3, 0, 5])
    together = model.encode_text(tokens)
    for row, caption in zip(together, tokens, strict=True):
        torch.testing.assert_close(model.encode_text(caption[None])[0], row, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("overrides", "room"), [([], 77 - 8), (["text_prompt.depth=2-12"], 77), ([NO_TEXT], 77)])
def test_captions_are_cut_to_what_the_context_leaves(vit_b_32: Backbone, overrides: list[str], room: int) -> None:
    model = build_model(load_experiment({}, overrides), vit_b_32)
    short, fits, long = model.tokenize(["a dog", "dog " * (room - 2), "dog " * 100])
    assert len(long) == room
    assert short.tolist() == [49406, 320, 1929, 49407] + [0] * (room - 4)
    assert fits[-1] == long[-1] == 49407 and torch.equal(fits, long)
    with torch.no_grad():
        assert model.encode_text(torch.stack([short, long])).isfinite().all()


# --- kinds of prompts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", kinds("video_prompt"))
class TestEveryKindOfPrompt(VideoPromptContract):
    """Each file of `vop/prompts/`, and each that is installed beside it."""


# --- tuning protocols ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", kinds("tuning"))
class TestEveryProtocol(TuningContract):
    """Each file of `vop/tuning/`, and each that is installed beside it."""


def test_partial_trains_the_last_layers(tiny: Backbone) -> None:
    text, visual = len(tiny.clip.transformer.resblocks), len(tiny.clip.visual.transformer.resblocks)
    last = (f"clip.transformer.resblocks.{text - 1}.", f"clip.visual.transformer.resblocks.{visual - 1}.")
    assert all(name.startswith(last) for name in make(tiny, "tuning.name=partial").trainable())


def test_protocols_are_combined(vit_b_32: Backbone, tiny: Backbone) -> None:
    """Each trains what it trains alone, in the order of their names; a parameter belongs to the first that trains it."""
    both = build_model(load_experiment({}, ["tuning.name=[prompts, lora]"]), vit_b_32)
    assert {name: sum(p.numel() for p in part) for name, part in both.tuned.items()} == {"prompts": 122_880, "lora": 491_520}
    three = make(tiny, "tuning.name=bias+adapter-ffn+lora")
    alone = [set(make(tiny, f"tuning.name={name}").trainable()) for name in ("bias", "adapter-ffn", "lora")]
    assert set(three.trainable()) == set.union(*alone)
    assert sum(map(len, three.tuned.values())) == len(three.trainable())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tuning.name=lora+lora"], "has lora twice"),
        (["tuning.name=prompts+zero-shot"], "zero-shot trains nothing"),
        (["tuning.name=prompts+nothing"], "there is no 'nothing'"),
        (["tuning.name=lora+bias", "video_prompt.length=4"], "has no prompts"),
        (["tuning.name=prompts+lora", "tuning.bottleneck=4"], "bottleneck"),
    ],
)
def test_combinations_that_mean_nothing_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_experiment({}, words)


@pytest.mark.parametrize("name", kinds("tuning"))
def test_only_full_trains_the_scale(tiny: Backbone, name: str) -> None:
    assert ("clip.logit_scale" in make(tiny, f"tuning.name={name}").trainable()) == (name == "full")


def test_full_trains_the_scale_at_the_value_of_openai(tiny: Backbone) -> None:
    model = make(tiny, "tuning.name=full")
    model.clip.logit_scale.data.fill_(math.log(100))
    model.scale.backward()
    torch.testing.assert_close(model.clip.logit_scale.grad, torch.tensor(100.0))


def test_a_build_freezes_what_the_one_before_trained(tiny: Backbone) -> None:
    clip = dataclasses.replace(tiny, clip=copy.deepcopy(tiny.clip))
    assert build_model(load_experiment({}, ["tuning.name=full"]), clip).trainable()
    assert not build_model(load_experiment({}, ["tuning.name=zero-shot"]), clip).trainable()


@pytest.mark.parametrize("name", ["prompts", *ADAPTERS])
def test_another_seed_gives_other_weights(tiny: Backbone, name: str) -> None:
    first, other = (make(tiny, f"tuning.name={name}", f"seed={seed}") for seed in (1, 2))
    assert any(not torch.equal(p, other.trainable()[key]) for key, p in first.trainable().items())


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_start_at_clip(tiny: Backbone, name: str) -> None:
    clip, model = make(tiny, "tuning.name=zero-shot"), make(tiny, f"tuning.name={name}")
    pixels, tokens = random_videos(clip, 2), random_captions(clip, [5, 0])
    mask = torch.ones(pixels.shape[:2], dtype=torch.bool)
    for found, expected in zip(model(pixels, mask, tokens), clip(pixels, mask, tokens), strict=True):
        # Layers that are trained and layers that are frozen may be computed by different libraries (`vop/model/frozen.py`).
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert set(clip.clip.state_dict()) <= set(model.clip.state_dict()) or name == "lora"
    disturb(model.trainable().values())
    assert (embed(model, pixels) - embed(clip, pixels)).norm(dim=-1).min() > 1e-3
    assert (model.encode_text(tokens) - clip.encode_text(tokens)).norm(dim=-1).min() > 1e-3


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("tower", ["text", "visual"])
def test_an_adapted_block(tiny: Backbone, name: str, tower: str) -> None:
    """Each layer, against its formula written with open_clip's own attention."""
    model = make(tiny, f"tuning.name={name}")
    disturb(model.trainable().values())
    originals = (tiny.clip if tower == "text" else tiny.clip.visual).transformer.resblocks
    adapted = (model.clip if tower == "text" else model.clip.visual).transformer.resblocks
    with torch.no_grad():
        for original, block in zip(originals, adapted, strict=True):
            original = copy.deepcopy(original)
            tokens = torch.randn(2, 7, original.attn.embed_dim)
            if name == "lora":
                change, D = block.attn.parametrizations.in_proj_weight[0], original.attn.embed_dim
                assert change.down.shape == (2, 8, D)
                original.attn.in_proj_weight[:D] += 16 / 8 * change.up[0] @ change.down[0]
                original.attn.in_proj_weight[2 * D :] += 16 / 8 * change.up[1] @ change.down[1]
            beside_attention = block.attn.parallel if name == "adapter-attn" else torch.zeros_like
            beside_mlp = block.mlp.parallel if name == "adapter-ffn" else torch.zeros_like
            normed = original.ln_1(tokens)
            expected = tokens + original.attention(normed) + beside_attention(normed)
            normed = original.ln_2(expected)
            expected = expected + original.mlp(normed) + beside_mlp(normed)
            torch.testing.assert_close(run_block(block, tokens), expected, atol=1e-5, rtol=1e-5)
            some = run_block(block, tokens, rows=slice(1, 3))
            torch.testing.assert_close(some, expected[:, 1:3], atol=1e-5, rtol=1e-5)


# --- backbones and settings ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16", "ViT-L-14"])
def test_clips_of_open_clip_build_and_embed(name: str) -> None:
    overrides = [f"backbone.name={name}", "backbone.pretrained=random", "frames.count=1"]
    model = build_model(load_experiment({}, overrides))
    with torch.no_grad():
        text, video = model(random_videos(model, 1, frames=1), torch.ones(1, 1), model.tokenize(["a dog runs"]))
    width = model.clip.text_projection.shape[1]
    assert text.shape == video.shape == (1, width)
    torch.testing.assert_close(torch.cat([text, video]).norm(dim=-1), torch.ones(2))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["video_prompt.lenght=4"], ["video_prompt.lenght", "valid keys at video_prompt", "length", "depth"]),
        ([POSITION, "video_prompt.specific=4"], ["video_prompt.specific:", "specific_length"]),
        (["tuning.name=lora", "tuning.rnk=4"], ["tuning.rnk", "valid keys at tuning", "rank", "alpha"]),
        (["video_prompt.name=sharde"], ["video_prompt.name", "'sharde'", ", ".join(kinds("video_prompt"))]),
        (["tuning.name=adapter"], ["tuning.name", "'adapter'", f": {', '.join(kinds('tuning'))}"]),
        (["tuning.name=adapter-ffn", "tuning.bottleneck=0"], ["tuning.bottleneck"]),
        (["tuning.name=full", "text_prompt.length=4"], ["tuning.name=full", "text_prompt"]),
        ([POSITION, "video_prompt.specific_length=9"], ["video_prompt", "specific_length 9", "length 8"]),
        ([split(6)], ["video_encoder.split_layer", "6"]),
        (["text_prompt.depth=2-9"], ["text_prompt.depth", "2-9"]),
        (["video_prompt.depth=3-2"], ["video_prompt.depth", "3-2"]),
    ],
)
def test_a_wrong_setting_is_named(tiny: Backbone, overrides: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        make(tiny, *overrides)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"name": "ViT-B-3"}, ["backbone.name", "'ViT-B-3'", "ViT-B-32"]),
        ({"name": "RN50", "pretrained": "random"}, ["backbone.name", "RN50"]),
        ({"name": "ViT-B-32", "pretrained": "opnai"}, ["backbone.pretrained", "'opnai'", "openai"]),
    ],
)
def test_a_wrong_backbone_is_named(config: dict[str, str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        load_backbone(BackboneConfig(**config))
    for word in words:
        assert word in str(error.value)
