"""DiDeMo, paragraph retrieval: all descriptions of a video, joined by one space in file order, are its one query.

Files: `{train,val,test}_data.json` (official) and `{train,val,test}_list.txt` (the videos used, from collaborative-experts).
Listed: 8,392 training, 1,065 validation, 1,004 test videos. The official files name some videos twice, under two extensions;
like peers, only descriptions filed under the listed name are taken (3,932 of 4,021 of test, 4,109 of 4,180 of validation).
Frames come from seconds 0 to 31: the descriptions are of the first 30 s. Files are found under the listed name, with an
extension added to it (a re-encoded `x.3gp.mp4`), or under another extension. Evaluation needs the files of test alone.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from typing_extensions import TypedDict

from vop.benchmarks import (
    SPLITS,
    BenchmarkError,
    Example,
    Protocol,
    Record,
    Split,
    find_videos,
    folders,
    has_split,
    read_json,
    read_text,
    refuse_twice,
    stem_of,
)
from vop.config import BenchmarkConfig

VIDEOS: dict[Split, int] = {"train": 8392, "val": 1065, "test": 1004}
WINDOW = (0.0, 31.0)
SOURCE = "DiDeMo (Hendricks et al., ICCV 2017): LisaAnne/LocalizingMoments; lists of albanie/collaborative-experts"

DESCRIPTIONS = 'the descriptions, [{"video": ..., "description": ...}]'


class _Description(TypedDict):
    video: str
    description: str


EXAMPLE = Example(
    {
        "train_list.txt": "1@N01_2_ab.mov\n",
        "val_list.txt": "2@N01_3_bc.\n",
        "test_list.txt": "4@N02_6_ef.wmv\n3@N02_5_de.3gp\n",
        "train_data.json": '[{"video": "1@N01_2_ab.mov", "description": "a dog jumps", "times": [[1, 1]]}]',
        "val_data.json": '[{"video": "2@N01_3_bc.", "description": "the sea", "times": [[0, 0]]}]',
        "test_data.json": """[
 {"video": "3@N02_5_de.3gp", "description": " last things first.", "times": [[5, 5]]},
 {"video": "4@N02_6_ef.wmv", "description": "a tree", "times": [[0, 1]]},
 {"video": "3@N02_5_de.avi", "description": "under its other name", "times": [[0, 0]]},
 {"video": "3@N02_5_de.3gp", "description": "then the rest", "times": [[0, 0]]},
 {"video": "9@N09_9_zz.mp4", "description": "not listed", "times": [[0, 0]]}
]
""",
    },
    optional=("train_list.txt", "val_list.txt"),
)


class Config(BenchmarkConfig):
    """Which descriptions count."""

    exact_names: bool = Field(
        True, description="peers' filter; false also takes descriptions that are filed under a video's other extension"
    )


def records(config: Config) -> list[Record]:
    """One record a listed video, its id the listed name. Raises BenchmarkError naming the file and its fault."""
    videos, annotations = folders(config)
    lists: dict[Split, Path] = {split: annotations / f"{split}_list.txt" for split in SPLITS}
    found = [split for split, path in lists.items() if split == "test" or has_split(path, split)]
    listed = {split: _listed(lists[split], config.encoding) for split in found}
    refuse_twice([name for names in listed.values() for name in names], f"{annotations}/{{train,val,test}}_list.txt")
    paths = find_videos(videos, [name for names in listed.values() for name in names])
    return [
        Record(name, paths[name], (paragraph,), split, window=WINDOW)
        for split in found
        for name, paragraph in _paragraphs(
            annotations / f"{split}_data.json", listed[split], config.exact_names, config.encoding
        ).items()
    ]


def protocol(config: Config) -> Protocol:
    """The lengths of the lists; CLIP4Clip's limits (at one frame a second the window holds 32)."""
    return Protocol(VIDEOS, VIDEOS, "all captions of a video, joined", 64, 64, SOURCE, window=WINDOW)


def _listed(path: Path, encoding: str) -> list[str]:
    return [line.strip() for line in read_text(path, "a file name a line", encoding).split("\n") if line.strip()]


def _paragraphs(path: Path, listed: list[str], exact: bool, encoding: str) -> dict[str, str]:
    """The joined descriptions of each listed name, in the list's order; not stripped."""
    named = {name: name for name in listed} if exact else {stem_of(name): name for name in listed}
    parts: dict[str, list[str]] = {name: [] for name in listed}
    for row in read_json(path, DESCRIPTIONS, list[_Description], encoding):
        name = named.get(row["video"] if exact else stem_of(row["video"]))
        if name is not None:
            parts[name].append(row["description"])
    silent = [name for name, texts in parts.items() if not "".join(texts).strip()]
    if silent:
        raise BenchmarkError(f"{path}: no description for {len(silent)} listed videos: {', '.join(silent[:5])}")
    return {name: " ".join(texts) for name, texts in parts.items()}
