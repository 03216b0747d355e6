"""A folder of videos without captions: what `vop search` looks through. Every video below it is in the test split.

The folder may be a URI that pyarrow knows (s3://bucket/videos); a video is a file with a known extension, at any depth.
"""

from __future__ import annotations

from pathlib import Path

from vop.benchmarks import BenchmarkError, Record, video_files
from vop.config import BenchmarkConfig
from vop.places import absolute, as_text, is_remote, readable


def records(config: BenchmarkConfig) -> list[Record]:
    """One record a video, called by its path below the folder. Raises BenchmarkError for a folder without videos."""
    folder = folder_of(config.videos)
    paths = video_files(folder)
    if not paths:
        raise BenchmarkError(f"benchmark.videos: no file below {folder} has the extension of a video (.mp4, .avi, .mkv, ...)")
    return [Record(readable(path.removeprefix(f"{folder}/")), as_text(path), (), "test") for path in paths]


def folder_of(videos: str) -> str:
    """The folder of videos, absolute, or its URI. Raises BenchmarkError if it is not given or not there."""
    if not videos:
        raise BenchmarkError("benchmark.videos: give the folder of your videos, benchmark.videos=/path/to/videos")
    folder = absolute(videos)
    if not is_remote(folder) and not Path(folder).is_dir():
        raise BenchmarkError(f"benchmark.videos: {folder} is not a directory: expected a folder of videos")
    return folder
