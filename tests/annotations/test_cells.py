"""Cells that a spreadsheet would run: neutral in every CSV that is written, and read back as they were."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, cast

import pytest

from pipelines.data import lists
from pipelines.report.page import Page, csv_text
from pipelines.report.retrieved import read_rankings
from pipelines.report.tables import Section, Value
from pipelines.score.evaluate import write_queries
from pipelines.sweep import record
from pipelines.sweep.space import Space
from vop.annotations.cells import read, written

FORMULAS = [
    '=HYPERLINK("http://x","y")',
    "+1+cmd|' /C calc'!A0",
    "-2+3+cmd|x",
    "@SUM(A1)",
    "\t=1+1",
    "\r=1+1",
    "--x",
    "'=x",
    "''@x",
]
PLAIN = ["a dog jumps", "", "a = b", "'t is", "''", "-0.5", "-1 -0.5", "+3e-05", "5 + 3"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_begins_with_an_apostrophe(text: str) -> None:
    assert written(text) == f"'{text}" and read(f"'{text}") == text


@pytest.mark.parametrize("text", PLAIN)
def test_all_else_stays_as_it_is(text: str) -> None:
    assert written(text) == text == read(text)


def test_numbers_stay_numbers() -> None:
    assert written(-0.5) == -0.5 and written(None) is None


@pytest.mark.parametrize("text", FORMULAS)
def test_no_file_that_is_written_holds_a_formula(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    query = {"query": text, "video_id": text, "group": text, "rank": 1.0, "top": f"{text}x".lstrip("\t"), "scores": "-0.1234"}
    queries = write_queries(tmp_path / "queries.csv", [query])
    monkeypatch.setattr(lists, "failed_of", lambda tasks: [{"video_id": text, "path": text, "error": text}])
    failed = tmp_path / "failed.csv"
    failed.write_bytes(lists._failed_csv(cast(Any, None)))
    report = tmp_path / "report.csv"
    section = Section("s", "t", "n", [text], [(text, [Value(None)])], "f")
    report.write_text(csv_text(Page("t", [], [section])), encoding="utf-8", newline="")
    points = tmp_path / "points.csv"
    space = Space("s", ({"x": {}},), "val/t2v/R1", "max", (), "")
    points.write_text(
        record.csv_text([record.Summary("", "toy", {"x": text}, [], [], [], None)], space), encoding="utf-8", newline=""
    )
    for file in (queries, failed, report, points):
        with file.open(encoding="utf-8", newline="") as opened:
            cells = [cell for row in csv.reader(opened) for cell in row]
        assert any(cell == f"'{text}" for cell in cells), file
        assert not any(cell.startswith(("=", "@", "+", "\t", "\r")) for cell in cells), file
    (ranking,) = read_rankings(queries)
    assert (ranking.query, ranking.video_id, ranking.group, ranking.scores) == (text, text, text, [-0.1234])
