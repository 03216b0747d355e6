"""Loading a CLIP: from a file, from a tag that cannot be had, and what is wrong with a file."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU

from vop.backbone import Backbone, load_backbone
from vop.config import BackboneConfig, ConfigError

TOY = BackboneConfig(name="ViT-toy", pretrained="ViT-toy.safetensors")


def is_quick(backbone: Backbone) -> bool:
    return isinstance(backbone.clip.visual.transformer.resblocks[0].mlp.gelu, QuickGELU)


@pytest.mark.parametrize(
    ("name", "extra", "quick"), [("plain.pt", False, False), ("marked.pt", True, True), ("clip-openai.pt", False, True)]
)
def test_quick_gelu_of_weights_from_a_file(tmp_path: Path, name: str, extra: bool, quick: bool) -> None:
    toy = load_backbone(TOY)
    marks = {key: torch.tensor(64) for key in ("input_resolution", "context_length", "vocab_size")} if extra else {}
    torch.save({"state_dict": toy.clip.state_dict() | marks}, tmp_path / name)
    loaded = load_backbone(BackboneConfig(name="ViT-toy", pretrained=str(tmp_path / name)))
    assert is_quick(loaded) == quick
    assert loaded.weights == toy.weights
    assert not any(p.requires_grad for p in loaded.clip.parameters())
    chosen = BackboneConfig(name="ViT-toy", pretrained=str(tmp_path / name), quick_gelu=not quick)
    assert is_quick(load_backbone(chosen)) != quick


def test_constants_are_read_from_open_clip() -> None:
    toy = load_backbone(TOY)
    assert (toy.size, toy.context_length, toy.mean) == (64, 48, open_clip.OPENAI_DATASET_MEAN)


def test_weights_that_cannot_be_downloaded_say_what_to_put_where(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(open_clip.factory, "download_pretrained", offline)
    with pytest.raises(ConfigError, match=r"could not be downloaded(?s:.*)backbone\.pretrained=/path/to/ViT-B-32"):
        load_backbone(BackboneConfig())


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (BackboneConfig(name="ViT-nope"), "open_clip has no model 'ViT-nope'"),
        (BackboneConfig(name="RN50", pretrained="random"), "not a ViT CLIP"),
        (BackboneConfig(name="ViT-B-32", pretrained="nowhere.pt"), "neither a file nor a tag of ViT-B-32; tags: openai"),
        (BackboneConfig(name="ViT-toy", pretrained=__file__), "not a file of weights"),
    ],
)
def test_what_is_wrong_is_said(config: BackboneConfig, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_backbone(config)
