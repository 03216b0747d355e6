"""A run's parameters as text: what is written is read back as the same experiment."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import Field

from vop.config import (
    NOTHING,
    BenchmarkConfig,
    ConfigError,
    Experiment,
    TuningConfig,
    VideoPromptConfig,
    kind,
    kinds,
    load_experiment,
    params_of,
    read_params,
)

KINDS = [f"{section}.name={name}" for section in ("benchmark", "video_prompt", "tuning") for name in kinds(section)]
ODD = [
    'name="None, +x (1)"',
    'benchmark.videos="a: [c] é"',
    "training.learning_rate=1e-06",
    "training.chunk_size=3",
    "resources.num_workers=2-8",
    "backbone.quick_gelu=false",
    "seed=7",
]


def read_back(experiment: Experiment) -> Experiment:
    params = params_of(experiment)
    assert all(isinstance(text, str) for text in params.values())
    return read_params(params)


@pytest.mark.parametrize("overrides", [[], ODD, *([name] for name in KINDS)], ids=str)
def test_every_kind_is_read_back(overrides: list[str]) -> None:
    experiment = load_experiment({}, overrides)
    assert read_back(experiment) == experiment


@pytest.mark.parametrize("kind_of", KINDS)
def test_every_field_of_a_kind_is_read_back(kind_of: str) -> None:
    """With other values than the defaults."""
    section, name = kind_of.split(".name=")
    bases = {"benchmark": BenchmarkConfig, "video_prompt": VideoPromptConfig, "tuning": TuningConfig}
    config = getattr(kind(section, name), "Config", bases[section])(name=name)
    values = {
        key: not value if isinstance(value, bool) else value + 1
        for key, value in config
        if isinstance(value, bool | int) and key != "specific_length"
    }
    experiment = load_experiment({section: {"name": name, **values}})
    assert read_back(experiment) == experiment and (not values or read_back(experiment) != load_experiment({}, [kind_of]))


def test_a_list_and_a_text_that_looks_like_nothing_are_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class Config(TuningConfig):
        layers: list[int] = Field([1, 2])
        words: list[str] | None = None
        choice: Literal[1, "2"] | None = None
        word: str = ""

    monkeypatch.setattr(kind("tuning", "lora"), "Config", Config, raising=False)
    for own in (
        {},
        {"layers": []},
        {"layers": [3], "words": ["a'b", "None"], "word": "[x"},
        {"word": NOTHING, "choice": "2"},
        {"choice": 1},
    ):
        experiment = load_experiment({"tuning": {"name": "lora", **own}})
        assert read_back(experiment) == experiment


def test_keys_that_a_run_does_not_have_have_their_defaults() -> None:
    assert read_params({"video_prompt.name": "context"}) == load_experiment({}, ["video_prompt.name=context"])
    assert read_params({}) == load_experiment({})


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"tuning.rank": "3"}, "tuning.rank: unknown key"),
        ({"nothing.here": "3"}, "nothing: unknown key"),
        ({"seed": "None"}, "seed: .*integer"),
        ({"tuning.name": "of-another-lab"}, "there is no 'of-another-lab'"),
    ],
)
def test_what_cannot_be_read_is_named(params: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_params(params)
