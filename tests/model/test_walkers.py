"""Each family of CLIPs is walked as its own encoders compute; what is not is refused by name, before anything is fetched."""

from __future__ import annotations

import dataclasses
import re
import socket
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

import open_clip
import pytest
import torch
from torch import Tensor

from tests.support.families import FAMILIES, VOCABULARY, as_open_clip, config_of, disturb, family
from vop.config import BackboneConfig, ConfigError, load_experiment
from vop.model import check, walkers
from vop.model.backbone import Backbone, hash_weights, load_backbone, load_tokenizer, shape_of_backbone
from vop.model.loss import contrastive_loss
from vop.model.retrieval import RetrievalModel, build_model
from vop.model.walkers import text_of, visual_of

CAPTIONS = ["a dog", "two red cats run over the wet grass", "snow"]
FILES = sorted(file.stem for file in Path(walkers.__file__).parent.glob("[a-z]*.py"))


@pytest.fixture(scope="module", params=FAMILIES)
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return family(tmp_path_factory.mktemp("configs"), request.param)


def make(backbone: Backbone, *overrides: str) -> RetrievalModel:
    return build_model(load_experiment({"frames": {"count": 2}}, overrides), backbone)


def videos(model: RetrievalModel) -> tuple[Tensor, Tensor]:
    size, generator = model.backbone.size, torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 2, size, size, 3), dtype=torch.uint8, generator=generator)
    return pixels, torch.ones(3, 2, dtype=torch.bool)


def frames_of(model: RetrievalModel) -> tuple[Tensor, Tensor]:
    """The frames' embeddings [N, E] as walked, and as the model's own encoder gives them."""
    pixels = videos(model)[0].flatten(0, 1).float()
    pixels_NCHW = ((pixels - model.mean_C) / model.std_C).permute(0, 3, 1, 2)
    return model.video(model.clip, pixels_NCHW, 2).flatten(0, 1), model.clip.encode_image(pixels_NCHW)


def close(a: Tensor, b: Tensor, most: float = 1e-5) -> bool:
    return bool((a - b).abs().max() <= most * b.abs().max())


# --- equal to the model's own encoders ------------------------------------------------------------------------------


@torch.no_grad()
def test_without_prompts_it_computes_what_the_model_does(backbone: Backbone) -> None:
    model = make(backbone, "text_prompt.length=0", "video_prompt.length=0")
    assert close(*frames_of(model))
    tokens = model.tokenize(CAPTIONS)
    assert close(model.text(model.clip, tokens)[:, 0], model.clip.encode_text(tokens))


@torch.no_grad()
def test_prompts_are_seen(backbone: Backbone) -> None:
    plain, model = make(backbone, "text_prompt.length=0", "video_prompt.length=0"), make(backbone)
    disturb(model.text, 0.5)
    disturb(model.video, 0.5)
    tokens = plain.tokenize(CAPTIONS)[:, : model.backbone.context_length - model.text.shift]
    assert not close(model.text(model.clip, tokens), plain.text(plain.clip, tokens), 1e-3)
    assert not close(frames_of(model)[0], frames_of(plain)[0], 1e-3)


@torch.no_grad()
def test_prompts_are_tokens_like_others_that_have_no_place_in_the_picture(backbone: Backbone) -> None:
    """A block's own forward, with prompts behind the class token: what it makes of the others."""
    visual = visual_of(backbone.clip)
    pixels_NCHW = torch.randn(2, 3, backbone.size, backbone.size, generator=torch.Generator().manual_seed(0))
    tokens, first = visual.enter(visual.embed(pixels_NCHW)), int(visual.class_token)
    prompts = torch.randn(1, 5, visual.width, generator=torch.Generator().manual_seed(1))
    whole = torch.cat([tokens[:, :first], prompts.expand(2, -1, -1), tokens[:, first:]], dim=1)
    rope = getattr(visual.tower, "rope", None)
    for block in visual.blocks:
        if rope is None:
            own = block(whole)
        else:
            with patch.object(block.attn, "num_prefix_tokens", first + 5):
                own = block(whole, rope=rope.get_embed())
        expected = torch.cat([own[:, :first], own[:, first + 5 :]], dim=1)
        assert close(visual.run(block, tokens, prompts), expected)
        assert not close(visual.run(block, tokens), expected, 1e-3)
        assert close(visual.run(block, tokens, prompts, rows=slice(0, None, 3)), expected[:, ::3])


