"""Benchmarks, one file each, found by name (`benchmark.name`): annotation files -> records.

A benchmark's file has `records(config) -> list[Record]`, a class `Config(BenchmarkConfig)` if it has fields of its own, and,
if its numbers are published, `protocol(config) -> Protocol`: what `vop verify` holds a dataset to, and `EXAMPLE`: its files,
tiny, which the contract tests read (`vop.testing`). No torch here.
"""

from vop.annotations.lookup import EXTENSIONS, find_videos, folders, place_videos, stem_of, video_files
from vop.annotations.records import SPLITS, BenchmarkError, Example, Protocol, Record, Split
from vop.annotations.splits import hold_out, refuse_twice, split_of
from vop.annotations.tables import Caption, has_split, read_json, read_table, read_text

__all__ = [
    "EXTENSIONS",
    "SPLITS",
    "BenchmarkError",
    "Caption",
    "Example",
    "Protocol",
    "Record",
    "Split",
    "find_videos",
    "folders",
    "has_split",
    "hold_out",
    "place_videos",
    "read_json",
    "read_table",
    "read_text",
    "refuse_twice",
    "split_of",
    "stem_of",
    "video_files",
]
