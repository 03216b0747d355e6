"""A folder of videos without captions: what `vop search` looks through. Every video below it is in the test split.

The folder may be a URI that pyarrow knows (s3://bucket/videos); a video is a file with a known extension, at any depth.
"""

from __future__ import annotations

from pathlib import Path

from vop.benchmarks import BenchmarkError, Record, is_remote, video_files
from vop.config import BenchmarkConfig


def records(config: BenchmarkConfig) -> list[Record]:
    """One record a video, called by its path below the folder. Raises BenchmarkError for a folder without videos."""
    if not config.videos:
        raise BenchmarkError("benchmark.videos: give the folder of your videos, benchmark.videos=/path/to/videos")
    folder = config.videos.rstrip("/") if is_remote(config.videos) else str(Path(config.videos).expanduser().resolve())
    if not is_remote(folder) and not Path(folder).is_dir():
        raise BenchmarkError(f"benchmark.videos: {folder} is not a directory: expected a folder of videos")
    paths = video_files(folder)
    if not paths:
        raise BenchmarkError(f"benchmark.videos: no file below {folder} has the extension of a video (.mp4, .avi, .mkv, ...)")
    return [Record(path.removeprefix(f"{folder}/"), path, (), "test") for path in paths]