@torch.no_grad()
def test_frames_in_one_sequence_have_the_same_places(backbone: Backbone) -> None:
    """Keys that are there twice change nothing: two equal frames are as one."""
    visual = visual_of(backbone.clip)
    pixels_NCHW = torch.randn(2, 3, backbone.size, backbone.size, generator=torch.Generator().manual_seed(0))
    tokens = visual.enter(visual.embed(pixels_NCHW))
    for block in visual.blocks:
        alone = visual.run(block, tokens)
        assert close(visual.run(block, torch.cat([tokens, tokens], dim=1)), torch.cat([alone, alone], dim=1))


@torch.no_grad()
def test_in_bf16_it_is_nearly_the_same(backbone: Backbone) -> None:
    model = make(backbone)
    tokens, (pixels, mask) = model.tokenize(CAPTIONS), videos(model)
    exact = model(pixels, mask, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(pixels, mask, tokens)
    for one, other in zip(exact, rounded, strict=True):
        assert one.dtype == other.dtype == torch.float32 and (one * other).sum(-1).min() > 0.995


@torch.no_grad()
def test_the_walk_does_not_depend_on_the_training_mode(backbone: Backbone) -> None:
    """MobileCLIP2-L-14 leaves out layers at random in training; a frozen tower must not."""
    model = make(backbone, "video_prompt.length=0", "text_prompt.length=0")
    own = frames_of(model)[1]
    visual = visual_of(model.clip)
    for block in visual.blocks:
        block.train()
    walked = frames_of(model)[0]
    for block in visual.blocks:
        block.eval()
    assert close(walked, own)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["video_prompt.name=context"],
        ["video_encoder.split_layer=1"],
        ["tuning.name=lora"],
        ["tuning.name=adapter-ffn"],
        ["tuning.name=full"],
        ["head.name=xpool"],
        ["head.name=seqtransf+wti", "head.layers=1"],
        ["training.checkpointing=true"],
    ],
    ids=lambda overrides: " ".join(overrides) or "VoP",
)
def test_it_is_trained(backbone: Backbone, overrides: list[str]) -> None:
    model = make(backbone, *overrides)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.Adam(model.trainable().values(), lr=1e-3)
    for _ in range(2):
        text, video = model(*videos(model), model.tokenize(CAPTIONS))
        contrastive_loss(model.scale * model.head.scores(text, video)).backward()
        optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    trained = set(model.trainable())
    assert changed <= trained
    # The biases of keys cancel in a softmax: with full tuning they may stay.
    assert trained - changed <= {name for name in trained if "bias" in name}


@torch.no_grad()
def test_what_is_reused_is_equal(backbone: Backbone) -> None:
    """The layers below the first prompt, computed once."""
    model = make(backbone, "video_prompt.depth=2-2")
    pixels, mask = videos(model)
    activations = model.activations(pixels)
    assert model.frozen_layers == 1 and activations.shape[2:] == (visual_of(model.clip).tokens, visual_of(model.clip).width)
    assert torch.equal(model.encode_activations(activations, mask), model.encode_video(pixels, mask))


# --- captions -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_caption_is_cut_only_where_that_changes_nothing(backbone: Backbone) -> None:
    model = make(backbone)
    disturb(model.text, 0.2)
    text, tokens = text_of(model.clip), model.tokenize(CAPTIONS)
    assert tokens.shape[1] == model.backbone.context_length - model.text.shift
    assert model.text.shift == (8 if text.causal else 0)
    whole, short = model.text(model.clip, tokens), model.text(model.clip, tokens[:, :12])
    assert torch.equal(whole, short) if text.causal else not close(short, whole, 1e-2)
    alone = torch.cat([model.text(model.clip, tokens[row : row + 1]) for row in range(len(tokens))])
    assert close(alone, whole), "and a text does not depend on the others of its batch"


def test_a_text_without_the_end_token_that_is_read_is_refused(tmp_path: Path) -> None:
    backbone = family(tmp_path, "ViT-H-14-worldwide-quickgelu")
    endless = dataclasses.replace(backbone, tokenizer=lambda texts, context_length: torch.full((1, context_length), 7))
    with pytest.raises(ConfigError, match="otherwise than with the token 2"):
        endless.tokenize(["a dog"], 77)


# --- without a class token ------------------------------------------------------------------------------------------


