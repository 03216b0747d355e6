"""`import vop`: what a program gets from it, and that it equals what the parts give."""

from __future__ import annotations

import ast
import doctest
import logging
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import vop
import vop.retriever
from pipelines.search.build import index
from tests.support.long import CLIPS, stream_here, write_long
from vop.backbones import __path__ as packaged
from vop.config import Experiment, load_experiment
from vop.model.adapter import Adapter, adapter_of, save_adapter, settings_of
from vop.model.retrieval import RetrievalModel, build_model
from vop.retriever import Retriever
from vop.video.frames import FrameError, read_frames

ROOT = Path(__file__).parents[1]
TEXTS = ["a red disc on a dark wall", "a golden box pulses", "red " * 100]
NEITHER = """
import sys, vop
def free(*names):
    found = [name for name in names if name in sys.modules]
    assert not found, found
free("torch", "numpy", "av", "pydantic", "open_clip")
vop.VopError, vop.__version__
free("torch", "numpy", "av", "pydantic")
vop.load_experiment("toy")
vop.read_frames
free("torch", "open_clip")
"""


@pytest.fixture(scope="module")
def paths(videos: Path) -> list[Path]:
    return sorted(videos.glob("*.mp4"))[:5]


@pytest.fixture(scope="module")
def zero_shot() -> Retriever:
    return Retriever.load("ViT-toy", device="cpu", overrides=["frames.count=4"])


def tuned(*overrides: str) -> tuple[RetrievalModel, Adapter]:
    """A model whose prompts are far from their first values, and its adapter."""
    experiment = load_experiment("toy", ["frames.count=4", *overrides])
    model, generator = build_model(experiment), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.2
    return model, adapter_of(model, experiment)


@torch.no_grad()
def embedded(model: RetrievalModel, path: Path, count: int = 4) -> np.ndarray:
    frames = read_frames(path, count, 64)
    return model.encode_video(torch.from_numpy(frames.pixels_FHWC)[None], torch.from_numpy(frames.mask_F)[None])[0].numpy()


# --- the names ----------------------------------------------------------------------------------------------------


def test_nothing_is_imported_before_it_is_used() -> None:
    subprocess.run([sys.executable, "-c", NEITHER], check=True)


def test_every_name_is_there_and_no_other() -> None:
    assert dir(vop) == sorted(vop.__all__) and {*vop.MODULES, "__version__"} == set(vop.__all__)
    assert all(getattr(vop, name) for name in vop.__all__)
    assert issubclass(FrameError, vop.VopError) and vop.Retriever is Retriever
    with pytest.raises(AttributeError, match="'vop' has no attribute 'Retreiver'"):
        vop.Retreiver  # noqa: B018


