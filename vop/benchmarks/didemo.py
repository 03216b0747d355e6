"""DiDeMo, paragraph retrieval: all descriptions of a video, joined by one space in file order, are its one query.

Files: `{train,val,test}_data.json` (official) and `{train,val,test}_list.txt` (the videos used, from collaborative-experts).
Listed: 8,392 training, 1,065 validation, 1,004 test videos. The official files name some videos twice, under two extensions;
like peers, only descriptions filed under the listed name are taken (3,932 of 4,021 of test, 4,109 of 4,180 of validation).
Frames come from seconds 0 to 31: the descriptions are of the first 30 s. Files are found under the listed name, with an
extension added to it (a re-encoded `x.3gp.mp4`), or under another extension.
"""

from __future__ import annotations

from pathlib import Path

from vop.benchmarks import (
    SPLITS,
    BenchmarkError,
    Protocol,
    Record,
    Split,
    find_videos,
    folders,
    read_json,
    read_text,
    refuse_twice,
    stem_of,
)
from vop.config import BenchmarkConfig

VIDEOS: dict[Split, int] = {"train": 8392, "val": 1065, "test": 1004}
WINDOW = (0.0, 31.0)
SOURCE = "DiDeMo (Hendricks et al., ICCV 2017): LisaAnne/LocalizingMoments; lists of albanie/collaborative-experts"


class Config(BenchmarkConfig):
    """`exact_names`: peers' filter. False also takes the descriptions that are filed under a video's other extension."""

    exact_names: bool = True


def records(config: Config) -> list[Record]:
    """One record a listed video, its id the listed name. Raises BenchmarkError naming the file and its fault."""
    videos, annotations = folders(config)
    listed = {split: _listed(annotations / f"{split}_list.txt") for split in SPLITS}
    refuse_twice([name for split in SPLITS for name in listed[split]], f"{annotations}/{{train,val,test}}_list.txt")
    paths = find_videos(videos, [name for split in SPLITS for name in listed[split]])
    return [
        Record(name, paths[name], (paragraph,), split, window=WINDOW)
        for split in SPLITS
        for name, paragraph in _paragraphs(annotations / f"{split}_data.json", listed[split], config.exact_names).items()
    ]


def protocol(config: Config) -> Protocol:
    """The lengths of the lists; CLIP4Clip's limits (at one frame a second the window holds 32)."""
    return Protocol(VIDEOS, VIDEOS, "all captions of a video, joined", 64, 64, SOURCE, window=WINDOW)


def _listed(path: Path) -> list[str]:
    return [line.strip() for line in read_text(path, "a file name a line").split("\n") if line.strip()]


def _paragraphs(path: Path, listed: list[str], exact: bool) -> dict[str, str]:
    """The joined descriptions of each listed name, in the list's order; not stripped."""
    named = {name: name for name in listed} if exact else {stem_of(name): name for name in listed}
    parts: dict[str, list[str]] = {name: [] for name in listed}
    try:
        for row in read_json(path, "the descriptions"):
            name = named.get(row["video"] if exact else stem_of(row["video"]))
            if name is not None:
                parts[name].append(row["description"])
    except (KeyError, TypeError) as error:
        raise BenchmarkError(f'{path}: expected [{{"video": ..., "description": ...}}]: {error!r}') from error
    silent = [name for name, texts in parts.items() if not texts]
    if silent:
        raise BenchmarkError(f"{path}: no description for {len(silent)} listed videos: {', '.join(silent[:5])}")
    return {name: " ".join(texts) for name, texts in parts.items()}
