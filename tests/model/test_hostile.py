"""Adapters from strangers: each is refused in a sentence that names the file, at no cost, and touches nothing else."""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from vop.config import Experiment, load_experiment
from vop.errors import AdapterError
from vop.model.adapter import Adapter, adapter_of, load_adapter, model_of, save_adapter, settings_of
from vop.model.card import CARD, CARD_BYTES, HEADER_BYTES, TENSORS
from vop.model.retrieval import build_model
from vop.retriever import Retriever

ROOT = Path(__file__).parents[2]
SMALL = ["frames.count=2", "text_prompt.length=2", "video_prompt.length=2"]
PROMPTS = "text.prompts"


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter as it should be."""
    experiment = load_experiment("toy", SMALL)
    return save_adapter(adapter_of(build_model(experiment), experiment), tmp_path_factory.mktemp("honest") / "adapter")


@pytest.fixture
def folder(honest: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    return Path(shutil.copytree(honest, tmp_path / "adapter"))


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, in which nothing may appear, and no way out."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"contact: {args}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def refused(folder: Path, name: str) -> str:
    """The sentence in which an adapter is refused; it is short, and names the file."""
    with pytest.raises(AdapterError) as caught:
        load_adapter(folder)
    said = str(caught.value)
    assert name in said and str(folder) in said and len(said) < 1500, said
    return said


def with_card(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    changed = change(card)
    (folder / CARD).write_text(json.dumps(card if changed is None else changed), encoding="utf-8")


def said_of_model(section: str, **values: Any) -> Callable[[dict[str, Any]], None]:
    def change(card: dict[str, Any]) -> None:
        card["model"][section] |= values

    return change


# --- the card -----------------------------------------------------------------------------------------------------

BYTES = {
    "empty": b"",
    "null": b"null",
    "a number": b"3",
    "a list": b"[]",
    "a text": b'"adapter"',
    "an empty object": b"{}",
    "cut": b'{"format": 3, "model": {',
    "deep lists": b"[" * 100_000,
    "deep lists, closed": b'{"format":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"a":' * 100_000,
    "5,000 digits": b'{"format": ' + b"9" * 5000 + b"}",
    "a big float": b'{"format": 3e999}',
    "NaN": b'{"format": NaN}',
    "Infinity": b'{"format": 3, "notes": {"x": -Infinity}}',
    "the same key twice": b'{"format": 3, "format": 2}',
    "not UTF-8": b'{"format": 3, "name": "caf\xe9"}',
    "UTF-16": '{"format": 3}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "NUL": b"\0" * 1000,
    "a pickle": b"\x80\x04\x95cos\nsystem\n(S'touch executed'\ntR.",
    "too large": b" " * (CARD_BYTES + 1),
    "a million keys": b"{" + b",".join(b'"%d":0' % n for n in range(90_000)) + b"}",
    "terminal codes": b'{"format": "\\u001b[2J\\u0007"}',
}
CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no model": lambda card: {key: value for key, value in card.items() if key != "model"},
    "a model of another shape": lambda card: card | {"model": []},
    "a section of another shape": lambda card: card["model"].update(frames=[1, 2]),
    "a section that is null": lambda card: card["model"].update(backbone=None),
    "a later format": lambda card: card | {"format": 4},
    "format true": lambda card: card | {"format": True},
    "format 1.0": lambda card: card | {"format": 1.0},
    "a later part": lambda card: card["model"].update(head={"name": "x"}),
    "an unknown key": said_of_model("text_prompt", size=1),
    "places in the model": lambda card: card["model"].update(data={"cache": "s3://somebody:else@bucket"}),
    "no hash": lambda card: card["backbone"].pop("weights") and None,
    "another kind of hash": lambda card: card["backbone"].update(weights="../../x"),
    "a backbone that is null": lambda card: card | {"backbone": None},
    "notes of another shape": lambda card: card | {"notes": "x"},
    "a length of 10^9": said_of_model("text_prompt", length=10**9),
    "a negative length": said_of_model("text_prompt", length=-1),
    "a length of 10^30": said_of_model("video_prompt", length=10**30),
    "a length that is no number": said_of_model("text_prompt", length=True),
    "10^9 frames": said_of_model("frames", count=10**9),
    "a depth that is not there": said_of_model("text_prompt", depth="1-99999999"),
    "a huge depth": said_of_model("text_prompt", depth="1-" + "9" * 5000),
    "a split layer that is not there": said_of_model("video_encoder", split_layer=1000),
    "a seed out of range": lambda card: card["model"].update(seed=2**40),
    "a name that leaves": lambda card: card["model"].update(name="../../x"),
    "a name with terminal codes": lambda card: card["model"].update(name="\x1b[2J"),
    "a name half of a character": lambda card: card["model"].update(name="\ud800"),
    "rank 10^9": lambda card: tuned(card, name="lora", rank=10**9),
    "rank 10^30": lambda card: tuned(card, name="lora", rank=10**30),
    "bottleneck 10^15": lambda card: tuned(card, name="adapter-ffn", bottleneck=10**15),
    "specific length": lambda card: card["model"].update(
        video_prompt={"name": "position", "length": 1024, "specific_length": 1024}
    ),
    **{
        f"{section} called {name!r}": said_of_model(section, name=name)
        for section in ("video_prompt", "tuning")
        for name in ("os", "../../x", "__init__", "_bottleneck", "os.path", "", "\0", "x" * 10_000, "vop.cli", "\x1b]0;x\x07")
    },
    **{
        f"backbone {name[:20]!r}": said_of_model("backbone", name=name)
        for name in (
            *("hf-hub:someone/clip", "local-dir:/tmp", "local-dir:.", "../../x", "/etc/passwd", "", "\0", "v" * 10_000),
            *("https://example.org/clip", "ViT-toy.json", "roberta-ViT-B-32", "RN50"),
        )
    },
}


def tuned(card: dict[str, Any], **tuning: Any) -> None:
    card["model"] |= {"tuning": tuning, "text_prompt": {"length": 0}, "video_prompt": {"length": 0}}


@pytest.mark.parametrize("content", BYTES.values(), ids=BYTES)
def test_a_card_that_is_none(folder: Path, alone: Path, content: bytes) -> None:
    (folder / CARD).write_bytes(content)
    refused(folder, CARD)
    assert not any(alone.iterdir())


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_card_of_another_model(folder: Path, alone: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    with_card(folder, change)
    refused(folder, str(folder))
    assert not any(alone.iterdir())


# --- the tensors --------------------------------------------------------------------------------------------------


def raw(folder: Path, header: Any, data: bytes = b"", length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / TENSORS).write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def in_header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """A change of the header, with the numbers as they were."""

    def spoil(folder: Path) -> None:
        content = (folder / TENSORS).read_bytes()
        length = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + length])
        header.pop("__metadata__", None)
        change(header)
        raw(folder, header, content[8 + length :])

    return spoil


def of_prompts(**values: Any) -> Callable[[Path], None]:
    return in_header(lambda header: header[PROMPTS].update(values))


def with_tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        tensors = load_file(folder / TENSORS)
        tensors |= change(tensors)
        save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / TENSORS)

    return spoil


def edited(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: (folder / TENSORS).write_bytes(change((folder / TENSORS).read_bytes())) and None


FOREIGN = ("float64", "float16", "bfloat16", "int32", "int64", "uint8", "bool", "complex64", "float8_e4m3fn")
SPOILT: dict[str, Callable[[Path], Any]] = {
    "empty": edited(lambda content: b""),
    "seven bytes": edited(lambda content: content[:7]),
    "cut in the header": edited(lambda content: content[:40]),
    "cut by a byte": edited(lambda content: content[:-1]),
    "a byte more": edited(lambda content: content + b"\0"),
    "no safetensors": edited(lambda content: b"PK\x03\x04" * 100),
    "a huge header": lambda folder: raw(folder, b"{}", length=2**63),
    "a header larger than allowed": lambda folder: raw(folder, b" " * (HEADER_BYTES + 1)),
    "a deep header": lambda folder: raw(folder, b'{"a":' * 100_000),
    "a header that is a list": lambda folder: raw(folder, []),
    "a header with NaN": lambda folder: raw(folder, b'{"a": NaN}'),
    "300,000 tensors": lambda folder: raw(
        folder, {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(300_000)}
    ),
    "50,000 tensors": lambda folder: raw(
        folder, {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(50_000)}
    ),
    "no tensors": lambda folder: raw(folder, {}),
    "overlapping": of_prompts(data_offsets=[0, 4]),
    "behind the end": of_prompts(data_offsets=[10**12, 10**12 + 4]),
    "backwards": of_prompts(data_offsets=[8, 0]),
    "offsets of another shape": of_prompts(data_offsets="x"),
    "no offsets": in_header(lambda header: header[PROMPTS].pop("data_offsets")),
    "a tensor that is null": in_header(lambda header: header.update({PROMPTS: None})),
    "a shape of 10^18": of_prompts(shape=[10**18]),
    "a shape that is no list": of_prompts(shape=12),
    "a negative shape": of_prompts(shape=[-12, -2, 64]),
    "a shape of booleans": of_prompts(shape=[True]),
    "a dtype that is not there": of_prompts(dtype="X99"),
    "a dtype that lies": of_prompts(dtype="I32"),
    "one too few": with_tensors(lambda tensors: {PROMPTS: None}),
    "one too many": with_tensors(lambda tensors: {"clip.logit_scale": torch.zeros(())}),
    "a name with terminal codes": with_tensors(lambda tensors: {"\x1b[2J": torch.zeros(1)}),
    "NaN": with_tensors(lambda tensors: {PROMPTS: tensors[PROMPTS] * torch.nan}),
    "infinity": with_tensors(lambda tensors: {PROMPTS: tensors[PROMPTS].fill_(torch.inf)}),
    **{name: with_tensors(lambda tensors, name=name: {PROMPTS: tensors[PROMPTS].to(getattr(torch, name))}) for name in FOREIGN},
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_tensors_of_another_model(folder: Path, alone: Path, spoil: Callable[[Path], Any]) -> None:
    spoil(folder)
    refused(folder, TENSORS)
    assert not any(alone.iterdir())


# --- files that are none ------------------------------------------------------------------------------------------


def away(file: Path) -> Path:
    """A good file moved out of its folder."""
    return file.rename(file.parents[1] / f"other-{file.name}")


FILES: dict[str, Callable[[Path], Any]] = {
    "missing": lambda file: file.unlink(),
    "a directory": lambda file: (file.unlink(), file.mkdir()),
    "a pipe": lambda file: (file.unlink(), os.mkfifo(file)),
    "a device": lambda file: (file.unlink(), file.symlink_to("/dev/zero")),
    "a socket": lambda file: (file.unlink(), socket.socket(socket.AF_UNIX).bind(os.path.relpath(file))),
    "a link out": lambda file: file.symlink_to(away(file)),
    "a link to itself": lambda file: (file.unlink(), file.symlink_to(file.name)),
    "a link to nothing": lambda file: (file.unlink(), file.symlink_to("nothing")),
    "a link to a secret": lambda file: (file.unlink(), file.symlink_to("/etc/passwd")),
}


@pytest.mark.parametrize("name", [CARD, TENSORS])
@pytest.mark.parametrize("spoil", FILES.values(), ids=FILES)
def test_files_that_are_none(folder: Path, alone: Path, name: str, spoil: Callable[[Path], Any]) -> None:
    spoil(folder / name)
    said = refused(folder, name)
    assert "root:" not in said and not any(alone.iterdir())


def test_a_link_within_the_folder_is_fine(folder: Path) -> None:
    (folder / TENSORS).rename(folder / "data")
    (folder / TENSORS).symlink_to("data")
    assert load_adapter(folder).tensors


# --- what an adapter says of places -------------------------------------------------------------------------------

ELSEWHERE = {
    "data": {"cache": "s3://ATTACKER:KEY@bucket/x", "max_failed_fraction": 1.0},
    "tracking": {"uri": "http://attacker.example", "output": "/tmp/attacker"},
    "benchmark": {"name": "folder", "videos": "~/.ssh"},
    "resources": {"num_workers": 1000},
    "training": {"epochs": 1000},
}


def test_an_old_adapter_says_nothing_of_places(folder: Path) -> None:
    def old(card: dict[str, Any]) -> dict[str, Any]:
        model = card.pop("model")
        model["frames"] |= {"decoder": "decord", "incomplete": "take"}
        return card | {"format": 2, "experiment": model | ELSEWHERE}

    with_card(folder, old)
    own = load_experiment({"data": {"cache": "mine"}, "benchmark": {"videos": "my videos"}, "frames": {"decoder": "pyav"}})
    for rest in (Experiment(), own):
        found = load_adapter(folder, rest).experiment
        assert settings_of(found) == settings_of(load_experiment("toy", [*SMALL, "backbone.quick_gelu=false"]))
        for section in ELSEWHERE:
            assert getattr(found, section) == getattr(rest, section)
        assert (found.frames.decoder, found.frames.incomplete) == (rest.frames.decoder, rest.frames.incomplete)
    assert Retriever.load(folder, device="cpu").experiment.data == Experiment().data


def test_what_is_written_holds_no_places_and_no_secrets(tmp_path: Path) -> None:
    places = [
        *("data.cache=s3://ME:SESAME@bucket/x", "benchmark.videos=https://host/v?X-Amz-Signature=SESAME"),
        *("tracking.uri=postgresql://me:SESAME@host/db", "benchmark.annotations=/SESAME", "tracking.output=/SESAME"),
    ]
    experiment = load_experiment("toy", [*SMALL, *places])
    adapter = adapter_of(build_model(experiment), experiment, source="s3://ME:SESAME@bucket/x")
    assert adapter.experiment.data.cache == "s3://ME:SESAME@bucket/x", "in memory it is used"
    card = (save_adapter(adapter, tmp_path / "adapter") / CARD).read_text(encoding="utf-8")
    assert "SESAME" not in card and "s3://***@bucket/x" in card


# --- weights that are a file --------------------------------------------------------------------------------------


@pytest.fixture
def bound_to_a_file(tmp_path: Path) -> tuple[Adapter, Path]:
    """An adapter on weights in a file of the user's, as it is loaded again; and the file."""
    from vop.model.architecture import PACKAGED

    weights = Path(shutil.copy(PACKAGED / "ViT-toy.safetensors", tmp_path / "mine.safetensors"))
    experiment = load_experiment("toy", [*SMALL, f"backbone.pretrained={weights}"])
    folder = save_adapter(adapter_of(build_model(experiment), experiment), tmp_path / "adapter")
    assert str(tmp_path) not in (folder / CARD).read_text(encoding="utf-8")
    return load_adapter(folder), weights


