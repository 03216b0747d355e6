"""Loading a CLIP: from a file, from a tag that cannot be had, and what is wrong with a file."""

from __future__ import annotations

import os
import pickle
import time
import zipfile
from pathlib import Path
from random import Random

import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU

from vop.config import BackboneConfig, ConfigError
from vop.model import architecture
from vop.model.backbone import Backbone, hash_weights, load_backbone, shape_of_backbone
from vop.model.loading import OPENAI_ONLY
from vop.model.weights import read_state

TOY = BackboneConfig(name="ViT-toy", pretrained="ViT-toy.safetensors")


def is_quick(backbone: Backbone) -> bool:
    return isinstance(backbone.clip.visual.transformer.resblocks[0].mlp.gelu, QuickGELU)


@pytest.mark.parametrize(
    ("name", "extra", "quick"), [("plain.pt", False, False), ("marked.pt", True, True), ("clip-openai.pt", False, False)]
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


def linear(**change: torch.Tensor) -> torch.nn.Module:
    """Two numbers in, three out, with some of its weights replaced."""
    module = torch.nn.Linear(2, 3)
    state = {"weight": torch.arange(6.0).reshape(3, 2), "bias": torch.tensor([1.0, 2.0, 3.0]), **change}
    for name, value in state.items():
        setattr(module, name, torch.nn.Parameter(value))
    return module


def test_a_hash_tells_values_shapes_and_names() -> None:
    weight = torch.arange(6.0).reshape(3, 2)
    other_value = weight.clone()
    other_value[2, 1] = torch.nextafter(other_value[2, 1], torch.tensor(9.0))
    others = [linear(weight=other) for other in (other_value, weight.flip(0), weight.reshape(2, 3))]
    renamed = torch.nn.Sequential(linear())
    assert len({hash_weights(module) for module in (linear(), *others, renamed)}) == 5


def test_a_hash_is_of_the_values_as_fp32_however_they_lie() -> None:
    weight = torch.arange(6.0).reshape(3, 2)
    same = [linear(weight=weight.T.contiguous().T), linear(weight=weight.half()), linear()]
    assert {hash_weights(module) for module in same} == {hash_weights(linear())}


def test_constants_are_read_from_open_clip() -> None:
    toy = load_backbone(TOY)
    assert (toy.size, toy.context_length, toy.preprocess.mean) == (64, 48, open_clip.OPENAI_DATASET_MEAN)


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
        (BackboneConfig(name="hf-hub:someone/clip"), "open_clip has no model 'hf-hub:someone/clip'"),
        (BackboneConfig(name="local-dir:/tmp"), "open_clip has no model 'local-dir:/tmp'"),
        (BackboneConfig(name="../backbones/ViT-toy"), "open_clip has no model '../backbones/ViT-toy'"),
        (BackboneConfig(name="v" * 5000), "open_clip has no model 'vvv"),
        (BackboneConfig(name="roberta-ViT-B-32", pretrained="random"), "not a ViT CLIP"),
        (BackboneConfig(name="ViT-B-32", pretrained="hf-hub:someone/clip"), "neither a file nor a tag of ViT-B-32"),
        (BackboneConfig(name="ViT-B-32", pretrained="~nobody/x.pt"), "neither a file nor a tag of ViT-B-32"),
        (BackboneConfig(name="ViT-B-32-quickgelu", pretrained="random", quick_gelu=False), "always has OpenAI's activation"),
        (BackboneConfig(name="RN50", pretrained="random"), "not a ViT CLIP"),
        (BackboneConfig(name="ViT-B-32", pretrained="nowhere.pt"), "neither a file nor a tag of ViT-B-32; tags: openai"),
        (BackboneConfig(name="ViT-toy", pretrained=__file__), "not a file of weights"),
    ],
)
def test_what_is_wrong_is_said(config: BackboneConfig, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_backbone(config)


# --- no code of a file is run -------------------------------------------------------------------------------------


class Plain(torch.nn.Module):
    """Nested, with a buffer that is another view of the same numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
        self.weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
        self.register_buffer("turned", self.weight.detach().T.half())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.inner(x)) + self.weight.sum()


class Writer(torch.nn.Module):
    """Unpickling it writes a file, where its code is run."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.zeros(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return (self.weight, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        self.weight = torch.from_file("executed.bin", True, 16)
        self.training = state[1]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_a_torchscript_archive_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    module = torch.jit.script(Plain())
    module.save(tmp_path / "plain.pt")
    read, expected = read_state(tmp_path / "plain.pt"), module.state_dict()
    assert read.keys() == expected.keys() and len(read) == 6
    assert all(read[name].dtype == value.dtype and torch.equal(read[name], value) for name, value in expected.items())


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_the_code_of_a_torchscript_archive_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.jit.script(Writer()).save("writer.pt")
    with pytest.raises(ConfigError, match=r"writer\.pt does not hold the weights of ViT-toy"):
        load_backbone(BackboneConfig(name="ViT-toy", pretrained="writer.pt"))
    assert not Path("executed.bin").exists()
    torch.jit.load("writer.pt")
    assert Path("executed.bin").exists(), "this test could not have failed"


class Executed:
    """Its pickle writes a file."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch executed.bin",)


def archive(path: str, pickled: bytes) -> None:
    """A TorchScript archive of such objects."""
    with zipfile.ZipFile(path, "w") as file:
        for name, content in {"data.pkl": pickled, "constants.pkl": pickle.dumps(()), "data/0": bytes(8)}.items():
            file.writestr(f"archive/{name}", content)


def test_no_pickle_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps({"weight": Executed()})
    Path("bare.pt").write_bytes(pickled)
    torch.save({"weight": Executed()}, "saved.pt")
    archive("archive.pt", pickled)
    for name in ("bare.pt", "saved.pt", "archive.pt"):
        with pytest.raises(ConfigError, match=rf"{name} is not a file of weights that can be read without running code"):
            load_backbone(BackboneConfig(name="ViT-toy", pretrained=name))
    assert not Path("executed.bin").exists()


def storage(key: str, count: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """The pickle of a module with a tensor of such a shape in a storage that claims so many numbers."""
    words = [f"ctorch._utils\n_rebuild_tensor_v2\n((S'storage'\nctorch\nFloatStorage\nS'{key}'\nS'cpu'\nI{count}\ntQI0\n"]
    words += [f"({''.join(f'I{n}' + chr(10) for n in numbers)}t" for numbers in (size, stride)]
    return f"c__torch__\nM\n)\x81}}S'weight'\n{''.join(words)}I00\n}}tRsb.".encode("latin-1")


@pytest.mark.parametrize(
    ("key", "count", "size", "stride", "words"),
    [
        ("0", 2, (2,), (1,), ""),
        ("0", 10**12, (2,), (1,), "storage 0 is not 1000000000000 numbers"),
        ("0", 2, (10**9,), (1,), "out of bounds"),
        ("0", 2, (2,), (-1,), "Negative strides"),
        ("1", 2, (2,), (1,), "no item named"),
    ],
)
def test_a_tensor_lies_within_its_numbers(
    tmp_path: Path, key: str, count: int, size: tuple[int, ...], stride: tuple[int, ...], words: str
) -> None:
    archive(str(tmp_path / "archive.pt"), storage(key, count, size, stride))
    if not words:
        assert torch.equal(read_state(tmp_path / "archive.pt")["weight"], torch.zeros(2))
        return
    with pytest.raises(ConfigError, match=words):
        load_backbone(BackboneConfig(name="ViT-toy", pretrained=str(tmp_path / "archive.pt")))


# --- an activation is never guessed -------------------------------------------------------------------------------


@pytest.fixture
def both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """ViT-toy, as if there were ViT-toy-quickgelu too."""
    known = architecture._files()
    monkeypatch.setattr(architecture, "_files", lambda: {**known, "ViT-toy-quickgelu": known["ViT-toy"]})


@pytest.mark.usefixtures("slow")
def test_a_bare_file_does_not_tell_its_activation(tmp_path: Path, both_ways: None) -> None:
    file = tmp_path / "openai.pt"
    toy = load_backbone(TOY.model_copy(update={"quick_gelu": False}))
    torch.save(toy.clip.state_dict(), file)
    bare = BackboneConfig(name="ViT-toy", pretrained=str(file))
    for load in (load_backbone, shape_of_backbone):
        with pytest.raises(ConfigError, match=r"backbone\.quick_gelu: .*openai\.pt .*quick_gelu=true .*quick_gelu=false"):
            load(bare)
        for quick in (True, False):
            assert is_quick(load(bare.model_copy(update={"quick_gelu": quick}))) == quick
    torch.save(toy.clip.state_dict() | {key: torch.tensor(1) for key in OPENAI_ONLY}, file)
    assert is_quick(load_backbone(bare)), "OpenAI's own archives tell"


def test_architectures_that_exist_both_ways() -> None:
    asked = {name: architecture.quick_gelu_of(BackboneConfig(name=name)) for name in open_clip.list_models()}
    assert {"ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-H-14"} <= {
        n for n, known in asked.items() if known is None
    }
    assert asked["ViT-B-32-quickgelu"] is True and asked["ViT-toy"] is False


def test_a_text_of_any_length_is_read_in_no_time() -> None:
    toy = load_backbone(TOY)
    long = ["a dog, asleep   on the mat. " * 1000, "x  " * 5000, "犬" * 3000]
    assert torch.equal(toy.tokenize(long, 77), toy.tokenizer(long, context_length=77))
    began, letters = time.process_time(), "".join(Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=10**6))
    assert toy.tokenize([letters], 77)[0, -1] and time.process_time() - began < 30
