"""Resizing and normalizing belong to the weights: read from their tag, asked for where a file does not tell."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import open_clip
import pytest

from vop.config import BackboneConfig, ConfigError, load_experiment
from vop.model.adapter import adapter_of, load_adapter, save_adapter
from vop.model.card import CARD
from vop.model.preprocess import Preprocess, preprocess_of
from vop.model.retrieval import build_model

HALF = (0.5, 0.5, 0.5)
SIGLIP = Preprocess(HALF, HALF, "bicubic", "squash")


def of(name: str, pretrained: str, preprocess: str | None = None) -> Preprocess:
    return preprocess_of(BackboneConfig(name=name, pretrained=pretrained, preprocess=preprocess))


def test_the_defaults_are_openais() -> None:
    assert Preprocess() == of("ViT-B-32", "openai") == of("ViT-toy", "ViT-toy.safetensors") == of("ViT-toy", "random")
    assert Preprocess().mean == open_clip.OPENAI_DATASET_MEAN and Preprocess().std == open_clip.OPENAI_DATASET_STD
    assert Preprocess().unusual == {}


def test_a_tag_has_its_own() -> None:
    assert of("ViT-B-16-SigLIP", "webli") == SIGLIP
    assert of("PE-Core-B-16", "meta") == Preprocess(HALF, HALF, "bilinear", "squash")
    assert of("ViT-H-14-quickgelu", "dfn5b").unusual == {"resize": "squash"}
    assert of("ViT-L-14", "laion2b_s32b_b82k") == Preprocess(HALF, HALF)


def test_all_tags_are_as_open_clip_has_them() -> None:
    """What it has is what a model gets that is built by its tag."""
    found = Counter((made.resize, made.interpolation) for name, tag in open_clip.list_pretrained() if (made := of(name, tag)))
    assert found.keys() <= {(resize, kind) for resize in ("shortest", "squash") for kind in ("bicubic", "bilinear")}
    assert found["shortest", "bicubic"] >= 138 and found["squash", "bicubic"] >= 30


def test_a_file_has_what_all_tags_of_its_architecture_have() -> None:
    assert of("ViT-B-32", "/weights.pt") == Preprocess()
    assert of("ViT-B-16-SigLIP", "/weights.pt") == of("ViT-B-16-SigLIP", "random") == SIGLIP


def test_a_file_is_asked_for_it_where_tags_differ() -> None:
    with pytest.raises(ConfigError, match=r"backbone\.preprocess: /w\.pt .*backbone\.preprocess=openai .*laion2b_s32b_b82k"):
        of("ViT-L-14", "/w.pt")
    assert of("ViT-L-14", "/w.pt", "openai") == Preprocess()
    assert of("ViT-L-14", "/w.pt", "laion2b_s32b_b82k") == Preprocess(HALF, HALF)
    assert of("ViT-toy", "ViT-toy.safetensors", "ViT-B-16-SigLIP/webli") == SIGLIP
    for unknown in ("nowhere", "ViT-B-32/webli", ""):
        with pytest.raises(ConfigError, match=r"backbone\.preprocess: .* is no tag of ViT-"):
            of("ViT-L-14", "/w.pt", unknown)


def test_pixels_are_normalized_by_it_and_the_identity_tells() -> None:
    toy = {"backbone": {"name": "ViT-toy", "pretrained": "ViT-toy.safetensors"}}
    plain, other = (build_model(load_experiment(toy, words)) for words in ([], ["backbone.preprocess=PE-Core-B-16/meta"]))
    assert other.mean_C.tolist() == other.std_C.tolist() == [127.5] * 3 != plain.mean_C.tolist()
    assert "resize" not in plain.backbone.identity and "interpolation" not in plain.backbone.identity
    told = {key: other.backbone.identity[key] for key in ("mean", "resize", "interpolation")}
    assert told == {"mean": list(HALF), "resize": "squash", "interpolation": "bilinear"}


@pytest.mark.parametrize(
    ("name", "pretrained", "preprocess"),
    [
        ("ViT-toy", "ViT-toy.safetensors", None),
        ("ViT-toy", "file", "openai"),
        ("ViT-H-14-quickgelu", "dfn5b", "openai"),
        ("ViT-L-14", "laion2b_s32b_b82k", None),
    ],
)
def test_an_adapter_of_before_keeps_the_frames_that_it_was_trained_on(
    tmp_path: Path, name: str, pretrained: str, preprocess: str | None
) -> None:
    """Then all were the central square of frames resized bicubically, whatever the tag; a file was normalized as OpenAI's."""
    toy = {"backbone": {"name": "ViT-toy", "pretrained": "ViT-toy.safetensors"}, "tuning": {"name": "zero-shot"}}
    experiment = load_experiment(toy)
    folder = save_adapter(adapter_of(build_model(experiment), experiment), tmp_path)
    assert load_adapter(folder).experiment.backbone.preprocess is None
    card = json.loads((folder / CARD).read_text())
    card["model"]["backbone"] = {"name": name, "pretrained": pretrained, "quick_gelu": None}
    (folder / CARD).write_text(json.dumps(card))
    loaded = load_adapter(folder).experiment.backbone
    assert loaded.preprocess == preprocess and (loaded.pretrained == "file" or preprocess_of(loaded).unusual == {})
