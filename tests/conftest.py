"""What the tests share: one Ray cluster, a small folder of real videos with its recipe, and a training of it."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vop.config import Experiment, load_experiment
from vop.toy.videos import frames_of, plan, write_video

if TYPE_CHECKING:
    from pipelines.train import Result


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A Ray of the tests' own, started once."""
    from pipelines.cluster import connected

    with (
        tempfile.TemporaryDirectory(prefix="vop-ray-", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_TMPDIR", folder)
        patch.delenv("RAY_ADDRESS", raising=False)
        with connected():
            yield


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve toy clips, two of them with two captions, and their captions.csv (6 train, 2 val, 4 test)."""
    folder = tmp_path_factory.mktemp("videos")
    rows = []
    for number, clip in enumerate(plan()[0][:12]):
        name = f"clip {number}.mp4"
        write_video(folder / name, [picture[:64, :64] for picture in frames_of(clip)[::6]], rate=8)
        split = "train" if number < 6 else "val" if number < 8 else "test"
        rows += [[name, caption, split] for caption in clip.captions[: 2 if number < 2 else 1]]
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["video", "caption", "split"], *rows])
    return folder


@pytest.fixture(scope="session")
def trained(ray_cluster: None, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A finished training of `recipe`."""
    from pipelines.train import run_experiment

    return run_experiment(recipe(videos, tmp_path_factory.mktemp("trained")))


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
