"""Tables at any width: nothing is cut, and neither run ids nor paths are broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.cli import tables
from pipelines.cluster.doctor import Check
from pipelines.data.room import Reused, Room
from vop.config import load_experiment
from vop.config.describe import keys
from vop.paper.methods import METHODS, overrides_of

PATH = "/data/runs/of a team/" + "/".join(f"folder {number}" for number in range(12))
RUN = SimpleNamespace(uri=f"sqlite:///{PATH}/mlflow.db", id="0123456789abcdef" * 2)
METRICS = {
    f"test/{group}{direction}/{name}": value
    for group in ("", "ordinary/", "time_pairs/")
    for direction in ("t2v", "v2t")
    for name, value in {"R1": 12.345, "R5": 67.89, "R10": 100.0, "MdR": 1234.5, "MnR": 2345.6, "queries": 27763.0}.items()
} | {"test/pair_accuracy": 51.26}


def counts() -> Any:
    methods = {
        name: SimpleNamespace(overrides=overrides_of(name), trained=151277313, paper_trained=151000000, learning_rate=1e-5)
        for name in METHODS
    }
    return SimpleNamespace(total=151277313, paper_total=151000001, methods=methods)


def verified() -> Any:
    heads = ["", "train", "val", "test"]
    return SimpleNamespace(
        table=lambda: (heads, [["videos", "111783 / 118081", "7408 / -", "1000 / 1000"]]),
        names=lambda: [f"  missing: {PATH}"],
        faults=lambda: ["train: 111783 videos in the annotation files, 118081 published"],
        **{"tokens": 69, "report": Path(PATH) / "verify.parquet"},
    )


def found() -> Any:
    hits = [SimpleNamespace(score=0.98765 - place / 100, video=f"{PATH}/{place}.mp4") for place in range(12)]
    return SimpleNamespace(
        hits={"a dog jumps": hits}, videos=12, prepared=SimpleNamespace(failed=[1], report=f"{PATH}/failed.csv")
    )


def swept() -> Any:
    point = {"method": "VoP^F+C", "text_prompt.length": 16, "video_prompt.depth": "10-12", "training.learning_rate": 1e-5}
    points = [SimpleNamespace(recipe="", point=point, scores=[41.23, 42.3], test=[39.9, 40.1], statuses=["FINISHED", "FAILED"])]
    return SimpleNamespace(name="sweep", points=points, rows=[], models=["models:/sweep@best (version 1)"], run=RUN)


def rows() -> list[Any]:
    return [SimpleNamespace(what="clips through prepare", value="1234.5 clips/s", target=">= 0.90", met=False)]


def steps() -> list[Any]:
    about = {"name": "text and video, chunks", "against": "plain", "cpu": 1.234, "wall": 12.345, "target": 0.9}
    return [SimpleNamespace(**about, memory=12345.0, loss=3.456789)]


def plan() -> Any:
    return SimpleNamespace(
        videos={"train": 118081, "val": 7408, "test": 1000},
        to_decode={"train": 118081, "val": 0, "test": 1000},
        tasks=SimpleNamespace(folder=PATH),
        reused=Reused(Path(PATH), 123456789, None, 20e9),
        **{"steps": 98765, "epochs": 5, "trainable": 12345678, "room": Room(118081, 12, 150528, "raw", None)},
    )


TABLES: dict[str, tuple[Callable[[], None], list[str]]] = {
    "results": (
        lambda: tables.print_results({"msrvtt-9k-vop": METRICS, "another run of it": METRICS}),
        ["12.3", "67.9", "100.0", "1234.5", "2345.6", "27763", "ordinary t2v", "time_pairs v2t", "another run of it", "51.3%"],
    ),
    "methods": (
        lambda: tables.print_methods(counts()),
        ["151,277,313", "100.000", "VoP^F+C", "video_prompt.name=context video_encoder.split_layer=8"],
    ),
    "verified": (lambda: tables.print_verified(verified(), 12), ["111783 / 118081", "7408 / -", PATH, "69 tokens"]),
    "hits": (lambda: tables.print_hits(found()), ["0.988", "12", f"{PATH}/11.mp4", f"{PATH}/failed.csv"]),
    "points": (lambda: tables.print_points(swept()), ["41.8 ± 0.8", "40.0 ± 0.1", "failed", RUN.id, RUN.uri, "depth=10-12"]),
    "rows": (lambda: tables.print_rows("throughput", rows()), ["1234.5 clips/s", ">= 0.90", "MISSED"]),
    "steps": (lambda: tables.print_steps(steps()), ["1.234", "12.345", "12345", "3.456789", "0.90"]),
    "checks": (lambda: tables.print_checks([Check("open_clip_torch", False, PATH, True)]), [PATH, "open_clip_torch"]),
    "keys": (lambda: tables.print_keys(keys()), ["training.chunk_size", "whole number >= 1 or null", "K_s of VoP^F"]),
    "plan": (lambda: tables.print_plan(load_experiment("toy"), plan()), ["118081", "98765 steps", "12,345,678", PATH]),
}


@pytest.mark.parametrize("width", [40, 60, 80, 200])
@pytest.mark.parametrize("name", TABLES)
def test_nothing_is_cut(name: str, width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    show, expected = TABLES[name]
    show()
    output = capsys.readouterr().out
    lines = output.splitlines()
    for text in expected:
        assert any(text in line for line in lines), f"{text!r} is not whole on any line of:\n{output}"
    assert "…" not in output and "\x1b" not in output


@pytest.mark.parametrize("width", [60, 80, 200])
def test_lines_of_numbers_fit(width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    tables.print_results({"msrvtt-9k-vop": METRICS, "another run of it": METRICS})
    lines = capsys.readouterr().out.splitlines()
    heads = [line for line in lines if "R@10" in line and "MnR" in line]
    assert all(len(line) <= width for line in [*heads, *(line for line in lines if "27763" in line)])
    assert len(heads) == (2 if width == 60 else 1), "too narrow for the name: a table for each run"


def test_a_row_that_does_not_fit_is_a_line_for_each_cell(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    tables.print_table("title", ("name", "first number", "second"), [("a [b]", 12345.678, 9)], right=["second"])
    assert capsys.readouterr().out.splitlines() == ["title", "name  a [b]", "first number  12345.678", "second  9", ""]


def test_wide_letters_stand_in_columns(capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_table("", ("name", "n"), [("犬", 1), ("dog", 22)], right=["n"])
    assert capsys.readouterr().out.splitlines()[:3] == ["name   n", "犬     1", "dog   22"]


def test_the_demo_says_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    for after, words in ((17.5, "the prompts helped: 17.5%"), (7.7, "the prompts did not help: 7.7%")):
        tables.print_verdict({"test/t2v/R1": 7.7}, {"test/t2v/R1": after})
        assert f"verdict: {words}" in capsys.readouterr().out
