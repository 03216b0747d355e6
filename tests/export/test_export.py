"""A tuned model in other libraries' forms: the same embeddings there, and a sentence for what cannot be."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from pipelines.cli import exporting
from tests.support.tiny import disturb
from tests.support.videos import write_clips
from vop.config import load_experiment
from vop.errors import AdapterError
from vop.export import onnx, peft, sentence_transformers
from vop.export.folder import ExportError, new_folder
from vop.export.readme import write_readme
from vop.export.sentence_transformers import Encoder
from vop.export.tokens import tokenizer_json
from vop.model.adapter import Adapter, adapter_of, load_adapter, model_of, save_adapter
from vop.model.card import CARD, PEFT_CONFIG, PEFT_TENSORS, TENSORS
from vop.model.low_rank import from_peft, peft_shapes, to_peft
from vop.model.retrieval import build_model
from vop.retriever import InputError, Retriever

ROOT = Path(__file__).parents[2]
TEXTS = ["a red disc on a dark wall", "a golden box pulses", "green " * 60]


def adapter(*overrides: str, **notes: Any) -> Adapter:
    """Of a model that has moved away from where its training would begin."""
    experiment = load_experiment("toy", ["frames.count=3", *overrides])
    model = build_model(experiment)
    disturb(model.trainable().values(), 0.05)
    return adapter_of(model, experiment, **notes)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder)
    return [str(path) for path in sorted(folder.glob("*.mp4"))[:2]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sentence_transformers.write(adapter("video_prompt.name=position"), tmp_path_factory.mktemp("st") / "model")


class TestSentenceTransformers:
    def test_the_module_embeds_as_the_retriever_does(self, folder: Path, clips: list[str]) -> None:
        (module,) = json.loads((folder / "modules.json").read_text())
        name, _, kind = module["type"].rpartition(".")
        encoder: Encoder = getattr(import_module(name), kind).load(str(folder), subfolder="", trust_remote_code=True)
        retriever = Retriever.load(folder, device="cpu")
        mixed = encoder(encoder.preprocess([clips[1], TEXTS[0], Path(clips[0]), TEXTS[1], {"text": TEXTS[2]}]))
        found = mixed["sentence_embedding"].numpy()
        assert np.array_equal(found[[1, 3, 4]], retriever.embed_texts(TEXTS))
        assert np.array_equal(found[[0, 2]], retriever.embed_videos([clips[1], clips[0]]))
        assert encoder.get_embedding_dimension() == retriever.dim == found.shape[1]

    def test_a_string_is_a_video_where_it_is_a_file_of_one(self, folder: Path, clips: list[str]) -> None:
        encoder = Encoder.load(str(folder))
        given = [clips[0], "missing.mp4", {"video": "missing.mp4"}, "a clip.mp4 of a dog"]
        kinds = [next(iter(one)) for one in encoder.preprocess(given, prompt="query: ")["inputs"]]
        assert kinds == ["video", "text", "video", "text"]
        for wrong in (3, None, {"image": "a.jpg"}, {"video": 3}, ["a", "b"]):
            with pytest.raises(InputError, match="expected a text, or a video as"):
                encoder.preprocess([wrong])

    def test_what_it_saves_is_loaded(self, folder: Path, tmp_path: Path) -> None:
        Encoder.load(str(folder)).save(str(tmp_path / "again"))
        assert load_adapter(tmp_path / "again").fingerprint == load_adapter(folder).fingerprint

    def test_sentence_transformers_itself(self, folder: Path, clips: list[str]) -> None:
        pytest.importorskip("sentence_transformers")
        from sentence_transformers import SentenceTransformer

        model, retriever = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu"), Retriever.load(folder)
        assert np.array_equal(model.encode(TEXTS), retriever.embed_texts(TEXTS))
        assert np.array_equal(model.encode(clips), retriever.embed_videos(clips))
        assert np.array_equal(model.encode([{"video": clip} for clip in clips]), retriever.embed_videos(clips))
        assert np.allclose(model.similarity(model.encode(TEXTS), model.encode(clips)), retriever.similarity(TEXTS, clips))

    def test_another_head_is_refused(self, tmp_path: Path) -> None:
        for write in (sentence_transformers.write, onnx.write, peft.write):
            with pytest.raises(ExportError, match="xpool"):
                write(adapter("head.name=xpool"), tmp_path / "model")
        assert not (tmp_path / "model").exists()

    def test_a_folder_of_something_else_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("years of work")
        with pytest.raises(ExportError, match="give a folder that is new or empty"):
            sentence_transformers.write(adapter(), tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]

    def test_what_fails_leaves_nothing_behind(self, tmp_path: Path) -> None:
        with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "half") as folder:
            (folder / "text.onnx").write_text("half of it")
            raise KeyboardInterrupt
        assert not (tmp_path / "half").exists()


class TestCommands:
    @pytest.mark.parametrize("form", ["sentence-transformers", "peft"])
    def test_export(self, form: Any, tmp_path: Path) -> None:
        saved = save_adapter(adapter("tuning.name=lora"), tmp_path / "adapter")
        exporting.export(str(saved), tmp_path / "out", form, [], "mit")
        assert load_adapter(tmp_path / "out").fingerprint == load_adapter(saved).fingerprint
        block = yaml.safe_load((tmp_path / "out/README.md").read_text().split("---\n")[1])
        assert (block["library_name"], block["license"]) == (form, "mit")

    @pytest.mark.parametrize(
        ("head", "files"), [("mean", {"modules.json", "config_sentence_transformers.json"}), ("wti", set())]
    )
    def test_push(self, head: str, files: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        saved = save_adapter(adapter(f"head.name={head}"), tmp_path / "adapter")
        sent: dict[str, Any] = {}

        def take(folder: Path, place: str, private: bool) -> str:
            sent.update(files={path.name for path in folder.iterdir()}, place=place, private=private)
            return "http://hub/commit"

        monkeypatch.setattr("vop.model.hub.pushed", take)
        exporting.push(str(saved), "hf://lab/toy", [], private=True)
        assert sent == {"files": {CARD, TENSORS, "README.md", *files}, "place": "hf://lab/toy", "private": True}
        with pytest.raises(AdapterError, match="is no place on the hub"):
            exporting.push(str(saved), "lab/toy", [])


class TestPeft:
    @pytest.fixture
    def lora(self) -> Adapter:
        return adapter("tuning.name=lora", "tuning.rank=3", "tuning.alpha=5")

    def test_the_folder_is_an_adapter_too(self, lora: Adapter, tmp_path: Path) -> None:
        folder = peft.write(lora, tmp_path / "peft")
        assert {path.name for path in folder.iterdir()} == {CARD, PEFT_CONFIG, PEFT_TENSORS}
        found = load_adapter(folder)
        assert found.fingerprint == lora.fingerprint
        assert all(torch.equal(found.tensors[name], tensor) for name, tensor in lora.tensors.items())

    def test_the_change_of_a_weight_is_the_same(self, lora: Adapter) -> None:
        layout, model = to_peft(lora.tensors), model_of(lora)
        module = "visual.transformer.resblocks.2.attn"
        down, up = (layout[f"base_model.model.{module}.lora_{part}.weight"] for part in "AB")
        attn = model.clip.get_submodule(module)
        change = attn.in_proj_weight - attn.parametrizations.in_proj_weight.original
        torch.testing.assert_close((2 * 5) / (2 * 3) * up @ down, change, atol=1e-6, rtol=0)

    def test_weights_that_are_not_fused_have_one_change_each(self) -> None:
        name = "clip.visual.trunk.blocks.0.attn.q_proj.parametrizations.weight.0."
        tensors = {f"{name}down": torch.randn(1, 2, 6), f"{name}up": torch.randn(1, 6, 2)}
        shapes = {key: list(tensor.shape) for key, tensor in tensors.items()}
        module = "base_model.model.visual.trunk.blocks.0.attn.q_proj"
        assert peft_shapes(shapes) == {f"{module}.lora_A.weight": [2, 6], f"{module}.lora_B.weight": [6, 2]}
        found = from_peft(to_peft(tensors), shapes)
        assert all(torch.equal(found[key], tensor) for key, tensor in tensors.items())

    def test_changes_that_this_lora_has_not_are_refused(self, lora: Adapter, tmp_path: Path) -> None:
        from safetensors.torch import load_file, save_file

        folder = peft.write(lora, tmp_path / "peft")
        tensors = load_file(folder / PEFT_TENSORS)
        prefix, width = "base_model.model.visual.transformer.resblocks.0.attn", 64
        for name, place in {"lora_B": (width, 0), "base_layer.out_proj.lora_B": (0, 0), "lora_B.": (0, 5)}.items():
            key = f"{prefix}.{name.rstrip('.')}.weight"
            changed = {**tensors, key: tensors[key].clone()}
            changed[key][place] = 1.0
            save_file(changed, folder / PEFT_TENSORS)
            with pytest.raises(AdapterError, match="can be used with PEFT alone"):
                load_adapter(folder)

    @pytest.mark.parametrize(
        ("key", "value"), [("r", 2), ("lora_alpha", 1), ("use_rslora", True), ("target_modules", ["attn"])]
    )
    def test_a_config_that_says_something_else_is_refused(self, lora: Adapter, tmp_path: Path, key: str, value: Any) -> None:
        folder = peft.write(lora, tmp_path / "peft")
        config = json.loads((folder / PEFT_CONFIG).read_text())
        (folder / PEFT_CONFIG).write_text(json.dumps({**config, key: value}))
        with pytest.raises(AdapterError, match=f"{PEFT_CONFIG}: {key}: expected"):
            load_adapter(folder)
        (folder / PEFT_CONFIG).write_text("{")
        with pytest.raises(AdapterError, match="is not PEFT's"):
            load_adapter(folder)

    def test_other_methods_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ExportError, match=r"PEFT has tuning\.name=lora"):
            peft.write(adapter(), tmp_path / "peft")

    def test_peft_itself(self, lora: Adapter, tmp_path: Path) -> None:
        library = pytest.importorskip("peft")
        folder, model = peft.write(lora, tmp_path / "peft"), model_of(lora)
        zero_shot = build_model(load_experiment("toy", ["tuning.name=zero-shot"]))
        tuned = library.PeftModel.from_pretrained(zero_shot.clip, str(folder)).eval()
        tokens, pixels = model.tokenize(TEXTS), torch.rand(2, 3, model.backbone.size, model.backbone.size)
        with torch.no_grad():
            torch.testing.assert_close(tuned.encode_text(tokens, normalize=True), model.encode_text(tokens), atol=1e-5, rtol=0)
            frames_BE = torch.nn.functional.normalize(model.video(model.clip, pixels, 1)[:, 0], dim=-1)
            torch.testing.assert_close(tuned.encode_image(pixels, normalize=True), frames_BE, atol=1e-5, rtol=0)


class TestOnnx:
    @pytest.mark.usefixtures("slow")
    @pytest.mark.parametrize("overrides", [["video_prompt.name=context", "video_encoder.split_layer=8"], ["tuning.name=lora"]])
    def test_the_towers_have_a_graph_that_is_right_for_other_batches(self, overrides: list[str]) -> None:
        """What the exporter begins with; it needs no other library."""
        tuned = adapter(*overrides)
        model, own = onnx.plain(tuned), model_of(tuned)
        for tower, inputs, encode in (
            (onnx.Text(model), onnx.texts, own.encode_text),
            (onnx.Video(model), onnx.videos, own.encode_video),
        ):
            with torch.no_grad():
                graph = onnx.graph_of(tower, inputs(model, 2)).module()
                for batch in (1, 3):
                    given = inputs(model, batch)
                    torch.testing.assert_close(graph(**given), encode(*given.values()), atol=1e-5, rtol=0)

    def test_without_its_libraries_it_is_said_what_to_install(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "onnx", None)
        with pytest.raises(ExportError, match=r"onnx is needed.*pip install 'vop\[export\]'"):
            onnx.write(adapter(), tmp_path / "onnx")
        assert not (tmp_path / "onnx").exists()

    @pytest.mark.usefixtures("slow")
    @pytest.mark.parametrize("overrides", [["video_prompt.name=position", "video_encoder.split_layer=8"], ["tuning.name=lora"]])
    def test_onnxruntime_gives_the_same_embeddings(self, overrides: list[str], tmp_path: Path) -> None:
        for library in ("onnx", "onnxscript"):
            pytest.importorskip(library)
        runtime = pytest.importorskip("onnxruntime")
        tuned = adapter(*overrides)
        folder, model = onnx.write(tuned, tmp_path / "onnx"), model_of(tuned)
        said = json.loads((folder / "export.json").read_text())
        assert max(said["differences"].values()) <= onnx.TOLERANCE and said["video"]["frames"] == 3
        given = onnx.videos(model, 5)
        session = runtime.InferenceSession(str(folder / said["video"]["file"]), providers=["CPUExecutionProvider"])
        found = session.run(None, {name: given[name].numpy() for name in said["video"]["inputs"]})[0]
        with torch.no_grad():
            np.testing.assert_allclose(found, model.encode_video(*given.values()).numpy(), atol=1e-4)

    def test_a_graph_that_differs_is_no_export(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Session:
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                pass

            def run(self, names: None, inputs: dict[str, Any]) -> list[Any]:
                return [np.zeros((len(inputs["tokens"]), 64), np.float32)]

        monkeypatch.setattr(onnx, "library", lambda name: type("Module", (), {"InferenceSession": Session}))
        model = model_of(adapter())
        with torch.no_grad(), pytest.raises(ExportError, match=r"text.onnx: onnxruntime's embeddings differ from torch's by"):
            onnx.difference(tmp_path / "text.onnx", onnx.Text(model), onnx.texts, model)


def test_a_readme_has_the_metadata_that_hubs_read(tmp_path: Path) -> None:
    tuned = adapter("seed=7", test={"t2v/R1": 41.5, "t2v/MdR": 2.0, "v2t/R1": 40.0, "t2v/queries": 400})
    write_readme(tuned, tmp_path, "sentence-transformers", "apache-2.0")
    text = (tmp_path / "README.md").read_text()
    block = yaml.safe_load(text.split("---\n")[1])
    assert (block["license"], block["library_name"]) == ("apache-2.0", "sentence-transformers")
    assert block["pipeline_tag"] == "feature-extraction" and "text-video-retrieval" in block["tags"]
    assert block["datasets"] == ["toy"]
    (result,) = block["model-index"][0]["results"]
    found = {one["name"]: one["value"] for one in result["metrics"]}
    assert found["R@1, text to video (seed 7)"] == 41.5 and found["R@1, video to text (seed 7)"] == 40.0
    assert "base_model" not in block  # ViT-toy is on no hub
    write_readme(adapter(), tmp_path)
    block = yaml.safe_load((tmp_path / "README.md").read_text().split("---\n")[1])
    assert block["library_name"] == "vop" and not block.keys() & {"license", "model-index", "metrics"}


def test_a_readme_of_a_stranger_s_notes_is_one_all_the_same(tmp_path: Path) -> None:
    tuned = adapter(test=["nothing"], trained_on=3)
    object.__setattr__(tuned, "notes", {"test": {"t2v/R1": "---\nlicense: mit"}, "trained_on": {"benchmark": {"name": None}}})
    write_readme(tuned, tmp_path)
    assert "license" not in yaml.safe_load((tmp_path / "README.md").read_text().split("---\n")[1])


def test_adapter_files_of_an_export_are_the_adapter(folder: Path) -> None:
    assert (folder / TENSORS).is_file() and load_adapter(folder).experiment.frames.count == 3


SNIPPETS = re.findall(
    r"^```python\n(.*?)^```$", (ROOT / "docs/export.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
)


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("snippet", SNIPPETS, ids=["sentence-transformers", "mteb", "onnx"])
def test_a_snippet_of_the_page_runs(
    snippet: str, clips: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for library in re.findall(r"^(?:from|import) (\w+)", snippet, re.MULTILINE):
        pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    for number, clip in enumerate(clips):
        (tmp_path / f"{number}.mp4").symlink_to(clip)
    tuned = adapter()
    for form, write in (("model-st", sentence_transformers.write), ("model-onnx", onnx.write)):
        if form in snippet:
            write(tuned, tmp_path / form)
    names: dict[str, Any] = {"__name__": "snippet"}
    exec(compile(snippet, "docs/export.md", "exec"), names)
    assert capsys.readouterr().out
    if "onnx" in snippet:
        scores = Retriever.load(tuned, device="cpu").similarity(["a red disc", "a golden box"], clips)
        np.testing.assert_allclose(names["text"] @ names["video"].T, scores, atol=1e-4)


def test_tokens_without_torch_are_the_same(folder: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    model = model_of(load_adapter(folder))
    length = model.backbone.context_length - model.text.shift
    content = tokenizer_json(model.backbone, length)
    assert content is not None and content["truncation"]["max_length"] == length
    found = tokenizers.Tokenizer.from_str(json.dumps(content))
    texts = ["a red disc", "It's 3.5 m HIGH!!  jump-ing", "naïve café 犬 🐕", "word " * 90, "", "tab\tand\nline "]
    assert [one.ids for one in found.encode_batch(texts)] == model.tokenize(texts).tolist()


def test_a_tokenizer_of_transformers_is_not_written(folder: Path) -> None:
    backbone = model_of(load_adapter(folder)).backbone
    assert tokenizer_json(dataclasses.replace(backbone, tokenizer=object()), 40) is None