def test_weights_that_are_a_file_are_found_by_their_hash(bound_to_a_file: tuple[Adapter, Path], tmp_path: Path) -> None:
    adapter, weights = bound_to_a_file
    with pytest.raises(AdapterError, match=rf"SHA-256 .*{adapter.backbone['weights'][:12]}.*backbone\.pretrained=/path"):
        model_of(adapter)
    moved = weights.rename(tmp_path / "moved.safetensors")
    assert Retriever.load(adapter, device="cpu", overrides=[f"backbone.pretrained={moved}"]).dim
    other = {name: tensor + 1 for name, tensor in load_file(moved).items()}
    save_file(other, moved)
    with pytest.raises(AdapterError, match=r"the adapter belongs to backbone ViT-toy .* with weights"):
        Retriever.load(adapter, device="cpu", overrides=[f"backbone.pretrained={moved}"])


@pytest.mark.parametrize("name", ["/etc/passwd", "evil.pt", "hf-hub:someone/clip", "s3://bucket/x", "~/.ssh/id_rsa", ""])
def test_an_adapters_own_path_is_never_opened(folder: Path, alone: Path, name: str) -> None:
    (alone / "evil.pt").write_bytes(b"x")
    with_card(folder, said_of_model("backbone", pretrained=name))
    with pytest.raises(AdapterError, match=r"give their file, backbone\.pretrained"):
        Retriever.load(folder, device="cpu")


