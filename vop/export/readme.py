"""The README.md of an adapter: what it is, and the block of metadata that hubs read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from vop.export.folder import own_weights
from vop.model.adapter import Adapter
from vop.places import told

TASK = {"type": "text-to-video-retrieval", "name": "Text-video retrieval"}
SHOWN = {"R1": "R@1", "R5": "R@5", "R10": "R@10", "MdR": "MdR", "MnR": "MnR"}
DIRECTIONS = {"t2v": "text to video", "v2t": "video to text"}
USES = {
    "": 'vop.Retriever.load("PLACE").similarity(["a dog jumps over a fence"], ["clip.mp4"])',
    "sentence-transformers": 'SentenceTransformer("PLACE", trust_remote_code=True).encode(["a dog jumps over a fence"])',
    "onnx": 'onnxruntime.InferenceSession("PLACE/text.onnx")  # export.json says what goes in',
    "peft": 'vop.Retriever.load("PLACE")  # or PeftModel.from_pretrained(CLIP_OF_OPEN_CLIP, "PLACE")',
}


def metadata(adapter: Adapter, form: str = "", license: str = "") -> dict[str, Any]:
    """What hubs read. license: of the weights, which only their owner can say; without it there is none."""
    found: dict[str, Any] = {"library_name": form or "vop", "pipeline_tag": "feature-extraction"}
    found |= {"license": license} if license else {}
    found |= {"base_model": base} if (base := base_model(adapter)) else {}
    found["tags"] = ["text-video-retrieval", "clip", "vop", *sorted({adapter.experiment.tuning.name, *_prompts(adapter)})]
    benchmark, results = _benchmark(adapter), _metrics(adapter)
    if benchmark:
        found["datasets"] = [benchmark]
    if benchmark and results:
        data = {"type": benchmark, "name": benchmark, "split": "test"}
        found["metrics"] = list(dict.fromkeys(one["type"] for one in results))
        found["model-index"] = [{"name": _name(adapter), "results": [{"task": TASK, "dataset": data, "metrics": results}]}]
    return found


def write_readme(adapter: Adapter, folder: Path, form: str = "", license: str = "") -> None:
    """Write README.md into a folder. Raises PlaceError where it cannot be written."""
    experiment, backbone = adapter.experiment, adapter.experiment.backbone
    block = yaml.safe_dump(metadata(adapter, form, license), sort_keys=False, allow_unicode=True)
    weights = "a file of weights" if own_weights(experiment) else backbone.pretrained
    lines = [
        f"---\n{block}---\n\n# {_name(adapter)}\n",
        f"Text-video retrieval with {backbone.name} ({weights}) of open_clip, whose own weights are not in this folder.\n",
        "| | |\n|---|---|",
        *(f"| {key} | {value} |" for key, value in _facts(adapter).items()),
        *(f"| {one['name']} | {one['value']:.1f} |" for one in _metrics(adapter)),
        f"\n```python\n{USES.get(form, USES[''])}\n```\n",
        "Made by `vop`.",
    ]
    with told(str(folder)):
        (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def base_model(adapter: Adapter) -> str:
    """The name on the hub of the CLIP that it belongs to; "" where it is on none."""
    import open_clip

    backbone = adapter.experiment.backbone
    said: dict[str, Any] = open_clip.get_pretrained_cfg(backbone.name, backbone.pretrained) or {}
    return str(said.get("hf_hub") or "").rstrip("/")


def _name(adapter: Adapter) -> str:
    return adapter.experiment.name


def _prompts(adapter: Adapter) -> list[str]:
    return [f"{adapter.experiment.video_prompt.name}-prompts"] if adapter.experiment.video_prompt.length else []


def _facts(adapter: Adapter) -> dict[str, Any]:
    experiment = adapter.experiment
    return {
        "tuning": experiment.tuning.name,
        "trained parameters": f"{sum(tensor.numel() for tensor in adapter.tensors.values()):,}",
        "frames of a video": experiment.frames.count,
        "head": experiment.head.name,
        "seed": experiment.seed,
        **({"benchmark": benchmark} if (benchmark := _benchmark(adapter)) else {}),
    }


def _benchmark(adapter: Adapter) -> str:
    """The name of the benchmark that it was trained on, as its notes have it."""
    trained = adapter.notes.get("trained_on")
    benchmark = trained.get("benchmark") if isinstance(trained, dict) else None
    return str(benchmark.get("name") or "")[:100] if isinstance(benchmark, dict) else ""


def _metrics(adapter: Adapter) -> list[dict[str, Any]]:
    """R@K and ranks of the test split as its notes have them, for one seed."""
    test = adapter.notes.get("test")
    said: dict[str, Any] = test if isinstance(test, dict) else {}
    return [
        {"type": key, "value": float(value), "name": f"{shown}, {words} (seed {adapter.experiment.seed})"}
        for way, words in DIRECTIONS.items()
        for key, shown in SHOWN.items()
        if isinstance(value := said.get(f"test/{way}/{key}", said.get(f"{way}/{key}")), int | float)
    ]
