"""`vop throughput start`: what commands cost that have nothing to do, as a user runs them."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from pipelines.data.prepare import prepare
from pipelines.search.search import search
from pipelines.throughput.clips import write_clip
from pipelines.throughput.data import Measurement
from vop.annotations.records import SPLITS
from vop.config import load_experiment
from vop.model.adapter import adapter_of, save_adapter
from vop.model.architecture import image_size
from vop.model.retrieval import build_model

CLIPS, QUERY = 6, "a red ball moves"
GOALS = {"--help": 0.5, "a wrong word": 1.5, "prepare": 1.5, "check": 4.0, "search": 4.0}  # CPU seconds

# Between us and the command, since a process's peak begins with that of the one that started it.
COUNTED = """import os, resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)"""


def measure(rounds: int) -> list[Measurement]:
    """CPU seconds (median over the rounds) and peak memory of each command; all of them once in each round."""
    with tempfile.TemporaryDirectory(prefix="vop-start-") as scratch:
        commands = _prepared(Path(scratch))
        costs = {name: [_cost(words) for _ in range(rounds)] for name, words in commands.items()}
    found = []
    for name, of_it in costs.items():
        seconds, goal = statistics.median(cpu for cpu, _ in of_it), GOALS[name]
        found.append(Measurement(f"{name}: CPU seconds", f"{seconds:.2f}", f"at most {goal}", seconds <= goal))
        found.append(Measurement(f"{name}: MiB at its peak", f"{max(mib for _, mib in of_it):.0f}"))
    return found


def _prepared(folder: Path) -> dict[str, list[str]]:
    """The commands, on a folder of videos that is decoded and embedded already."""
    (folder / "videos").mkdir()
    for seed in range(CLIPS):
        write_clip(folder / "videos" / f"{seed}.mp4", seed, 12, size=(96, 72), frames=16)
    lines = "".join(f"{seed}.mp4,clip {seed},{SPLITS[seed % len(SPLITS)]}\n" for seed in range(CLIPS))
    (folder / "videos" / "captions.csv").write_text(f"video,caption,split\n{lines}", encoding="utf-8")
    words = ["backbone.name=ViT-toy", "backbone.pretrained=ViT-toy.safetensors", f"data.cache={folder}/cache"]
    on_folder = [f"benchmark.videos={folder}/videos", f"tracking.output={folder}/runs", *words]
    experiment = load_experiment("folder", on_folder)
    adapter = save_adapter(adapter_of(build_model(experiment), experiment), folder / "adapter")
    prepare(experiment, image_size(experiment.backbone))
    search(adapter, f"{folder}/videos", [QUERY], overrides=words[-1:])
    return {
        "--help": ["--help"],
        "a wrong word": ["train", "toy", "training.epoch=3"],
        "prepare": ["prepare", "folder", *on_folder],
        "check": ["check", "folder", *on_folder],
        "search": ["search", str(adapter), f"{folder}/videos", QUERY, words[-1]],
    }


def _cost(words: list[str]) -> tuple[float, float]:
    """CPU seconds and peak memory in MiB of a command and what it waited for."""
    command = [sys.executable, "-c", COUNTED, sys.executable, "-m", "pipelines", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    cpu, peak = map(float, done.stdout.split())
    return cpu, peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB elsewhere