# --- its cost -----------------------------------------------------------------------------------------------------

WORST = ["deep lists, closed", "deep objects", "a million keys", "too large"]
WORST_CHANGES = ["a length of 10^9", "10^9 frames", "rank 10^9", "rank 10^30", "bottleneck 10^15", "specific length"]
WORST_SPOILT = ["300,000 tensors", "50,000 tensors", "a shape of 10^18", "a huge header", "a deep header"]


@pytest.mark.usefixtures("slow")
def test_no_adapter_costs_memory(honest: Path, tmp_path: Path) -> None:
    """The worst of the above, one after the other in a process of their own."""
    subprocess.run([sys.executable, "-m", "tests.model.test_hostile", str(honest), str(tmp_path)], cwd=ROOT, check=True)


def main(honest: Path, scratch: Path) -> None:
    """Load an honest adapter, then all of the worst; fail if that takes 500 MiB more."""
    load_adapter(honest)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spoils: dict[str, Callable[[Path], Any]] = {name: SPOILT[name] for name in WORST_SPOILT}
    spoils |= {name: lambda folder, name=name: (folder / CARD).write_bytes(BYTES[name]) for name in WORST}
    spoils |= {name: lambda folder, name=name: with_card(folder, CHANGES[name]) for name in WORST_CHANGES}
    for place, spoil in enumerate(spoils.values()):
        folder = Path(shutil.copytree(honest, scratch / str(place)))
        spoil(folder)
        refused(folder, str(folder))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 500, f"{grown:.0f} MiB"


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