def test_what_has_no_class_token_cannot_have_it_replaced(backbone: Backbone) -> None:
    role = ["video_prompt.name=context", "video_prompt.role=cls"]
    if visual_of(backbone.clip).class_token:
        make(backbone, *role)
    else:
        with pytest.raises(ConfigError, match=r"video_prompt\.role: cls: .*no class token"):
            make(backbone, *role)


def test_an_identity_tells_towers_apart(tmp_path: Path) -> None:
    plain, other = family(tmp_path, "ViT-B-32"), family(tmp_path, "ViT-L-14-CLIPA")
    assert "towers" not in plain.identity and other.identity["towers"]


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection is an error that no caller expects."""

    def refused(*args: object, **kwargs: object) -> NoReturn:
        raise AssertionError("something is being fetched")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(open_clip.factory, "download_pretrained", refused)


@pytest.mark.parametrize(
    ("name", "tag", "words"),
    [
        ("RN50", "openai", "its visual tower is a ResNet"),
        ("convnext_base", "laion400m_s13b_b51k", "its visual tower is ConvNeXt"),
        ("MobileCLIP-S1", "datacompdr", "its visual tower is FastVit"),
        ("roberta-ViT-B-32", "laion2b_s12b_b32k", "its text tower is roberta-base of Transformers"),
        ("nllb-clip-base-siglip", "v1", "of Transformers"),
        ("coca_ViT-B-32", "laion2b_s13b_b90k", "other parts than a text tower and a visual one"),
    ],
)
def test_what_cannot_be_walked_is_refused_before_anything_is_fetched(offline: None, name: str, tag: str, words: str) -> None:
    assert tag in open_clip.list_pretrained_tags_by_model(name)
    for load in (load_backbone, shape_of_backbone):
        with pytest.raises(ConfigError, match=rf"{name} is not a ViT CLIP .*{words}"):
            load(BackboneConfig(name=name, pretrained=tag))


VISION, TEXT = "vision_cfg", "text_cfg"
WALKED: list[tuple[str, dict[str, Any]]] = [
    *((VISION, extra) for extra in ({"qk_norm": True}, {"scale_fc": True}, {"scale_attn": True}, {"scale_attn_inner": True})),
    *((VISION, extra) for extra in ({"no_ln_pre": True}, {"ls_init_value": 0.1}, {"patch_dropout": 0.5})),
    *((VISION, extra) for extra in ({"pos_embed_type": "sin_cos_2d"}, {"pool_type": "avg", "final_ln_after_pool": True})),
    *((VISION, extra) for extra in ({"pool_type": "avg"}, {"norm_kwargs": {"eps": 1e-3}})),
    *((TEXT, extra) for extra in ({"qk_norm": True}, {"scale_attn": True}, {"proj_type": "none"}, {"proj_bias": True})),
    *((TEXT, extra) for extra in ({"no_causal_mask": True}, {"no_causal_mask": True, "pool_type": "last"})),
    (TEXT, {"act_kwargs": {"approximate": "tanh"}}),
]
REFUSED: list[tuple[str, dict[str, Any]]] = [
    *((VISION, extra) for extra in ({"scale_heads": True}, {"scaled_cosine_attn": True}, {"attentional_pool": True})),
    *((VISION, extra) for extra in ({"pool_type": "none"}, {"pool_type": "max"}, {"layers": [2, 2, 2, 2]})),
    *((TEXT, extra) for extra in ({"pool_type": "last"}, {"pool_type": "first"}, {"embed_cls": True}, {"mlp_ratio": "four"})),
]


@pytest.mark.parametrize(("tower", "extra"), WALKED, ids=str)
def test_a_tower_that_computes_more_is_walked_exactly(tmp_path: Path, tower: str, extra: dict[str, Any]) -> None:
    config = config_of("ViT-B-32", **{tower: extra})
    config["embed_dim"] = 64 if "proj_type" in extra else 48
    with as_open_clip(tmp_path, "ViT-B-32", config) as wanted:
        backbone = load_backbone(wanted)
    disturb(backbone.clip)
    test_without_prompts_it_computes_what_the_model_does(backbone)


@pytest.mark.parametrize(("tower", "extra"), REFUSED, ids=str)
def test_a_tower_that_is_not_known_is_refused_by_name(tmp_path: Path, tower: str, extra: dict[str, Any]) -> None:
    with as_open_clip(tmp_path, "ViT-B-32", config_of("ViT-B-32", **{tower: extra})) as wanted:
        for load in (load_backbone, shape_of_backbone):
            with pytest.raises(ConfigError, match=r"backbone\.name: .*small-ViT-B-32"):
                load(wanted)


def test_what_the_walk_does_not_know_is_noticed_at_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its structure is as known; its own forward computes more."""
    with as_open_clip(tmp_path, "ViT-B-32", config_of("ViT-B-32")) as wanted:
        for tower in ("text", "visual"):
            clip = open_clip.create_model(wanted.name)
            blocks = (text_of(clip) if tower == "text" else visual_of(clip)).blocks
            blocks[1].register_forward_hook(lambda block, args, out: out + 0.01 * out.roll(1, -1))
            monkeypatch.setattr("vop.model.backbone.with_weights", lambda config, clip=clip: clip)
            with pytest.raises(ConfigError, match=rf"small-ViT-B-32's {tower} tower compute something that is not known"):
                load_backbone(wanted)