def test_a_type_checker_sees_the_names_where_they_come_from() -> None:
    tree = ast.parse((ROOT / "vop" / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == vop.MODULES and all((ROOT / package / "py.typed").is_file() for package in ("vop", "pipelines"))


@pytest.mark.usefixtures("slow")
def test_the_page_says_what_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "docs" / "python.md"
    monkeypatch.chdir(tmp_path)
    experiment = load_experiment("toy")
    save_adapter(adapter_of(build_model(experiment), experiment), "runs/toy-vop")
    write_long(tmp_path / "videos/three scenes.mp4", CLIPS[1:4])
    monkeypatch.setattr("pipelines.search.windows.stream", stream_here)
    index("videos", "videos.index", "ViT-toy")
    code = re.sub(r"^```.*$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)  # a fence would be an expected line
    test = doctest.DocTestParser().get_doctest(code, {}, page.name, str(page), 0)
    assert len(test.examples) > 20
    output: list[str] = []
    doctest.DocTestRunner().run(test, out=output.append)
    assert not output, "".join(output)


# --- what it computes ---------------------------------------------------------------------------------------------


@torch.no_grad()
def test_without_an_adapter_it_is_clip(zero_shot: Retriever, paths: list[Path]) -> None:
    clip = open_clip.create_model("ViT-toy")
    clip.load_state_dict(load_file(Path(packaged[0]) / "ViT-toy.safetensors"))
    preprocess = open_clip.get_model_preprocess_cfg(clip)
    mean, std = torch.tensor(preprocess["mean"]), torch.tensor(preprocess["std"])
    video = []
    for path in paths:
        pixels = torch.from_numpy(read_frames(path, 4, 64).pixels_FHWC).float() / 255
        frames = F.normalize(clip.eval().encode_image(((pixels - mean) / std).permute(0, 3, 1, 2)), dim=-1)
        video.append(F.normalize(frames.mean(0), dim=-1))
    text = F.normalize(clip.encode_text(open_clip.get_tokenizer("ViT-toy")(TEXTS)), dim=-1)
    np.testing.assert_allclose(zero_shot.embed_videos(paths), torch.stack(video), atol=1e-5)
    np.testing.assert_allclose(zero_shot.embed_texts(TEXTS), text, atol=1e-5)
    np.testing.assert_allclose(zero_shot.similarity(TEXTS, paths), text @ torch.stack(video).T, atol=1e-5)


@pytest.mark.parametrize("variant", ["video_prompt.name=position", "video_encoder.split_layer=8", "tuning.name=lora"])
def test_an_adapter_is_the_model_that_was_saved(variant: str, paths: list[Path], tmp_path: Path) -> None:
    model, adapter = tuned(variant)
    save_adapter(adapter, str(tmp_path / "tuned"))
    for given in (tmp_path / "tuned", str(tmp_path / "tuned"), vop.load_adapter(str(tmp_path / "tuned"))):
        retriever = vop.Retriever.load(given, device="cpu")
        assert settings_of(retriever.experiment) == settings_of(adapter.experiment)
        assert retriever.experiment.training == Experiment().training, "nothing but the model is the adapter's"
        with torch.no_grad():
            text = model.encode_text(model.tokenize(TEXTS)).numpy()
        np.testing.assert_allclose(retriever.embed_texts(TEXTS), text, atol=1e-5)
        np.testing.assert_allclose(retriever.embed_videos(paths), [embedded(model, path) for path in paths], atol=1e-5)


def test_rows_are_float32_units_in_the_order_given(zero_shot: Retriever, paths: list[Path]) -> None:
    row = dict(zip(paths, zero_shot.embed_videos(paths), strict=True))
    order = [paths[3], paths[0], paths[3], paths[4]]
    found = zero_shot.embed_videos((str(path) for path in order), batch_size=2)
    assert found.dtype == np.float32 and (found[0] == found[2]).all()
    np.testing.assert_allclose(found, [row[path] for path in order], atol=1e-6)
    assert len({tuple(values.round(3)) for values in row.values()}) == len(paths)
    texts = zero_shot.embed_texts([f"a red disc {n}" for n in range(300)])  # more than are computed at once
    np.testing.assert_allclose(texts[[0, 299]], zero_shot.embed_texts(["a red disc 0", "a red disc 299"]), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(np.concatenate([texts, found]), axis=1), 1, atol=1e-5)


def test_a_video_named_twice_is_read_once(zero_shot: Retriever, paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(vop.retriever, "read_frames", lambda path, *a, **k: read.append(path) or read_frames(path, *a, **k))
    zero_shot.embed_videos([paths[0], str(paths[0]), paths[1]])
    assert sorted(read) == [str(path) for path in paths[:2]]


def test_nothing_in_nothing_out(zero_shot: Retriever, paths: list[Path]) -> None:
    assert zero_shot.embed_texts([]).shape == zero_shot.embed_videos([]).shape == (0, 64)
    assert zero_shot.similarity([], paths[:1]).shape == (0, 1)


def test_similarity_takes_embeddings_too(zero_shot: Retriever, paths: list[Path]) -> None:
    text, video = zero_shot.embed_texts(TEXTS), zero_shot.embed_videos(paths)
    expected = zero_shot.similarity(TEXTS, paths)
    assert expected.dtype == np.float32 and expected.shape == (3, 5)
    np.testing.assert_allclose(zero_shot.similarity(text, video), expected, atol=1e-6)
    np.testing.assert_allclose(zero_shot.similarity(TEXTS, video), expected, atol=1e-6)
    same = zero_shot.similarity(text, np.repeat(video[:1], 37, axis=0))
    assert (same == same[:, :1]).all(), "equal videos must tie"
    with pytest.raises(vop.VopError, match=r"videos: an array must hold embeddings \[\*, 64\], not float32 \[5, 63\]"):
        zero_shot.similarity(TEXTS, video[:, 1:])


def test_frames_are_those_of_an_evaluation(ray_cluster: None, videos: Path, tmp_path: Path) -> None:
    """Also where training draws at random, and a clip has fewer frames than there would be to draw from."""
    from pipelines.data.prepare import prepare
    from pipelines.data.store import read_manifest
    from pipelines.score.embed import embed_videos

    for sampling, count in (("random", 3), ("random", 8), ("fps", 2)):
        change = [f"frames.sampling={sampling}", f"frames.count={count}"]
        tree = {"benchmark": {"name": "folder", "videos": str(videos)}, "data": {"cache": str(tmp_path)}}
        experiment = load_experiment(tree, ["backbone.name=ViT-toy", "backbone.pretrained=ViT-toy.safetensors", *change])
        retriever = Retriever(build_model(experiment), experiment)
        store = prepare(experiment, 64).folder
        records = read_manifest(store)
        expected = embed_videos(retriever.model, store, records).numpy()
        np.testing.assert_allclose(retriever.embed_videos([record.path for record in records]), expected, atol=1e-5)


# --- threads and memory -------------------------------------------------------------------------------------------


def test_threads_may_share_one(zero_shot: Retriever, paths: list[Path]) -> None:
    text, video = zero_shot.embed_texts(TEXTS), zero_shot.embed_videos(paths)
    with ThreadPoolExecutor(4) as pool:
        many = [(pool.submit(zero_shot.embed_texts, TEXTS), pool.submit(zero_shot.embed_videos, paths)) for _ in range(6)]
    for texts, videos in many:
        np.testing.assert_allclose(texts.result(), text, atol=1e-6)
        np.testing.assert_allclose(videos.result(), video, atol=1e-6)


def test_videos_are_decoded_while_the_model_computes_but_not_far_ahead(
    zero_shot: Retriever, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, computed, ahead = [0], [0], []
    more, encode, lock = threading.Event(), zero_shot.model.encode_video, threading.Lock()

    def read(*args: object, **kwargs: object) -> object:
        with lock:
            begun[0] += 1
            ahead.append(begun[0] - computed[0])
        if begun[0] > 3:
            more.set()
        return read_frames(paths[0], 4, 64)

    def compute(pixels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        assert more.wait(30), "no video was read while the first batch was computed"
        computed[0] += len(pixels)
        return encode(pixels, mask)

    monkeypatch.setattr(vop.retriever, "read_frames", read)
    monkeypatch.setattr(zero_shot.model, "encode_video", compute)
    assert np.isfinite(zero_shot.embed_videos([f"{n}.mp4" for n in range(20)], batch_size=2)).all()
    assert begun == computed == [20] and max(ahead) <= 2 * 2


def test_a_bad_file_ends_the_reading(zero_shot: Retriever, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def fail(path: str, *args: object, **kwargs: object) -> None:
        read.append(path)
        raise FrameError(path, "missing", "no such file")

    monkeypatch.setattr(vop.retriever, "read_frames", fail)
    with pytest.raises(FrameError, match=r"^0.mp4: no such file"):
        zero_shot.embed_videos([f"{n}.mp4" for n in range(50)], batch_size=2)
    assert len(read) <= 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vop-decode")]


# --- what is refused ----------------------------------------------------------------------------------------------


def test_a_bad_file_is_named_or_a_row_of_nan(
    zero_shot: Retriever, paths: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cut [x].mp4").write_bytes(paths[0].read_bytes()[:300])
    bad = [tmp_path / "cut [x].mp4", tmp_path / "missing.mp4"]
    for path in bad:
        with pytest.raises(FrameError) as error:
            zero_shot.embed_videos([paths[0], path])
        assert error.value.path == str(path)
    with caplog.at_level(logging.WARNING, "vop.retriever"):
        found = zero_shot.embed_videos([bad[0], paths[0], bad[1], paths[1]], errors="nan", batch_size=1)
    assert np.isnan(found[[0, 2]]).all()
    np.testing.assert_allclose(found[[1, 3]], zero_shot.embed_videos(paths[:2]), atol=1e-6)
    assert [str(path) in message for path, message in zip(bad, caplog.messages, strict=True)] == [True, True]
    assert np.isnan(zero_shot.embed_videos(bad, errors="nan")).all()
    with pytest.raises(vop.VopError, match="errors='skip'"):
        zero_shot.embed_videos(paths, errors="skip")  # type: ignore[arg-type]
    with pytest.raises(vop.VopError, match="batch_size=0"):
        zero_shot.embed_videos(paths, batch_size=0)


def test_one_alone_is_no_list(zero_shot: Retriever, paths: list[Path]) -> None:
    with pytest.raises(vop.VopError, match=r"texts: give a list of strings: \['a red disc'\]"):
        zero_shot.embed_texts("a red disc")
    for alone in (paths[0], str(paths[0])):
        with pytest.raises(vop.VopError, match="videos: give a list of paths"):
            zero_shot.embed_videos(alone)  # type: ignore[arg-type]
    with pytest.raises(vop.VopError, match=r"texts: expected strings, found 3 \(int\)"):
        zero_shot.embed_texts(["a", 3])  # type: ignore[list-item]
    with pytest.raises(vop.VopError, match="videos: expected paths, found None"):
        zero_shot.embed_videos([None])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("ViT-toys", ["'ViT-toys' is neither", "ViT-B-32/openai"]),
        ("runs/no such run", ["'runs/no such run' is neither", "adapter"]),
        ("", ["'' is neither"]),
        ("ViT-B-32/no-tag", ["'no-tag'", "laion2b_s34b_b79k"]),
        ("RN50", ["RN50 is not a ViT"]),
        (Path("ViT-toy"), ["ViT-toy is not an adapter", "adapter.safetensors"]),
    ],
)
def test_an_unknown_model_is_named_with_what_is_valid(
    model: str | Path, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = ["backbone.pretrained=random"] if model == "RN50" else []
    with pytest.raises(vop.VopError) as error:
        Retriever.load(model, overrides=overrides)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_folder_comes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_adapter(tuned()[1], "ViT-toy")
    assert Retriever.load("ViT-toy").experiment.name == "toy-vop"


@pytest.mark.parametrize(
    ("name", "backbone", "pretrained"),
    [
        ("ViT-B-32/openai", "ViT-B-32", "openai"),
        ("ViT-B/32", "ViT-B-32", "openai"),
        ("ViT-B/16/laion2b_s34b_b88k", "ViT-B-16", "laion2b_s34b_b88k"),
        ("ViT-toy", "ViT-toy", "ViT-toy.safetensors"),
        ("ViT-toy/random", "ViT-toy", "random"),
    ],
)
def test_a_clip_has_a_name_and_a_tag(name: str, backbone: str, pretrained: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class BuiltError(Exception):
        pass

    def build(experiment: object) -> None:
        raise BuiltError(experiment)

    monkeypatch.setattr(vop.retriever, "build_model", build)
    with pytest.raises(BuiltError) as built:
        Retriever.load(name, overrides=["frames.count=3"])
    experiment = built.value.args[0]
    assert (experiment.backbone.name, experiment.backbone.pretrained) == (backbone, pretrained)
    assert (experiment.tuning.name, experiment.frames.count, experiment.name) == ("zero-shot", 3, backbone)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "mps", "meta", ""])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(vop.VopError, match="valid: auto, cpu"):
        Retriever.load("ViT-toy", device=device)


def test_a_device_may_be_chosen() -> None:
    for device in ("auto", "cpu", torch.device("cpu")):
        expected = "cuda" if device == "auto" and torch.cuda.is_available() else "cpu"
        assert Retriever.load("ViT-toy", device=device).device.type == expected
