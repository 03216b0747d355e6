"""`vop throughput sweep`: what a sweep of n trials costs against n separate trainings of the same, in one run."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

from pipelines.throughput import TreeTimes
from pipelines.throughput.data import Measurement
from pipelines.tracking import LoggedRun, Run, logged_runs
from vop.config import load_experiment

RATES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5)
SPACE = """from ray.tune import grid_search
SPACE = {{"training.learning_rate": grid_search({})}}
METRIC, MODE = "val/t2v/R1", "max"
"""
PARTS = COMMAND, TRIALS, OTHERS = "the command", "trials", "Ray's own processes"
WORKERS = "ray::ImplicitFunc", "ray::IDLE"  # names that Ray gives to the processes of trials


def measure(recipe: str, overrides: list[str]) -> list[Measurement]:
    """Half of the trainings before the sweep, half after it. CPU time is that of whole process trees, Ray's own included."""
    with tempfile.TemporaryDirectory(prefix="vop-sweep-") as scratch:
        folder = Path(scratch)
        fixed = [recipe, *overrides, "resources.num_workers=1", f"data.cache={folder}/cache"]
        rates = [f"{rate:.0e}" for rate in RATES]
        (folder / "space.py").write_text(SPACE.format(list(map(float, rates))))
        spent = {"trainings": 0.0, "sweep": 0.0}
        command_seconds(["prepare", *fixed])

        def train(some: list[str]) -> None:
            for rate in some:
                to = f"tracking.output={folder}/trainings"
                spent["trainings"] += sum(command_seconds(["train", *fixed, f"training.learning_rate={rate}", to]).values())

        train(rates[: len(rates) // 2])
        to = f"tracking.output={folder}/sweep"
        parts = command_seconds(["tune", *fixed, "--space", str(folder / "space.py"), to])
        train(rates[len(rates) // 2 :])
        trials = [run for run in _runs(folder / "sweep") if "trial" in run.tags]
        alone = _runs(folder / "trainings")
        shards = list((folder / "cache" / "frames").glob("*/frames/*.parquet"))
        keys = [key for shard in shards for key in pq.read_table(shard, columns=["key"])["key"].to_pylist()]
        spent["sweep"] = sum(parts.values())
        trained = {name: epoch_seconds(folder / name) for name in spent}
        ratios = {name: seconds / trained[name] for name, seconds in spent.items()}
        parts[TRIALS] -= trained["sweep"]
        same = sorted(run.metrics["test/t2v/R1"] for run in trials) == sorted(run.metrics["test/t2v/R1"] for run in alone)
        return [
            Measurement("trials of the sweep, separate trainings", f"{len(trials)}, {len(alone)}"),
            Measurement(
                "CPU time of the sweep / of its epochs", f"{ratios['sweep']:.2f}", "at most 1.06", ratios["sweep"] <= 1.06
            ),
            *(Measurement(f"of it beside the epochs: {name}", f"{parts[name] / trained['sweep']:.3f}") for name in PARTS),
            Measurement("CPU time of the separate trainings / of their epochs", f"{ratios['trainings']:.2f}"),
            Measurement("the sweep / the separate trainings", f"{spent['sweep'] / spent['trainings']:.2f}"),
            Measurement("the same test scores", "yes" if same else "no", "yes", same),
            Measurement("clips decoded, distinct", f"{len(keys)}, {len(set(keys))}", "the same", len(keys) == len(set(keys))),
        ]


def _runs(output: Path) -> list[LoggedRun]:
    return logged_runs(load_experiment("", [f"tracking.output={output}"]).tracking)


def epoch_seconds(output: Path) -> float:
    """CPU seconds of all epochs of all runs: steps and validation."""
    return sum(sum(Run(f"sqlite:///{output}/mlflow.db", run.id).history("epoch/cpu_seconds")) for run in _runs(output))


def command_seconds(words: list[str], **environment: str) -> dict[str, float]:
    """Run a vop command to its end; CPU seconds of itself, of the processes of trials, and of all else, which is Ray's.

    A worker is idle while it starts: what that takes are the libraries of trials.
    """
    command = [sys.executable, "-m", "pipelines", *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | environment)
    watched = TreeTimes(process.pid)
    if code := process.wait():
        raise RuntimeError(f"vop {' '.join(words)} ended with exit code {code}")
    spent = dict.fromkeys(PARTS, 0.0)
    for name, seconds in watched.stop().items():
        spent[COMMAND if name == "root" else TRIALS if name.startswith(WORKERS) else OTHERS] += seconds
    return spent
