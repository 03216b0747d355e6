"""LSMDC: one pair per row."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.annotations import lsmdc_row, records_of, write_small
from vop.benchmarks import BenchmarkError, lsmdc


def test_lsmdc_makes_every_row_a_pair(tmp_path: Path) -> None:
    write_small("lsmdc", tmp_path)
    records = {record.video_id: record for record in records_of("lsmdc", tmp_path)}
    assert [record.captions for record in records.values()] == [
        ('SOMEONE says "hi, you.', 'The same clip, "again".'),
        ("SOMEONE stands.",),
        ("Rain.",),
        ("Snow.",),
        ("SOMEONE frowns.",),
    ]
    assert [record.split for record in records.values()] == ["train", "train", "val", "test", "test"]
    fewer = records_of("lsmdc", tmp_path, "benchmark.xpool_clips=true")
    assert [*records.values()][:4] == fewer and lsmdc.LEFT_OUT_BY_XPOOL in records
    assert lsmdc.protocol(lsmdc.Config(name="lsmdc", xpool_clips=True)).videos["test"] == 999


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b,c,d,e,f\n", "line 1: expected clip id"),
        (lsmdc_row("c", "one") + "\n" + lsmdc_row("d", " "), "line 3: expected"),
        (lsmdc_row("c", "a\ttab"), "line 1: expected"),
        (
            lsmdc_row("3002_B_00.00.01.000-00.00.03.500", "x"),
            "3002_B_00.00.01.000-00.00.03.500 is in LSMDC16_annos_val.csv too",
        ),
    ],
)
def test_lsmdc_names_the_line_and_its_fault(text: str, words: str, tmp_path: Path) -> None:
    file = write_small("lsmdc", tmp_path) / "annotations" / "LSMDC16_challenge_1000_publictect.csv"
    file.write_text(text)
    with pytest.raises(BenchmarkError) as error:
        records_of("lsmdc", tmp_path)
    assert f"{file}" in str(error.value) and words in str(error.value)
