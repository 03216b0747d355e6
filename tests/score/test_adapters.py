"""What an adapter is scored on: a recipe, or the run that trained it as the user's MLflow has it; never what its files say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.score.adapters import find_adapter, find_scored
from pipelines.tracking import tracked_run
from vop.config import ConfigError, Experiment, load_experiment
from vop.model.adapter import Adapter, save_adapter, settings_of
from vop.model.card import CARD

TREE = {
    "backbone": {"name": "ViT-toy", "pretrained": "ViT-toy.safetensors", "quick_gelu": False},
    "benchmark": {"name": "folder", "videos": "s3://ME:SESAME@bucket/videos", "split_seed": 3},
    "frames": {"count": 6},
    "tuning": {"name": "zero-shot"},
    "resources": {"num_workers": 3},
}
AGAIN = "benchmark.videos=s3://ME:SESAME@bucket/videos"


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)  # where the default tracking database would be
    return load_experiment({**TREE, "data": {"cache": str(tmp_path / "cache")}, "tracking": {"output": str(tmp_path / "mine")}})


@pytest.fixture
def folder(experiment: Experiment, tmp_path: Path) -> Path:
    """The adapter of a run that this MLflow has."""
    with tracked_run(experiment) as run:
        pass
    return save_adapter(Adapter(experiment, {"weights": 64 * "0"}, {}, {"run": run.id}), tmp_path / "adapter")


def test_the_run_says_what_to_score_on(folder: Path, experiment: Experiment) -> None:
    output = f"tracking.output={experiment.tracking.output}"
    assert find_scored(folder, [output, AGAIN]).experiment == experiment
    with pytest.raises(ConfigError, match=r"benchmark\.videos: run \w{8} keeps no secrets: give it again"):
        find_scored(folder, [output])
    other = find_scored(folder, [output, "benchmark.name=toy"]).experiment
    assert (other.benchmark.name, other.benchmark.videos, other.resources.num_workers) == ("toy", "", 3)


def test_without_its_run_a_recipe_says_it(folder: Path, experiment: Experiment, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing says what to score it on, .*give a recipe"):
        find_scored(folder)
    found = find_scored(folder, ["data.cache=/scratch"], "toy").experiment
    toy = load_experiment("toy")
    assert (found.benchmark, found.resources, found.data.cache) == (toy.benchmark, toy.resources, "/scratch")
    assert settings_of(found) == settings_of(experiment), "the model is the adapter's"
    assert find_scored(folder, ["benchmark.name=toy"]).experiment.resources == Experiment().resources
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(json.dumps(experiment.tree()), encoding="utf-8")
    assert find_scored(folder, [], str(recipe)).experiment == experiment


@pytest.mark.usefixtures("slow")
def test_nothing_that_an_adapter_says_counts(folder: Path) -> None:
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    places = {"data": {"cache": "s3://THEIRS@bucket"}, "tracking": {"uri": "http://theirs.example", "output": "/theirs"}}
    old = {
        **card,
        "format": 2,
        "experiment": card.pop("model") | places | {"benchmark": {"name": "folder", "videos": "~/.ssh"}},
    }
    for run in ("../../x", "0" * 32, ["x"], "*", None):
        (folder / CARD).write_text(json.dumps({**old, "notes": {"run": run, "trained_on": places}}), encoding="utf-8")
        with pytest.raises(ConfigError, match="nothing says what to score it on"):
            find_scored(folder)
        found = find_adapter(folder, ["frames.count=4"]).experiment
        assert found.data == Experiment().data and found.tracking == Experiment().tracking
        assert found.benchmark == Experiment().benchmark and found.frames.count == 4


def test_overrides_that_do_not_fit_the_model_are_refused_at_once(folder: Path) -> None:
    changes = ["tuning.name=prompts", "text_prompt.length=46", "video_prompt.length=1"]
    with pytest.raises(ConfigError, match=r"text_prompt\.length: 46 prompts leave 0 of the 48 tokens"):
        find_adapter(folder, changes)
