"""What is saved of a tuned model: that it rebuilds the model, and that a wrong one is refused with what was found."""

from __future__ import annotations

import copy
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vop.config import BackboneConfig, Experiment, kinds, load_experiment
from vop.errors import AdapterError
from vop.model.adapter import Adapter, adapter_of, load_adapter, load_tensors, model_of, save_adapter
from vop.model.backbone import Backbone, load_backbone
from vop.model.card import CARD, TENSORS
from vop.model.retrieval import RetrievalModel, build_model

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 100, "width": 32, "heads": 2, "layers": 3},
}
NAME = "tiny-adapted"
CASES = {
    **{name: [f"tuning.name={name}"] for name in (*kinds("tuning"), "prompts+lora", "bias+adapter-attn+adapter-ffn+prompts")},
    **{name: [f"video_prompt.name={name}"] for name in kinds("video_prompt")},
    "split": ["video_encoder.split_layer=2"],
}
FROM_ANOTHER_PROCESS = """
import sys, open_clip, torch
from pathlib import Path
from vop.model.adapter import load_adapter, model_of
open_clip.add_model_config(Path(sys.argv[1]))
inputs = torch.load(sys.argv[3])
with torch.no_grad():
    text, video = model_of(load_adapter(Path(sys.argv[2])))(*inputs)
    torch.save((text, video, text @ video.T), sys.argv[4])
"""


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("configs") / f"{NAME}.json"
    path.write_text(json.dumps(TINY))
    return path


@pytest.fixture(scope="module")
def tiny(config_file: Path) -> Backbone:
    open_clip.add_model_config(config_file)
    return load_backbone(BackboneConfig(name=NAME, pretrained="random"))


def trained(backbone: Backbone, *overrides: str) -> tuple[RetrievalModel, Adapter]:
    """A model whose trained tensors are far from their first values, and its adapter."""
    tree = {"backbone": {"name": NAME, "pretrained": "random"}, "frames": {"count": 3}, "seed": 4}
    experiment = load_experiment(tree, overrides)
    model = build_model(experiment, dataclasses.replace(backbone, clip=copy.deepcopy(backbone.clip)))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.2
    return model, adapter_of(model, experiment, commit="abc", epoch=2)


