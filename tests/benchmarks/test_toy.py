"""The toy benchmark's records."""

from __future__ import annotations

import csv
from pathlib import Path

from vop.benchmarks import SPLITS, toy
from vop.config import BenchmarkConfig
from vop.toy.videos import VERSION, _write_annotations, plan


def test_toy_records(tmp_path: Path) -> None:
    """From its annotation files alone: the videos take a minute to write."""
    written = tmp_path / f"toy-{VERSION}"
    written.mkdir()
    train, test = plan()
    _write_annotations(written, train, test)
    records = toy.records(BenchmarkConfig(name="toy", videos=str(tmp_path)))
    assert [sum(record.split == split for record in records) for split in SPLITS] == [280 - 56, 56, 240]
    by_id = {record.video_id: record for record in records}
    assert len(by_id) == 520
    for record in records:
        assert Path(record.path).parent == written / "videos"
        assert len(record.captions) == (1 if record.split == "test" else 5)
        assert bool(record.opposite) == (record.group == "time_pairs")
        if record.opposite:
            assert by_id[record.opposite].opposite == record.video_id
            assert by_id[record.opposite].split == record.split
    assert sum(r.group == "time_pairs" for r in records if r.split == "test") == 120
    with (written / "toy_time_pairs.csv").open(newline="") as file:
        assert len(list(csv.reader(file))) == 1 + 72 + 60
