"""The converter of the authors' release, against a slow walk of the release's own data flow."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from pipelines.cli import app
from tests.support import oracle
from vop.config import BackboneConfig, ConfigError, load_experiment
from vop.model.adapter import Adapter, load_adapter, model_of
from vop.model.backbone import Backbone, load_backbone
from vop.model.loss import contrastive_loss
from vop.model.retrieval import RetrievalModel
from vop.paper.release import TEXT, VISUAL, ReleaseError, convert

NAME, CONTEXT, START, END = "tiny-released", 24, 98, 99
TINY = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 48, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": CONTEXT, "vocab_size": 100, "width": 32, "heads": 2, "layers": 4},
}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
LAYOUTS = [(4, 4), (8, 0), (0, 3), (2, 5)]
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """A random CLIP away from its first values, in a file as a user has it."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / f"{NAME}.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder / f"{NAME}.json")
    clip = load_backbone(BackboneConfig(name=NAME, pretrained="random")).clip
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in clip.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.1
    torch.save(clip.state_dict(), folder / "weights.pt")
    return load_backbone(BackboneConfig(name=NAME, pretrained=str(folder / "weights.pt")))


@pytest.fixture(scope="module")
def overrides(tiny: Backbone, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    weights = tmp_path_factory.mktemp("weights") / "weights.pt"
    torch.save(tiny.clip.state_dict(), weights)
    return [f"backbone.name={NAME}", f"backbone.pretrained={weights}", "frames.count=3"]


def released(clip: Any, prompts: int = 8) -> State:
    """A state of the release's format: two sets of prompts, CLIP, and parts of it again under its encoders' names."""
    state = clip.state_dict()
    text, visual = clip.transformer.resblocks, clip.visual.transformer.resblocks
    generator = torch.Generator().manual_seed(2)
    image = {k.removeprefix("visual."): v for k, v in state.items() if k.startswith("visual.")}
    words = {k: v for k, v in state.items() if not k.startswith("visual.") and k != "logit_scale"}
    return {
        **{f"clip.{key}": value for key, value in state.items()},
        VISUAL: torch.randn(len(visual), 1, 5, visual[0].attn.embed_dim, generator=generator),
        **{f"image_encoder.{key}": value for key, value in image.items()},
        TEXT: torch.randn(len(text), prompts, text[0].attn.embed_dim, generator=generator),
        **{f"text_encoder.{key}": value for key, value in words.items()},
    }


def written(state: State, folder: Path) -> Path:
    path = folder / "VoP_msrvtt9k.pth"
    torch.save({"state_dict": state}, path)
    return path


# --- the release's data flow, token by token ----------------------------------------------------------------------


def release_text(clip: Any, prompts_LPD: Tensor, prefix: int, suffix: int, ids: list[int]) -> Tensor:
    """[E] of one caption: all places of the context, every prompt an ordinary token."""
    context = len(clip.positional_embedding)
    ids = (ids + [0] * context)[: context - prefix - suffix]
    tokens = [clip.token_embedding.weight[i].double() for i in ids]
    for layer, block in enumerate(clip.transformer.resblocks):
        prompts = list(prompts_LPD[layer].double())
        tokens = [tokens[0], *prompts[:prefix], *tokens[1:-1], *prompts[prefix:], tokens[-1]]
        assert len(tokens) == context
        if layer == 0:
            tokens = [token + clip.positional_embedding[place].double() for place, token in enumerate(tokens)]
        whole = tokens = oracle.transformer_layer(block, tokens, causal=True)
        tokens = [tokens[0], *tokens[1 + prefix : context - 1 - suffix], tokens[-1]]
    read = whole[ids.index(max(ids)) + prefix + suffix]
    return oracle.unit(oracle.layer_norm(clip.ln_final, read) @ clip.text_projection.double())


def release_video(clip: Any, prompts_L1PD: Tensor, pixels_FCHW: Tensor) -> Tensor:
    """[E] of one video: the average of its unit frame embeddings, not normalized again."""
    visual, frames = clip.visual, []
    for pixels_CHW in pixels_FCHW:
        tokens = oracle.patch_tokens(visual, pixels_CHW)
        for layer, block in enumerate(visual.transformer.resblocks):
            prompts = list(prompts_L1PD[layer, 0].double())
            tokens = [tokens[0], *prompts, *tokens[1:]]
            if layer == 0:
                tokens = [oracle.layer_norm(visual.ln_pre, token) for token in tokens]
            tokens = oracle.transformer_layer(block, tokens)
            tokens = [tokens[0], *tokens[1 + len(prompts) :]]
        frames.append(oracle.unit(oracle.layer_norm(visual.ln_post, tokens[0]) @ visual.proj.double()))
    return torch.stack(frames).mean(0)


def caption(length: int) -> list[int]:
    """So many token ids, both ends included."""
    return [START, *torch.randint(1, START, (length - 2,)).tolist(), END]


def batch(captions: list[list[int]], room: int) -> Tensor:
    return torch.tensor([ids + [0] * (room - len(ids)) for ids in captions])


# --- the same embeddings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prefix", "suffix"), LAYOUTS)
def test_text_is_the_releases_at_every_length(
    tiny: Backbone, overrides: list[str], tmp_path: Path, prefix: int, suffix: int
) -> None:
    """Among them captions whose read place is padding, a suffix prompt, and the last place."""
    torch.manual_seed(0)
    state = released(tiny.clip, prefix + suffix)
    model = model_of(convert(written(state, tmp_path), prefix, suffix, overrides))
    room = CONTEXT - prefix - suffix
    captions = [caption(length) for length in range(2, room + 1)]
    with torch.no_grad():
        expected = torch.stack([release_text(tiny.clip, state[TEXT], prefix, suffix, ids) for ids in captions])
        found = model.encode_text(batch(captions, room)).double()
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        for ids, row in zip(captions, expected, strict=True):  # each at its own cut
            torch.testing.assert_close(model.encode_text(batch([ids], len(ids))).double()[0], row, atol=1e-5, rtol=0)


def test_video_points_where_the_releases_does(tiny: Backbone, overrides: list[str], tmp_path: Path) -> None:
    state = released(tiny.clip)
    model = model_of(convert(written(state, tmp_path), overrides=overrides))
    pixels = torch.randint(0, 256, (2, 3, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    normalized = ((pixels / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 1, 4, 2, 3)
    with torch.no_grad():
        averages = torch.stack([release_video(tiny.clip, state[VISUAL], video) for video in normalized])
        found = model.encode_video(pixels, torch.ones(2, 3, dtype=torch.bool)).double()
    assert averages.norm(dim=-1).max() < 0.999, "the release's average is not a unit vector, and this is the difference"
    torch.testing.assert_close(found, averages / averages.norm(dim=-1, keepdim=True), atol=1e-5, rtol=0)


@pytest.mark.parametrize("lengths", [[3, 9], [5, 12, 16]], ids=["short", "long"])
def test_gradients_of_the_releases_layout(tiny: Backbone, overrides: list[str], tmp_path: Path, lengths: list[int]) -> None:
    """Training works in it; the suffix prompts have a gradient only where a caption reaches them."""
    torch.manual_seed(0)
    state = released(tiny.clip)
    model = model_of(convert(written(state, tmp_path), 4, 4, overrides))
    captions, directions = [caption(length) for length in lengths], torch.randn(len(lengths), len(lengths))
    video = torch.randn(len(lengths), 24)
    contrastive_loss(model.encode_text(batch(captions, 16)) @ video.T + directions).backward()
    slow_prompts = state[TEXT].clone().requires_grad_(True)
    slow = torch.stack([release_text(tiny.clip, slow_prompts, 4, 4, ids) for ids in captions])
    contrastive_loss(slow @ video.T.double() + directions).backward()
    gradient = model.text.prompts.grad
    assert gradient is not None and slow_prompts.grad is not None
    assert (gradient - slow_prompts.grad).norm() <= 1e-4 * slow_prompts.grad.norm()
    # Read is place end + 8; the suffix stands in places 19 to 22.
    reached = max(lengths) - 1 + 8 >= CONTEXT - 1 - 4
    assert gradient[:, :4].abs().min(dim=-1).values.max() > 0
    assert bool(gradient[:, 4:].abs().max() > 0) == reached


@pytest.mark.usefixtures("slow")
def test_real_key_names_and_shapes(vit_b_32: Backbone, tmp_path: Path) -> None:
    """ViT-B/32 as open_clip names its tensors, through the command, and read again."""
    clip = vit_b_32.clip
    state = released(clip)
    state[VISUAL] = torch.randn(12, 1, 8, 768)
    checkpoint = written({f"module.{key}": value for key, value in state.items()}, tmp_path)
    arguments = ["convert", str(checkpoint), str(tmp_path / "adapter"), "--prefix", "4", "--suffix", "4"]
    result = CliRunner().invoke(app, [*arguments, "backbone.pretrained=random", "backbone.quick_gelu=true"])
    assert result.exit_code == 0, result.output
    adapter = load_adapter(tmp_path / "adapter")
    assert {name: list(t.shape) for name, t in adapter.tensors.items()} == {
        "text.prompts": [12, 8, 512],
        "video.prompts.generic": [12, 8, 768],
    }
    text = adapter.experiment.text_prompt
    assert (text.length, text.suffix, adapter.experiment.backbone.quick_gelu) == (8, 4, True)
    model, ids = model_of(adapter), [49406, 320, 1929, 49407]
    with torch.no_grad():
        expected = release_text(clip, state[TEXT], 4, 4, ids)
        torch.testing.assert_close(model.encode_text(batch([ids], 69)).double()[0], expected, atol=1e-5, rtol=0)


# --- refused ------------------------------------------------------------------------------------------------------


def without(*keys: str) -> Callable[[State], State]:
    return lambda state: {key: value for key, value in state.items() if key not in keys}


def with_(key: str, change: Callable[[Tensor], Tensor]) -> Callable[[State], State]:
    return lambda state: {**state, key: change(state[key])}


POSITION = "positional_embedding"
BAD = {
    "no text prompts": (without(TEXT), [f"it has no {TEXT}"]),
    "no visual prompts": (without(VISUAL), [f"it has no {VISUAL}"]),
    "a dimension less": (with_(VISUAL, lambda t: t[:, 0]), ["[layers, 1, P, width]", "[3, 5, 48]"]),
    "text layers": (with_(TEXT, lambda t: t[:3]), [TEXT, "3 layers of width 32", "has 4 of width 32", NAME]),
    "visual width": (with_(VISUAL, lambda t: t[..., :32]), [VISUAL, "3 layers of width 32", "has 3 of width 48", NAME]),
    "prompts too few": (with_(TEXT, lambda t: t[:, :6]), ["6 text prompts", "given 4 and 4"]),
    "other prompts": (
        lambda state: {**state, "text_prompt_learner.more": torch.ones(2)},
        ["1 tensors that basic VoP has not", "text_prompt_learner.more"],
    ),
    "other tensors": (lambda state: {**state, "pool.gate": torch.ones(2)}, ["basic VoP has not", "pool.gate"]),
    "a part of CLIP missing": (
        without(f"clip.{POSITION}", f"text_encoder.{POSITION}"),
        [f"lacks 1 of the {3 * 12 + 4 * 12 + 14} CLIP tensors", POSITION],
    ),
    "other weights": (with_(f"clip.{POSITION}", lambda t: t + 1e-3), ["other weights", "1 of its", f"clip.{POSITION}"]),
    "another shape": (
        with_("image_encoder.conv1.weight", lambda t: t[..., :8]),
        ["other weights", "image_encoder.conv1.weight [48, 3, 16, 8]", "visual.conv1.weight [48, 3, 16, 16]"],
    ),
    "a copy that differs": (
        with_("text_encoder.transformer.resblocks.0.ln_1.weight", lambda t: t * 2),
        ["1 of its", "text_encoder.transformer.resblocks.0.ln_1.weight"],
    ),
}


@pytest.mark.parametrize(("change", "words"), BAD.values(), ids=BAD)
def test_a_checkpoint_that_does_not_fit_is_named(
    tiny: Backbone, overrides: list[str], tmp_path: Path, change: Callable[[State], State], words: list[str]
) -> None:
    path = written(change(released(tiny.clip)), tmp_path)
    with pytest.raises(ReleaseError) as error:
        convert(path, overrides=overrides)
    for word in [str(path), *words]:
        assert word in str(error.value)


@pytest.mark.parametrize(("prefix", "suffix"), [(4, 3), (8, 1), (-1, 9)])
def test_lengths_that_do_not_add_up(tiny: Backbone, overrides: list[str], tmp_path: Path, prefix: int, suffix: int) -> None:
    with pytest.raises(ReleaseError, match=f"8 text prompts a layer.* given {prefix} and {suffix}"):
        convert(written(released(tiny.clip), tmp_path), prefix, suffix, overrides)


def test_another_backbone_is_refused(tiny: Backbone, tmp_path: Path) -> None:
    path = written(released(tiny.clip), tmp_path)
    with pytest.raises(ReleaseError, match=rf"other weights than backbone {NAME} \(random\)"):
        convert(path, overrides=[f"backbone.name={NAME}", "backbone.pretrained=random"])
    with pytest.raises(ReleaseError, match=r"4 layers of width 32, but backbone ViT-toy .* has 12 of width 64"):
        convert(path, overrides=["backbone.name=ViT-toy", "backbone.pretrained=ViT-toy.safetensors"])


def test_another_activation_is_refused(tmp_path: Path) -> None:
    """Weights do not tell their activation, so the hash would not catch it."""
    backbone = load_backbone(BackboneConfig(name="ViT-toy", pretrained="random", quick_gelu=False))
    with pytest.raises(ReleaseError, match=r"has QuickGELU, backbone ViT-toy \(random\) has not: add backbone.quick_gelu=true"):
        convert(
            written(released(backbone.clip), tmp_path),
            overrides=["backbone.name=ViT-toy", "backbone.pretrained=random", "backbone.quick_gelu=false"],
        )


class Harm:
    """What a pickle may run when it is opened."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("harmed"),)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"weights": {}}, "whose `state_dict` holds tensors"),
        ({"state_dict": {"a": 1}}, "whose `state_dict` holds tensors"),
        ([1, 2], "whose `state_dict` holds tensors"),
        ({"state_dict": Harm()}, "is not a checkpoint of tensors"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(ReleaseError, match=words):
        convert(tmp_path / "file.pth")
    assert not (tmp_path / "harmed").exists()


def test_a_file_that_is_no_checkpoint_is_refused_by_the_command(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("no tensors")
    for name, words in [("text.pth", "is not a checkpoint"), ("nothing.pth", "does not exist")]:
        result = CliRunner().invoke(app, ["convert", str(tmp_path / name), str(tmp_path / "out")])
        assert result.exit_code == 2 and words in " ".join(result.output.split())
        assert not (tmp_path / "out").exists()


def test_a_suffix_needs_all_layers() -> None:
    assert load_experiment({}).text_prompt.suffix == 0
    for override, words in [
        ("text_prompt.depth=1-6", "needs depth all"),
        ("text_prompt.length=3", "suffix 4 is more than length 3"),
    ]:
        with pytest.raises(ConfigError, match=words):
            load_experiment({}, ["text_prompt.suffix=4", override])


def test_the_same_weights_with_another_activation_are_refused(tiny: Backbone, overrides: list[str], tmp_path: Path) -> None:
    adapter: Adapter = convert(written(released(tiny.clip), tmp_path), overrides=overrides)
    other = copy.deepcopy(tiny)
    for block in (*other.clip.transformer.resblocks, *other.clip.visual.transformer.resblocks):
        block.mlp.gelu = torch.nn.GELU()
    assert isinstance(model_of(adapter, tiny), RetrievalModel)
    with pytest.raises(ValueError, match="with QuickGELU, found GELU"):
        model_of(adapter, other)
