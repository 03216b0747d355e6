"""LSMDC: clips of films, each row of a file a pair of clip and sentence.

Files: `LSMDC16_annos_training.csv`, `LSMDC16_annos_val.csv`, `LSMDC16_challenge_1000_publictect.csv` (so spelt): no header, six
columns between tabs, nothing quoted. Rows: 101,079 training, 7,408 validation, 1,000 test (1,000 clips). A clip that has
several rows is one record of several captions. No time window: the files are the clips. Videos `<clip id>.avi`, at any depth
(`<film>/<clip id>.avi` as they are distributed), any extension. Evaluation needs the test file alone.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from vop.benchmarks import BenchmarkError, Example, Protocol, Record, Split, find_videos, folders, has_split, read_text
from vop.config import BenchmarkConfig

FILES: dict[Split, str] = {
    "train": "LSMDC16_annos_training.csv",
    "val": "LSMDC16_annos_val.csv",
    "test": "LSMDC16_challenge_1000_publictect.csv",
}
ROWS: dict[Split, int] = {"train": 101_079, "val": 7_408, "test": 1_000}
SOURCE = "LSMDC (Rohrbach et al., IJCV 2017), the 2016 challenge files; training and validation rows as CLIP4Clip states them"
LEFT_OUT_BY_XPOOL = "1012_Unbreakable_00.05.16.065-00.05.21.941"
TIMES = "\t".join(["00.00.01.000"] * 4)
EXAMPLE = Example(
    {
        FILES["train"]: f"""\
3001_A_FILM_00.00.01.000-00.00.03.500\t{TIMES}\tSOMEONE says "hi, you.
3001_A_FILM_00.00.09.000-00.00.11.000\t{TIMES}\tSOMEONE stands.
3001_A_FILM_00.00.01.000-00.00.03.500\t{TIMES}\tThe same clip, "again".
""",
        FILES["val"]: f"3002_B_00.00.01.000-00.00.03.500\t{TIMES}\tRain.\n",
        FILES["test"]: f"""\
3003_C_00.00.01.000-00.00.03.500\t{TIMES}\tSnow.
{LEFT_OUT_BY_XPOOL}\t{TIMES}\tSOMEONE frowns.
""",
    },
    optional=(FILES["train"], FILES["val"]),
)


class Config(BenchmarkConfig):
    """Which clips count."""

    xpool_clips: bool = Field(
        False, description="leave out the test clip that X-Pool's reader skips, for the 999 queries of its numbers"
    )


def records(config: Config) -> list[Record]:
    """One record a clip. Raises BenchmarkError naming file, line and fault."""
    videos, annotations = folders(config)
    captions: dict[str, list[str]] = {}
    splits: dict[str, Split] = {}
    for split, name in FILES.items():
        if split != "test" and not has_split(annotations / name, split):
            continue
        for clip, sentence in _rows(annotations / name, config.encoding):
            if splits.setdefault(clip, split) != split:
                raise BenchmarkError(f"{annotations / name}: {clip} is in {FILES[splits[clip]]} too")
            captions.setdefault(clip, []).append(sentence)
    if config.xpool_clips:
        captions.pop(LEFT_OUT_BY_XPOOL, None)
    paths = find_videos(videos, captions, extension=".avi")
    return [Record(clip, paths[clip], tuple(texts), splits[clip]) for clip, texts in captions.items()]


def protocol(config: Config) -> Protocol:
    """Rows as published; how many different clips the training and validation rows hold is not published."""
    rows = {**ROWS, "test": ROWS["test"] - config.xpool_clips}
    return Protocol({"test": rows["test"]}, rows, "each caption", frames=12, tokens=32, source=SOURCE, extension=".avi")


def _rows(path: Path, encoding: str) -> list[tuple[str, str]]:
    expected, rows = "clip id, four times and a sentence, six columns between tabs", []
    for number, line in enumerate(read_text(path, expected, encoding).split("\n"), start=1):
        if not line.strip():
            continue
        columns = line.split("\t")
        if len(columns) != 6 or not columns[0].strip() or not columns[5].strip():
            raise BenchmarkError(f"{path}, line {number}: expected {expected}")
        rows.append((columns[0].strip(), columns[5].strip()))
    return rows
