"""Results as files: the tables made from them are those made from MLflow; what is left out, and what is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.report import results
from pipelines.report.cells import book_of
from pipelines.report.results import export_results, read_results, write_rows
from pipelines.report.tables import groups, table_1
from pipelines.tracking import PARENT, SWEEP, LoggedRun
from vop.config import ConfigError, TrackingConfig, load_experiment, params_of
from vop.paper.methods import METHODS, overrides_of

SWEPT = LoggedRun("0" * 32, "toy-vop-all", "FINISHED", 1, {}, {}, {SWEEP: "toy-vop-all"})


def logged(method: str, score: float, *overrides: str, commit: str = "abc1234567", parent: bool = True) -> LoggedRun:
    """A finished run on toy as MLflow has it."""
    method_keys = [f"{key}={value}" for key, value in overrides_of(method).items()]
    experiment = load_experiment("toy", ["data.cache=/home/someone", *method_keys, *overrides])
    metrics = {f"test/{way}/{m}": score for way in ("t2v", "v2t", "ordinary/t2v") for m in ("R1", "R5", "R10", "MdR", "MnR")}
    metrics |= {"test/dsl/t2v/R1": score, "test/dsl/t2v/R5": score, "train/loss": 1.0, "trainable_parameters": 1000.0}
    params = params_of(experiment)
    tags = {"commit": commit, "version.torch": "2", "cpu": "a processor"} | ({PARENT: SWEPT.id} if parent else {})
    return LoggedRun(f"{method}{score}", f"{method}, seed", "FINISHED", 2, params, metrics, tags, score + 1)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[LoggedRun]:
    """What MLflow holds: every method with two seeds in a sweep."""
    found = [logged(name, 10.0 * seed + place, f"seed={seed}") for seed in (0, 1) for place, name in enumerate(METHODS)]
    found.append(SWEPT)
    monkeypatch.setattr(results, "logged_runs", lambda tracking: found)
    return found


def test_tables_made_from_files_equal_those_made_from_mlflow(runs: list[LoggedRun], tmp_path: Path) -> None:
    assert [file.name for file in export_results(TrackingConfig(), "toy", tmp_path)] == ["toy-vop-all.json"]
    ours, theirs = book_of(read_results(tmp_path)), book_of(runs)
    assert ours.protocols == theirs.protocols and ours.cells.keys() == theirs.cells.keys()
    for section in (table_1, groups):
        made, expected = section(ours, "toy"), section(theirs, "toy")
        assert made and expected
        assert [(label, list(map(str, row))) for label, row in made.rows] == [(n, list(map(str, r))) for n, r in expected.rows]
    assert "not run" not in str([list(map(str, row)) for _, row in table_1(ours, "toy").rows])


def test_a_file_holds_the_differences_and_nothing_of_the_machine_it_ran_on(runs: list[LoggedRun], tmp_path: Path) -> None:
    (file,) = export_results(TrackingConfig(), "toy", tmp_path)
    text = file.read_text(encoding="utf-8")
    entry = json.loads(text)[METHODS_AT["LoRA"]]
    assert entry["params"]["tuning.name"] == "lora" and entry["params"]["seed"] == "0"
    assert "frames.sampling" not in entry["params"] and "training.weight_decay" not in entry["params"]
    assert entry["commit"] == "abc1234567" and entry["versions"] == {"torch": "2"} and entry["cpu"] == "a processor"
    assert "/home" not in text and "train/loss" not in text and "dsl/t2v/R5" not in text and "dsl/t2v/R1" in text


METHODS_AT = {name: place for place, name in enumerate(METHODS)}


def test_what_cannot_be_made_again_is_left_out(runs: list[LoggedRun], tmp_path: Path) -> None:
    runs[:] = [
        logged("VoP", 1.0, commit="abc1234567-dirty"),
        logged("VoP", 2.0, commit="unknown"),
        logged("VoP", 3.0, "benchmark.name=msrvtt-9k"),
    ]
    with pytest.raises(ConfigError, match="nothing to export"):
        export_results(TrackingConfig(), "toy", tmp_path)
    runs.append(logged("VoP", 4.0, parent=False))
    (file,) = export_results(TrackingConfig(), "toy", tmp_path)
    assert file.name == "VoP-seed.json" and [run.metrics["test/t2v/R1"] for run in read_results(tmp_path)] == [4.0]


def test_rows_of_a_measurement_come_with_their_command_and_machine(tmp_path: Path) -> None:
    write_rows(tmp_path / "new/model.json", "vop throughput model", [{"what": "a", "value": "1"}, {"what": "b", "value": "2"}])
    found = json.loads((tmp_path / "new/model.json").read_text(encoding="utf-8"))
    assert found["command"] == "vop throughput model" and found["commit"] and found["cpu"] and found["version.torch"]
    assert [row["what"] for row in found["rows"]] == ["a", "b"]
