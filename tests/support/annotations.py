"""Annotation files for the tests: small ones of each published benchmark, and where the published ones are.

Those of MSR-VTT and DiDeMo are read from $VOP_ANNOTATIONS (`msrvtt/`, `didemo/`), if it is there.
"""

from __future__ import annotations

import os
from pathlib import Path

from vop.benchmarks import Record, lsmdc
from vop.config import BenchmarkConfig, kind, load_experiment

ANNOTATIONS = Path(os.environ.get("VOP_ANNOTATIONS", Path(__file__).parents[3] / "shared" / "annotations"))
MSRVTT, DIDEMO = ANNOTATIONS / "msrvtt", ANNOTATIONS / "didemo"

SENTENCES = [("video7", "a dog runs"), ("video2", "a cat, asleep"), ("video7", "ein Hund läuft"), ("video9", "unused")]
TRAIN = "video_id\nvideo7\nvideo2\n"
TEST = 'key,vid_key,video_id,sentence\nret0,msr9,video9,"a man says ""hi"", then leaves"\nret1,msr4,video4,rain falls\n'


def config_of(name: str, root: Path, *overrides: str) -> BenchmarkConfig:
    """As a recipe gives it, for folders `videos` and `annotations` below `root`."""
    for folder in ("videos", "annotations"):
        (root / folder).mkdir(exist_ok=True)
    section = {"name": name, "videos": str(root / "videos"), "annotations": str(root / "annotations")}
    return load_experiment({"benchmark": section}, overrides).benchmark


def records_of(name: str, root: Path, *overrides: str) -> list[Record]:
    records: list[Record] = kind("benchmark", name).records(config_of(name, root, *overrides))
    return records


def lsmdc_row(clip: str, sentence: str) -> str:
    return f"{clip}\t{lsmdc.TIMES}\t{sentence}\n"


def write_small(name: str, root: Path) -> Path:
    """A benchmark's own example."""
    (root / "annotations").mkdir(exist_ok=True, parents=True)
    for file, text in kind("benchmark", name).EXAMPLE.files.items():
        (root / "annotations" / file).write_text(text, encoding="utf-8", newline="")
    return root
