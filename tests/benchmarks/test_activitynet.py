"""ActivityNet: one paragraph per video, ids without captions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.annotations import records_of, write_small
from vop.benchmarks import BenchmarkError, Record


def test_activitynet_joins_sentences_and_skips_ids_without_captions(tmp_path: Path) -> None:
    write_small("activitynet", tmp_path)
    (tmp_path / "videos" / "deep").mkdir(parents=True)
    for name in ("deep/-aaaaaaaaa1.mkv", "v__aaaaaaaaa3.webm"):
        (tmp_path / "videos" / name).touch()
    path = str(tmp_path / "videos")
    expected = [
        Record("v_aaaaaaaaaa2", f"{path}/aaaaaaaaaa2.mp4", ("Rain.",), "train"),
        Record("v_-aaaaaaaaa1", f"{path}/deep/-aaaaaaaaa1.mkv", ("A man runs.  He falls. ",), "train"),
        Record("v__aaaaaaaaa3", f"{path}/v__aaaaaaaaa3.webm", ("Snow. It melts.",), "test"),
    ]
    assert records_of("activitynet", tmp_path, "benchmark.validation=0") == expected
    for file in ("train_ids.json", "val_ids.json"):
        (tmp_path / "annotations" / file).unlink()
    assert records_of("activitynet", tmp_path, "benchmark.validation=0") == [expected[1], expected[0], expected[2]]


@pytest.mark.parametrize(
    ("file", "text"),
    [("train.json", "[]"), ("train.json", '{"v_a": {"text": []}}'), ("train.json", '{"v_a": []}'), ("train_ids.json", "7")],
)
def test_activitynet_names_the_file_and_its_fault(file: str, text: str, tmp_path: Path) -> None:
    (write_small("activitynet", tmp_path) / "annotations" / file).write_text(text)
    with pytest.raises(BenchmarkError, match=f"{re.escape(file)}, .*expected"):
        records_of("activitynet", tmp_path, "benchmark.validation=0")
