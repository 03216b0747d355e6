"""Ctrl-C and SIGTERM at every stage: `stopped`, its exit code, a KILLED run; no process is left and no empty folder.

Calls from Python are in test_resume.py.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import mlflow
import psutil
import pytest
import yaml

from pipelines.data.prepare import prepare
from pipelines.score.adapters import find_adapter
from pipelines.tracking import tracking_uri
from tests.support.recipe import recipe
from tests.support.stores import decode_here
from vop.config import Experiment
from vop.model.adapter import adapter_of, save_adapter
from vop.model.retrieval import build_model

# A command that says so where it is in a stage, and stays there: in what it does at the first progress that it shows.
COMMAND = """
import sys, time
from vop import messages
stage, add = sys.argv.pop(1), messages.Progress.add

def stay(self, done=1, note=""):
    add(self, done, note)
    if self.doing == stage:
        print("at", stage, flush=True)
        time.sleep(600)

messages.Progress.add = stay
if stage == "the index":
    from pipelines.search import search
    search.embed_videos = lambda *arguments: (print("at", stage, flush=True), time.sleep(600))
from pipelines.cli import app
app()
"""
WITHIN = 15.0
SPACE = """
from ray import tune
SPACE = {"video_prompt.length": tune.grid_search([1, 2])}
METRIC, MODE = "val/t2v/R1", "max"
"""


@pytest.fixture
def started(tmp_path: Path) -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory(prefix="vop-", ignore_cleanup_errors=True) as scratch:  # sockets need short paths
        yield {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"RAY_TMPDIR": scratch}


def stopped_at(line: str, command: list[str], environment: dict[str, str], folder: Path, signum: signal.Signals) -> int:
    """The exit code of a command that got a signal when it printed `line`; its processes have ended and it said `stopped`."""
    log, family = folder / "log", []
    with log.open("w") as output:
        process = psutil.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True, preexec_fn=listens
        )
        try:
            deadline = time.monotonic() + 300
            while line not in log.read_text():
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            family = process.children(recursive=True)
            process.send_signal(signum)
            code = process.wait(60)
            _, alive = psutil.wait_procs(family, timeout=WITHIN)
        finally:
            for left in (process, *family):
                with suppress(psutil.NoSuchProcess):
                    left.kill()
    text = log.read_text()
    assert [one for one in alive if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == [], text
    # what begins with (pid=... is of Ray's own workers
    noise = [line for line in text.splitlines() if line.startswith(("Traceback", "***", "Exception ignored", "["))]
    assert text.splitlines()[-1] == "stopped" and not noise, f"exit code {code}: {text}"
    empty = [place for place in folder.rglob("*") if place.is_dir() and not any(place.iterdir())]
    assert empty == [] and not list(folder.rglob("*partial*")), text
    return int(code)


def listens() -> None:
    """What a shell starts in the background ignores Ctrl-C, and so does all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def statuses(experiment: Experiment) -> list[str]:
    client = mlflow.MlflowClient(tracking_uri=tracking_uri(experiment.tracking))
    (found,) = [one for one in client.search_experiments() if one.name == experiment.tracking.experiment]
    return [run.info.status for run in client.search_runs([found.experiment_id])]


def of_recipe(experiment: Experiment, folder: Path) -> str:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(experiment.tree()), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_while_toy_is_written(signum: signal.Signals, started: dict[str, str], own_ray: None, tmp_path: Path) -> None:
    command = [sys.executable, "-c", COMMAND, "writing toy videos", "prepare", "toy"]
    places = [f"data.cache={tmp_path}/cache", f"benchmark.videos={tmp_path}/toy"]
    code = stopped_at("at writing", [*command, *places], started, tmp_path, signum)
    assert code == 128 + signum


@pytest.mark.parametrize(
    ("stage", "line", "signum"),
    [
        ("start", "starting Ray", signal.SIGTERM),
        ("decoding", "at decoding", signal.SIGTERM),
        ("", "epoch 1/1000", signal.SIGINT),
        ("embedding", "at embedding", signal.SIGINT),
    ],
)
def test_while_a_training_is_at(
    stage: str, line: str, signum: signal.Signals, started: dict[str, str], own_ray: None, videos: Path, tmp_path: Path
) -> None:
    epochs = 1 if stage else 1000
    experiment = recipe(videos, tmp_path, f"training.epochs={epochs}", "resources.num_workers=1")
    command = [sys.executable, "-c", COMMAND, stage, "train", of_recipe(experiment, tmp_path)]
    assert stopped_at(line, command, started, tmp_path, signum) == 128 + signum
    assert stage == "start" or statuses(experiment) == ["KILLED"]
    kept = list((tmp_path / "runs").glob("test-*/adapter.safetensors"))
    assert len(kept) == (stage == "embedding"), "what is trained is kept"
    assert len(list((tmp_path / "runs").glob("checkpoints/*/epoch-*"))) == (stage in ("", "embedding"))


def test_a_sweep(started: dict[str, str], own_ray: None, videos: Path, tmp_path: Path) -> None:
    experiment = recipe(videos, tmp_path, "training.epochs=1000", "resources.num_workers=1", "resources.cpus_per_worker=1")
    (tmp_path / "space.py").write_text(SPACE)
    words = ["tune", of_recipe(experiment, tmp_path), "--space", str(tmp_path / "space.py")]
    command = [sys.executable, "-c", COMMAND, "", *words]
    assert stopped_at("sweep: 2 trials", command, started, tmp_path, signal.SIGTERM) == 143
    assert set(statuses(experiment)) == {"KILLED"}


@pytest.mark.parametrize(("stage", "signum"), [("decoding", signal.SIGTERM), ("the index", signal.SIGINT)])
def test_a_search(
    stage: str,
    signum: signal.Signals,
    started: dict[str, str],
    own_ray: None,
    videos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    experiment = recipe(videos, tmp_path)
    folder = save_adapter(adapter_of(build_model(experiment), experiment), tmp_path / "adapter")
    cache = f"data.cache={tmp_path}/cache"
    if stage == "the index":  # what is decoded already needs no Ray
        monkeypatch.setattr("pipelines.data.decode.decode", decode_here)
        gallery = find_adapter(folder, ["benchmark.name=gallery", f"benchmark.videos={videos}", cache]).experiment
        prepare(gallery, 64)
    command = [sys.executable, "-c", COMMAND, stage, "search", str(folder), str(videos), "a red ball", cache]
    assert stopped_at(f"at {stage}", command, started, tmp_path, signum) == 128 + signum
    assert not list(tmp_path.rglob("index-*"))
