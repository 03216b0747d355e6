"""The experiment that the tests train: seconds long, on the videos of the `videos` fixture."""

from __future__ import annotations

from pathlib import Path

from vop.config import Experiment, load_experiment


def recipe(videos: Path, work: Path, *overrides: str) -> Experiment:
    """A training on `videos` that takes seconds; everything it writes goes below `work`."""
    tree = {
        "name": "test",
        "backbone": {"name": "ViT-toy", "pretrained": "ViT-toy.safetensors"},
        "benchmark": {"name": "folder", "videos": str(videos)},
        "frames": {"count": 4},
        "text_prompt": {"length": 2},
        "video_prompt": {"length": 2},
        "training": {"epochs": 2, "batch_size": 4},
        "data": {"cache": str(work / "cache")},
        "resources": {"num_workers": 2, "cpus_per_worker": 0.5},
        "tracking": {"output": str(work / "runs")},
    }
    return load_experiment(tree, overrides)