def inputs_of(model: RetrievalModel) -> tuple[Tensor, Tensor, Tensor]:
    """pixels, mask, tokens."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 32, 32, 3), dtype=torch.uint8, generator=generator)
    tokens = torch.zeros(2, model.backbone.context_length - model.text.shift, dtype=torch.int64)
    tokens[:, :5] = torch.tensor([[98, 3, 4, 5, 99], [98, 7, 8, 9, 99]])
    return pixels, torch.ones(2, 3, dtype=torch.bool), tokens


@pytest.fixture()
def saved(tiny: Backbone, tmp_path: Path) -> Path:
    return save_adapter(trained(tiny, "video_prompt.name=position")[1], tmp_path / "runs" / "adapter")


# --- rebuilt ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overrides", CASES.values(), ids=CASES)
def test_a_loaded_adapter_is_the_model_that_was_saved(tiny: Backbone, tmp_path: Path, overrides: list[str]) -> None:
    model, adapter = trained(tiny, *overrides)
    loaded = load_adapter(save_adapter(adapter, tmp_path))
    assert (loaded.experiment, loaded.backbone) == (adapter.experiment, tiny.identity)
    benchmark = {"name": "toy", "encoding": "utf-8", "shared_videos": "refuse"}
    trained_on = {"benchmark": benchmark, "training": adapter.experiment.training.model_dump()}
    assert loaded.notes == {"commit": "abc", "epoch": 2, "trained_on": trained_on}
    rebuilt = model_of(loaded)
    with torch.no_grad():
        for expected, found in zip(model(*inputs_of(model)), rebuilt(*inputs_of(model)), strict=True):
            assert torch.equal(expected, found)
    names = model.trainable()
    assert sorted(loaded.tensors) == sorted(names) == sorted(rebuilt.trainable())
    written = (tmp_path / TENSORS).stat().st_size
    assert written <= sum(p.numel() for p in names.values()) * 4 + 200 * (len(names) + 1), "frozen weights are in the file"


@pytest.mark.usefixtures("slow")
def test_another_process_gives_identical_scores(tiny: Backbone, config_file: Path, tmp_path: Path) -> None:
    model, adapter = trained(tiny, "video_prompt.name=context", "video_encoder.split_layer=2")
    save_adapter(adapter, tmp_path)
    inputs, outputs = tmp_path / "inputs.pt", tmp_path / "outputs.pt"
    torch.save(inputs_of(model), inputs)
    files = [str(path) for path in (config_file, tmp_path, inputs, outputs)]
    subprocess.run([sys.executable, "-c", FROM_ANOTHER_PROCESS, *files], check=True)
    with torch.no_grad():
        text, video = model(*inputs_of(model))
        for expected, found in zip((text, video, text @ video.T), torch.load(outputs), strict=True):
            assert torch.equal(found, expected)


def test_an_adapter_is_a_copy(tiny: Backbone) -> None:
    model, adapter = trained(tiny)
    before = {name: tensor.clone() for name, tensor in adapter.tensors.items()}
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter.zero_()
    assert before and all(torch.equal(adapter.tensors[name], tensor) for name, tensor in before.items())
    assert not any(tensor.requires_grad for tensor in adapter.tensors.values())


def test_the_card_tells_what_is_in_the_tensors(saved: Path) -> None:
    card = json.loads((saved / CARD).read_text())
    assert card["tensors"] == {name: list(tensor.shape) for name, tensor in load_file(saved / TENSORS).items()}
    assert card["model"]["video_prompt"]["specific_length"] == 4


# --- refused ------------------------------------------------------------------------------------------------------


def change_card(folder: Path, **change: object) -> None:
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({**card, **change}))


def change_tensors(folder: Path, change: dict[str, Tensor | None]) -> None:
    tensors = {**load_file(folder / TENSORS), **change}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / TENSORS)


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(AdapterError) as error:
        model_of(load_adapter(folder))
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("name", [TENSORS, CARD])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    refused(saved, str(saved), f"it has no {name}")


def test_another_format_is_refused(saved: Path) -> None:
    change_card(saved, format=99)
    refused(saved, str(saved / CARD), "format 99", "reads 1 to 3")


def test_other_weights_are_refused(saved: Path, tiny: Backbone) -> None:
    change_card(saved, backbone={**tiny.identity, "weights": 64 * "7"})
    refused(saved, f"{NAME} (random) with weights {12 * '7'}, found {tiny.weights[:12]}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"activation": "QuickGELU"}, "with QuickGELU, found GELU"),
        ({"size": 48, "tokenizer": "Another one"}, "with size 48, tokenizer Another one, found 32, SimpleTokenizer"),
        ({"activation": True}, "with True, found GELU"),
        ({"mean": [0.5, 0.5, 0.5]}, r"with mean [0.5, 0.5, 0.5], found [0.48"),
        ({"from_a_later_version": 1}, "from_a_later_version 1, found None"),
    ],
)
def test_a_backbone_that_differs_is_refused_by_what_differs(
    saved: Path, tiny: Backbone, change: dict[str, object], words: str
) -> None:
    change_card(saved, backbone={**tiny.identity, **change})
    refused(saved, words)


def test_an_override_of_the_activation_is_refused(saved: Path) -> None:
    """The same weights, so their hash would not tell."""
    adapter = load_adapter(saved)
    other = load_experiment(adapter.experiment.tree(), ["backbone.quick_gelu=true"])
    with pytest.raises(AdapterError, match="with GELU, found QuickGELU"):
        model_of(dataclasses.replace(adapter, experiment=other))


def test_an_adapter_of_the_first_format_is_read(saved: Path, tiny: Backbone) -> None:
    expected = model_of(load_adapter(saved))
    card = json.loads((saved / CARD).read_text())
    del card["backbone"]
    card["experiment"] = card.pop("model") | {"data": {"cache": "s3://somewhere"}, "gone": {"since": 1}}
    (saved / CARD).write_text(json.dumps({**card, "format": 1, "backbone_weights": tiny.weights}))
    assert load_adapter(saved).experiment.data == Experiment().data
    with torch.no_grad():
        for one, other in zip(expected(*inputs_of(expected)), model_of(load_adapter(saved))(*inputs_of(expected)), strict=True):
            assert torch.equal(one, other)
    card["experiment"]["backbone"]["quick_gelu"] = True
    (saved / CARD).write_text(json.dumps({**card, "format": 1, "backbone_weights": tiny.weights}))
    loaded = load_adapter(saved)
    with pytest.raises(AdapterError, match="with QuickGELU, found GELU"):
        model_of(loaded, tiny)


def test_tensors_keep_the_names_that_saved_adapters_have(tiny: Backbone) -> None:
    parts = {"adapter-attn": "attn", "adapter-ffn": "mlp"}
    for name, part in parts.items():
        found = trained(tiny, f"tuning.name={name}")[1].tensors
        towers = ("clip.visual.transformer", "clip.transformer")
        weights = ("down.weight", "down.bias", "up.weight", "up.bias")
        assert found.keys() == {f"{t}.resblocks.{i}.{part}.parallel.{w}" for t in towers for i in range(3) for w in weights}


def test_a_renamed_tensor_is_named(saved: Path) -> None:
    name, tensor = next(iter(load_file(saved / TENSORS).items()))
    change_tensors(saved, {name: None, "other.name": tensor})
    refused(saved, f"missing ['{name}']", "not expected ['other.name']")


def test_another_shape_is_named(saved: Path) -> None:
    name, tensor = next(iter(load_file(saved / TENSORS).items()))
    change_tensors(saved, {name: tensor[..., :-1].contiguous()})
    expected = list(tensor.shape)
    refused(saved, f"tensor {name}: expected shape {expected}", f"found {[*expected[:-1], expected[-1] - 1]}")


@pytest.mark.parametrize(("name", "text"), [(CARD, "{"), (CARD, '{"format": 1}'), (TENSORS, "no tensors")])
def test_a_broken_file_is_refused(saved: Path, name: str, text: str) -> None:
    (saved / name).write_text(text)
    refused(saved, str(saved / name))


def test_a_bad_experiment_names_the_file_and_the_key(saved: Path) -> None:
    change_card(saved, model={"video_encoder": {"split": 3}})
    refused(saved, str(saved / CARD), "video_encoder.split: unknown key")


def test_tensors_of_another_model_are_refused(tiny: Backbone) -> None:
    model, _ = trained(tiny)
    with pytest.raises(AdapterError, match=r"missing .*not expected"):
        load_tensors(model, trained(tiny, "tuning.name=bias")[1].tensors)
