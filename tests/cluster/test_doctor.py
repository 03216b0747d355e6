"""`vop doctor`: what it says is so, and what training needs decides its exit code."""

from __future__ import annotations

import importlib
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.cluster import doctor
from vop.config import load_experiment
from vop.model import loss
from vop.video import files, frames


def vop_doctor(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["doctor", *arguments], env={"COLUMNS": "200"})
    return done.exit_code, done.output


def found(name: str, **data: Any) -> doctor.Check:
    (check,) = (check for check in doctor.checks(load_experiment({"data": data})) if check.name == name)
    return check


def test_it_names_versions(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"data: {{cache: {tmp_path / 'not' / 'there'}}}\n")
    code, output = vop_doctor(str(recipe))
    assert code == 0 and "training can run" in output and f"free at {tmp_path}" in output
    for name in ("torch", "ray", "mlflow", "open_clip_torch"):
        (line,) = (line for line in output.splitlines() if line.split()[:1] == [name])
        assert line.split()[1:] == ["yes", "yes", version(name)]
    assert not (tmp_path / "not").exists(), "it only looks"


def test_a_library_that_does_not_load_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    load = importlib.import_module

    def refuse(name: str, package: str | None = None) -> Any:
        if name in ("ray.train", "decord"):
            raise ImportError(f"{name} is [broken]")
        return load(name, package)

    monkeypatch.setattr(importlib, "import_module", refuse)
    code, output = vop_doctor("", f"data.cache={tmp_path}")
    assert code == 1 and "training cannot run: ray" in output and "does not load: ray.train is [broken]" in output
    decord = found("decoder decord")
    assert not decord.works and not decord.needed and "decord is [broken]" in decord.found


def test_a_decoder_that_opens_nothing_stops_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As PyAV 19 was, which took an argument away: it loads, and every video is unreadable."""
    monkeypatch.setattr(files, "LENIENT", {"no_such_argument": "replace"})
    code, output = vop_doctor("", f"data.cache={tmp_path}")
    assert code == 1 and "training cannot run: decoder pyav" in output and "no_such_argument" in output


def test_a_decoder_that_gives_other_frames_is_no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    read = frames.read_frames

    def late(path: Path, *arguments: Any, **options: Any) -> frames.Frames:
        right = read(path, *arguments, **options)
        return replace(right, pixels_FHWC=right.pixels_FHWC[[1, 2, 3, 3]])

    monkeypatch.setattr(frames, "read_frames", late)
    assert "other frames than were written" in found("decoder pyav").found


def test_a_step_that_gives_no_gradient_stops_training(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("a training step").works
    monkeypatch.setattr(loss, "contrastive_loss", lambda scores: scores.sum() * 0)
    check = found("a training step")
    assert check.needed and not check.works


def test_a_cache_that_cannot_be_used_stops_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not found("data.cache", cache=str(tmp_path / "file" / "cache")).works
    assert found("data.cache", cache="s3://bucket/vop").works
    assert found("data.cache", cache=str(tmp_path)).works
    monkeypatch.setattr(doctor, "ROOM_GIB", 1e9)
    check = found("data.cache", cache=str(tmp_path))
    assert not check.works and check.needed and "GiB free" in check.found


def test_devices_and_programs_that_are_not_there_do_not_stop_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    code, output = vop_doctor("", f"data.cache={tmp_path}")
    assert code == 0 and "the CPU is used" in output and "not on the PATH" in output


def test_shared_memory_is_measured_and_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "GiB free" in doctor._shared_memory(str(tmp_path)).found
    absent = doctor._shared_memory(str(tmp_path / "none"))
    assert not absent.works and not absent.needed and "Ray uses files" in absent.found
    monkeypatch.setattr(doctor, "ROOM_GIB", 1e9)
    assert not doctor._shared_memory(str(tmp_path)).works
