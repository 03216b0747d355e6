"""Both towers as ONNX files, prompts and all that is trained inside them, compared with torch before they are called done.

`text.onnx`: token ids int64 [B, T] -> unit embeddings [B, E]. `video.onnx`: frames uint8 [B, F, H, W, 3] and a mask [B, F],
False where a frame is padding -> [B, E]. B is free. F is the adapter's, since prompts and the split layer may belong to a
frame's place; a video with fewer frames is padded. `export.json` says how texts and frames come to be.
"""

from __future__ import annotations

import logging
import warnings
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vop.export.folder import ExportError, check_embeds, library, new_folder, write_json
from vop.export.tokens import tokenizer_json
from vop.messages import one_line, root_cause
from vop.model.adapter import Adapter, model_of
from vop.model.retrieval import RetrievalModel

TOLERANCE = 1e-4  # of an embedding's numbers, between torch and onnxruntime
BATCHES = (1, 3)  # compared; the graphs are made of a batch of another size


class Text(nn.Module):
    """Token ids [B, T] -> unit embeddings [B, E]."""

    def __init__(self, model: RetrievalModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, E]."""
        return self.model.head.text_rows(*self.model.text_places(tokens, self.model.head.tokens))


class Video(nn.Module):
    """Frames uint8 [B, F, H, W, 3], mask [B, F] -> unit embeddings [B, E]."""

    def __init__(self, model: RetrievalModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """[B, E]."""
        model, F = self.model, self.model.frames
        pixels_NHWC = (frames.flatten(0, 1).float() - model.mean_C) / model.std_C
        tokens_NLD = model.video.lower(model.clip, pixels_NHWC.permute(0, 3, 1, 2), F, 0)
        frames_BFE = model.video.upper(model.clip, tokens_NLD, F, 0, mask)
        for stage in model.stages.values():
            frames_BFE = stage(frames_BFE, mask)
        return model.head.video_rows(frames_BFE, mask)


def write(adapter: Adapter, place: str | PathLike[str]) -> Path:
    """Write the folder; returns it.

    Raises ExportError for another head than `mean`, a folder that is not empty, libraries that are not installed, a method that
    the exporter does not take, and for graphs that give other embeddings than torch.
    """
    check_embeds(adapter.experiment)
    for needed in ("onnx", "onnxscript", "onnxruntime"):
        library(needed)
    model, graphs = model_of(adapter).eval(), plain(adapter)
    towers: dict[str, tuple[Any, Any]] = {"text": (Text, texts), "video": (Video, videos)}
    differences = {}
    with new_folder(place) as folder, torch.no_grad():
        for name, (tower, inputs_of) in towers.items():
            _export(name, tower(graphs), inputs_of(model, 2), folder)
            differences[name] = difference(folder / f"{name}.onnx", tower(model), inputs_of, model)
        said = _said(adapter, model, differences)
        write_json(folder / "export.json", said)
        if tokenizer := tokenizer_json(model.backbone, said["text"]["length"]):
            write_json(folder / "tokenizer.json", tokenizer)
    return folder


def plain(adapter: Adapter) -> RetrievalModel:
    """The model for a graph: changes of weights (LoRA) are added to them, and none are packed for this machine's processor."""
    model = model_of(adapter).eval()
    for module in list(model.modules()):
        for name in list(getattr(module, "parametrizations", ())):
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    return model.requires_grad_(True)  # weights that count as trained are never packed


def graph_of(tower: nn.Module, inputs: dict[str, Tensor]) -> Any:
    """What the exporter begins with: torch's graph of a tower, in which only the size of a batch is free."""
    free: dict[str, Any] = {key: {0: torch.export.Dim.DYNAMIC} for key in inputs}
    return torch.export.export(tower, (), inputs, dynamic_shapes=free)


def _export(name: str, tower: nn.Module, inputs: dict[str, Tensor], folder: Path) -> None:
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it tells of each layer that it leaves as it is
    file, embedding = folder / f"{name}.onnx", f"{name}_embedding"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = graph_of(tower, inputs)
            torch.onnx.export(graph, f=file, input_names=list(inputs), output_names=[embedding], dynamo=True, verbose=False)
    except Exception as error:  # whatever the exporter meets
        raise ExportError(f"{name}: torch.onnx.export does not take this model: {one_line(root_cause(error))[:500]}") from error


def difference(file: Path, tower: nn.Module, inputs_of: Any, model: RetrievalModel) -> float:
    """The greatest difference of a number between torch and onnxruntime. ExportError above TOLERANCE."""
    runtime = library("onnxruntime")
    try:
        session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no class in common
        raise ExportError(f"{file}: onnxruntime does not take the graph: {one_line(error)[:500]}") from error
    greatest = 0.0
    for batch in BATCHES:
        inputs = inputs_of(model, batch)
        found = torch.from_numpy(session.run(None, {key: value.numpy() for key, value in inputs.items()})[0])
        greatest = max(greatest, float((tower(**inputs) - found).abs().max()))
    if not greatest <= TOLERANCE:
        raise ExportError(f"{file}: onnxruntime's embeddings differ from torch's by {greatest:.1e}, more than {TOLERANCE:g}")
    return greatest


def texts(model: RetrievalModel, count: int) -> dict[str, Tensor]:
    """Token ids of texts of several lengths."""
    return {"tokens": model.tokenize(["a red disc " * (n * n * n + 1) for n in range(count)])}


def videos(model: RetrievalModel, count: int) -> dict[str, Tensor]:
    """Random frames, which are fewer in each video than in the one before."""
    size, generator = model.backbone.size, torch.Generator().manual_seed(0)
    shape = (count, model.frames, size, size, 3)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    mask = torch.arange(model.frames) < torch.arange(model.frames, model.frames - count, -1).clamp(min=1)[:, None]
    return {"frames": frames, "mask": mask}


def _said(adapter: Adapter, model: RetrievalModel, differences: dict[str, float]) -> dict[str, Any]:
    """What a program without torch must know."""
    frames, how = adapter.experiment.frames, model.backbone.preprocess
    return {
        "backbone": {"name": adapter.experiment.backbone.name, **adapter.backbone},
        "embedding": model.embedding_width,
        "text": {"file": "text.onnx", "input": "tokens", "length": model.backbone.context_length - model.text.shift},
        "video": {
            "file": "video.onnx",
            "inputs": ["frames", "mask"],
            "frames": frames.count,
            **frames.model_dump(include={"sampling", "candidates", "fps"}),
            "size": model.backbone.size,
            "resize": how.resize,
            "interpolation": how.interpolation,
        },
        "differences": differences,
    }
