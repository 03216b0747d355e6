"""Adapters on the Hugging Face hub: fetched, pushed, refused in a sentence; a stand-in for it runs on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipelines.locations import adapter_folder
from tests.support.hub import Hub, hub
from vop.config import load_experiment
from vop.errors import AdapterError
from vop.model import hub as hub_module
from vop.model.adapter import adapter_of, load_adapter, save_adapter
from vop.model.card import CARD, TENSORS
from vop.model.hub import named
from vop.model.retrieval import build_model

pytest.importorskip("huggingface_hub")
# In a process of its own: huggingface_hub reads where the hub is when it is imported. Of torch nothing is needed.
FETCH = "import sys; from vop.model.hub import fetched; print(fetched(sys.argv[1])); assert 'torch' not in sys.modules"
PUSH = "import sys; from pathlib import Path; from vop.model.hub import pushed; print(pushed(Path(sys.argv[2]), sys.argv[1]))"


@pytest.fixture
def server() -> Iterator[Hub]:
    with hub() as server:
        yield server


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    experiment = load_experiment("toy", ["frames.count=2"])
    return save_adapter(adapter_of(build_model(experiment), experiment), tmp_path_factory.mktemp("hub") / "adapter")


def asked(code: str, cache: Path, address: str, *words: str) -> tuple[str, str]:
    """The last line of what a process prints that uses the hub at an address, and what it says of errors."""
    settings = {"HF_ENDPOINT": address, "HF_HOME": str(cache), "HF_TOKEN": "hf_secret", "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], env={**os.environ, **settings}, capture_output=True, text=True, check=False
    )
    assert "hf_secret" not in done.stdout + done.stderr
    return (done.stdout.splitlines() or [""])[-1], (done.stderr.splitlines() or [""])[-1]


def test_an_adapter_is_fetched_and_nothing_else_of_the_model(server: Hub, saved: Path, tmp_path: Path) -> None:
    files = {name: (saved / name).read_bytes() for name in (CARD, TENSORS)}
    server.models["lab/toy"] = {**files, "modeling.py": b"raise SystemExit", "pytorch_model.bin": b"pickle", "README.md": b""}
    place, error = asked(FETCH, tmp_path, server.address, "hf://lab/toy")
    assert place, error
    assert set(server.asked) == {CARD, TENSORS}
    found, own = load_adapter(place), load_adapter(saved)
    assert found.fingerprint == own.fingerprint
    assert all(torch.equal(found.tensors[name], own.tensors[name]) for name in own.tensors)
    again = len(server.asked)
    by_commit, error = asked(FETCH, tmp_path, server.address, f"hf://lab/toy@{server.commit('lab/toy')}")
    assert by_commit == place, error
    offline, error = asked(FETCH, tmp_path, "http://127.0.0.1:9", "hf://lab/toy")
    assert offline == place, error
    assert len([name for name in server.asked[again:] if name not in (CARD, TENSORS)]) == 0


def test_what_is_not_there_is_said_in_a_sentence(server: Hub, saved: Path, tmp_path: Path) -> None:
    server.models["lab/other"] = {"config.json": b"{}"}
    for place, said in {
        "hf://lab/none": "no such model on the hub",
        "hf://lab/other@v9": "no such revision",
        "hf://lab/other": f"has no {CARD}",
    }.items():
        _, error = asked(FETCH, tmp_path, server.address, place)
        assert error.startswith("vop.errors.AdapterError: ") and place in error and said in error, error
    _, error = asked(FETCH, tmp_path, "http://127.0.0.1:9", "hf://lab/none")
    assert "the hub does not answer" in error, error


@pytest.mark.usefixtures("slow")
def test_what_is_pushed_is_fetched(server: Hub, saved: Path, tmp_path: Path) -> None:
    address, error = asked(PUSH, tmp_path, server.address, "hf://lab/new", str(saved))
    assert address.startswith(f"{server.address}/lab/new/commit/"), error
    assert server.models["lab/new"] == {name: (saved / name).read_bytes() for name in (CARD, TENSORS)}
    place, error = asked(FETCH, tmp_path, server.address, "hf://lab/new")
    assert load_adapter(place).fingerprint == load_adapter(saved).fingerprint, error


@pytest.mark.parametrize(
    "place", ["hf://", "hf://name", "hf://a/b/c", "hf://a/b@", "hf://a/../b", "hf://a/b@main@x", "hf://a b/c"]
)
def test_what_is_no_place_is_refused(place: str) -> None:
    with pytest.raises(AdapterError, match="is no place on the hub; valid: hf://ORG/NAME"):
        named(place)


def test_a_place_on_the_hub_is_one_wherever_an_adapter_is_named(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert named("hf://lab/toy@feature/x") == ("lab/toy", "feature/x")
    with monkeypatch.context() as patch:
        for module in ("vop.model.adapter.fetched", "pipelines.locations.fetched"):
            patch.setattr(module, lambda place: saved if place == "hf://lab/toy" else None)
        assert adapter_folder("hf://lab/toy") == saved
        assert load_adapter("hf://lab/toy").fingerprint == load_adapter(saved).fingerprint


def test_without_the_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(hub_module, "import_module", missing)
    with pytest.raises(AdapterError, match=r"hf://lab/toy needs huggingface_hub.*pip install 'vop\[export\]'"):
        load_adapter("hf://lab/toy")