def test_random_texts_of_the_check_end_where_they_are_read(backbone: Backbone) -> None:
    tokens = check.random_tokens(backbone.clip, torch.Generator().manual_seed(0))
    T, text = tokens.shape[1], text_of(backbone.clip)
    assert text.end(tokens).tolist() == ([T - 1, T - 1] if text.pool == "last" else [T // 3, T - 1])
    assert tokens.max() < VOCABULARY


@pytest.mark.parametrize("eos", [1, 2, VOCABULARY - 1])
def test_any_token_may_end_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eos: int) -> None:
    clip = family(tmp_path, next(name for name in FAMILIES if "worldwide" in name)).clip
    monkeypatch.setattr(clip, "text_eos_id", eos)
    tokens = check.random_tokens(clip, torch.Generator().manual_seed(0))
    assert text_of(clip).end(tokens).tolist() == [tokens.shape[1] // 3, tokens.shape[1] - 1]


# --- files and tags -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "ViT-H-14-worldwide"])
def test_a_tokenizer_that_is_not_here_says_what_it_needs(offline: None, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} reads texts with a tokenizer of Transformers|could not be downloaded"):
        load_tokenizer(BackboneConfig(name=name))


def test_a_checkpoint_of_transformers_is_named(tmp_path: Path) -> None:
    torch.save({"vision_model.embeddings.class_embedding": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text("{}")
    for place in (tmp_path, tmp_path / "pytorch_model.bin"):
        with pytest.raises(ConfigError, match=rf"{re.escape(str(place))} is a checkpoint of Transformers") as raised:
            load_backbone(BackboneConfig(name="ViT-toy", pretrained=str(place)))
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["ViT-B-32-SigLIP2-256", "EVA02-B-16", "MobileCLIP-B", "ViT-L-14-CLIPA"])
def test_weights_of_a_file(tmp_path: Path, name: str) -> None:
    own = family(tmp_path, name)
    torch.save(own.clip.state_dict(), tmp_path / "weights.pt")
    with as_open_clip(tmp_path, name, config_of(name)) as config:
        loaded = load_backbone(config.model_copy(update={"pretrained": str(tmp_path / "weights.pt")}))
    assert loaded.weights == hash_weights(own.clip) != own.weights, "which was of before they were disturbed"


@pytest.mark.parametrize("stem", FILES)
def test_a_walker_is_one_file(stem: str) -> None:
    module = import_module(f"vop.model.walkers.{stem}")
    assert module.__doc__ and module.Walker.__doc__ and module.Walker.towers
    assert all(walkers.walkers()[tower] is module.Walker for tower in module.Walker.towers)


def test_every_walker_is_tried(tmp_path: Path) -> None:
    used = Counter[type]()
    for name in FAMILIES:
        with as_open_clip(tmp_path, name, config_of(name)) as config:
            clip = shape_of_backbone(config).clip
            used.update([type(text_of(clip)), type(visual_of(clip))])
    assert used.keys() == set(walkers.walkers().values())


@pytest.mark.usefixtures("slow")
def test_most_of_open_clips_weights_are_walked(offline: None) -> None:
    walked = refused = 0
    for name in open_clip.list_models():
        if tags := open_clip.list_pretrained_tags_by_model(name):
            try:
                shape_of_backbone(BackboneConfig(name=name, pretrained=tags[0]))
                walked += len(tags)
            except ConfigError as error:
                assert name in str(error) and "\n" not in str(error)
                refused += len(tags)
    assert walked >= 142 and walked + refused >= 196
