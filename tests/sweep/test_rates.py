"""Learning rates out of an exported sweep. No Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.sweep.record import best_rates
from vop.config import ConfigError, TrackingConfig

LORA = {"tuning.name": "lora"}


def entry(rate: float | None, score: float | None, params: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "params": {**(params or {}), **({} if rate is None else {"training.learning_rate": str(rate)})},
        "validation": score,
    }


def test_the_best_mean_of_a_method_wins(tmp_path: Path) -> None:
    file = tmp_path / "sweep.json"
    runs = [entry(0.01, 30), entry(0.01, 40), entry(0.001, 34), entry(0.001, 33), entry(0.1, None), entry(None, 99)]
    file.write_text(json.dumps([*runs, entry(0.01, 1, LORA), entry(1e-6, 2, LORA)]), encoding="utf-8")
    assert best_rates(str(file), TrackingConfig()) == {"": {"VoP": 0.01, "LoRA": 1e-6}}


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}", "[]", '[{"params": {"no.such": "1"}}]', '[{"params": {}}]'])
def test_other_files_are_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "other.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"--learning-rates .*other\.json"):
        best_rates(str(file), TrackingConfig())


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.json"):
        best_rates("nowhere.json", TrackingConfig())
