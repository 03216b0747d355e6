"""What was retrieved: a page of queries with their best clips, of one run or of two where they disagree (paper, figure 7).

Reads a run's `queries.csv` (`pipelines/score/evaluate.py`) and, for the pictures, the frame store that it was scored on.
"""

from __future__ import annotations

import base64
import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.data.options import store_folder
from pipelines.data.store import StoreError, opened, read_manifest, read_videos
from pipelines.locations import REGISTERED
from pipelines.look import LOOK, TEMPLATES
from pipelines.score.adapters import run_of
from pipelines.tracking import download
from vop.annotations.cells import read
from vop.config import ConfigError, Experiment, read_params
from vop.messages import one_line
from vop.model.adapter import load_adapter, settings_of, with_model
from vop.model.architecture import image_size
from vop.model.card import CARD

STRIP = 4  # frames of a clip that are shown, evenly spread, so that motion can be seen
HEIGHT = 72  # pixels of a shown frame
QUERIES, CLIPS = "queries.csv", 5
COLUMNS = ("query", "video_id", "group", "rank", "top", "scores")


@dataclass(frozen=True)
class Ranking:
    """One query of one run: the rank of its video (from 1; .5 where it ties), the best clips and their scores."""

    query: str
    video_id: str
    group: str
    rank: float
    top: list[str]
    scores: list[float]


@dataclass(frozen=True)
class Scored:
    """A run's name, its experiment and its rankings, in the order of the benchmark."""

    name: str
    experiment: Experiment
    rankings: list[Ranking]


@dataclass(frozen=True)
class Shown:
    """What a page holds: rows of one ranking a run, how many queries there were, and a sentence on what was left out."""

    rows: list[tuple[Ranking, ...]]
    total: int
    omitted: str


def read_run(where: str, said: Experiment) -> Scored:
    """A run from an adapter's folder, or from MLflow as `download` finds it.

    said: where MLflow is; and where the benchmark and the frames of a folder are, if MLflow does not have its run.
    Raises ConfigError for what is neither, or has no `queries.csv`; AdapterError for a broken adapter.
    """
    folder = Path(expanduser(where))
    if (folder / CARD).is_file():
        if not (folder / QUERIES).is_file():
            raise ConfigError(f"{folder} has no {QUERIES}: `vop train` writes it beside the adapter")
        adapter = load_adapter(folder)
        experiment = with_model(run_of(adapter, said.tracking) or said, settings_of(adapter.experiment))
        return Scored(folder.name, experiment, read_rankings(folder / QUERIES))
    if folder.exists() or ("/" in where and not where.startswith(REGISTERED)):
        raise ConfigError(f"{where} is not the folder of an adapter ({CARD} is missing); give one, or the id of an MLflow run")
    with TemporaryDirectory() as scratch:
        run, file = download(said.tracking, where, QUERIES, Path(scratch))
        return Scored(f"{run.name} ({run.id[:8]})", _experiment(run.params), read_rankings(file))


def _experiment(params: dict[str, str]) -> Experiment:
    """The benchmark, frames, data and backbone of a run, from its parameters: all that decides its frame store."""
    return read_params({k: text for k, text in params.items() if k.startswith(("benchmark.", "frames.", "data.", "backbone."))})


def read_rankings(file: Path) -> list[Ranking]:
    """The rows of a `queries.csv`; ConfigError for a file that is not one."""
    try:
        with file.open(encoding="utf-8", newline="") as opened:
            reader = csv.DictReader(opened)
            if missing := set(COLUMNS) - set(reader.fieldnames or ()):
                raise ConfigError(f"{file} has no column {', '.join(sorted(missing))}: it is not a {QUERIES} of this project")
            return [_ranking({name: read(row[name]) for name in COLUMNS}, file) for row in reader]
    except ConfigError:
        raise
    except (ValueError, AttributeError, csv.Error) as error:
        raise ConfigError(f"{file} is not a {QUERIES} of this project: {one_line(error)}") from None


def _ranking(row: dict[str, str], file: Path) -> Ranking:
    scores = [float(score) for score in row["scores"].split()]
    top = row["top"].split("\t" if "\t" in row["top"] or len(scores) == 1 else " ")
    if len(top) != len(scores):  # before tabs parted them, a space in a name was ambiguous
        raise ConfigError(f"{file}: {len(top)} clips and {len(scores)} scores for {row['query']!r}; train or evaluate it again")
    return Ranking(row["query"], row["video_id"], row["group"], float(row["rank"]), top, scores)


def choose(runs: Sequence[Scored], limit: int, group: str = "") -> Shown:
    """The rows of a page: worst rank first; of two runs, those whose ranks differ, the widest difference first.

    Raises ConfigError for runs of other queries, an unknown group, and for runs that never disagree.
    """
    if len({tuple((r.query, r.video_id) for r in run.rankings) for run in runs}) > 1:
        raise ConfigError(f"{runs[0].name} and {runs[1].name} were scored on different queries; compare runs of one benchmark")
    rows = list(zip(*(run.rankings for run in runs), strict=True))
    groups = sorted({row[0].group for row in rows})
    if group and group not in groups:
        raise ConfigError(f"group {group!r}: the groups of this run are {', '.join(filter(None, groups)) or 'none'}")
    rows = [row for row in rows if group in ("", row[0].group)]
    total, wanted = len(rows), rows
    if len(runs) == 2:
        wanted = [row for row in rows if row[0].rank != row[1].rank]
        if not wanted:
            raise ConfigError(f"{runs[0].name} and {runs[1].name} rank the truth the same for all {total} queries")
        wanted.sort(key=lambda row: -abs(np.log(row[0].rank / row[1].rank)))
    else:
        wanted.sort(key=lambda row: -row[0].rank)
    kept = _spread(wanted, limit)
    omitted = [f"{total - len(wanted)} queries on which both rank the truth the same"] if len(wanted) < total else []
    if len(kept) < len(wanted):
        omitted.append(f"{len(wanted) - len(kept)} more that come after these ({_counts(wanted, kept)})")
    return Shown(kept, total, f"Left out: {'; '.join(omitted)}." if omitted else "Nothing is left out.")


def _spread(rows: list[tuple[Ranking, ...]], limit: int) -> list[tuple[Ranking, ...]]:
    """At most `limit` rows, in their order; of each group the same number, as far as it has as many."""
    seen: Counter[str] = Counter()
    turns = []
    for place, row in enumerate(rows):
        turns.append((seen[row[0].group], place))
        seen[row[0].group] += 1
    return [rows[place] for place in sorted(place for _, place in sorted(turns)[:limit])]


def _counts(wanted: Sequence[tuple[Ranking, ...]], kept: Sequence[tuple[Ranking, ...]]) -> str:
    left = Counter(row[0].group for row in wanted) - Counter(row[0].group for row in kept)
    return ", ".join(f"{count} {name or 'queries'}" for name, count in sorted(left.items()))


def pictures(experiment: Experiment, rows: Sequence[tuple[Ranking, ...]]) -> dict[str, str]:
    """A strip of frames, as a JPEG in a data URL, of every clip that is shown for a row: the best, and the truth.

    Raises ConfigError if the frame store is not on this machine, or holds other videos under the same names.
    """
    folder = store_folder(experiment, image_size(experiment.backbone))
    try:
        opened(folder)
    except StoreError as error:
        raise ConfigError(f"the frames of this run are not here: {error}") from error
    captions = {record.video_id: record.captions for record in read_manifest(folder)}
    for row in rows:
        if row[0].query not in captions.get(row[0].video_id, ()):
            raise ConfigError(
                f"{row[0].query!r} is not a caption of {row[0].video_id} in the frame store {folder}: the benchmark's files "
                "have changed since this run, so its pictures would be wrong"
            )
    clips = sorted({clip for row in rows for ranking in row for clip in (*ranking.top[:CLIPS], ranking.video_id)})
    pixels = (read_videos(folder, [clip]) for clip in clips)  # one by one: a batch would hold them all
    return {clip: strip(frames[0], mask[0]) for clip, (frames, mask) in zip(clips, pixels, strict=True)}


def strip(pixels_FHWC: NDArray[np.uint8], mask_F: NDArray[np.bool_]) -> str:
    """STRIP real frames from first to last, side by side, as a data URL."""
    real = np.flatnonzero(mask_F)
    chosen = real[np.linspace(0, len(real) - 1, STRIP).round().astype(int)]
    frames = [Image.fromarray(pixels_FHWC[i]).resize((HEIGHT, HEIGHT), Image.Resampling.LANCZOS) for i in chosen]
    image = Image.new("RGB", (STRIP * (HEIGHT + 2) - 2, HEIGHT), "white")
    for place, frame in enumerate(frames):
        image.paste(frame, (place * (HEIGHT + 2), 0))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def page(runs: Sequence[Scored], shown: Shown) -> str:
    """The HTML page: every clip's picture once, in the style sheet; the truth also where it is not among the first."""
    strips = pictures(runs[0].experiment, shown.rows)
    names = {clip: f"c{place}" for place, clip in enumerate(strips)}
    groups = sorted({row[0].group for row in shown.rows} - {""})
    template = TEMPLATES.get_template("report/retrieved.html.j2")
    return template.render(
        **{"look": LOOK, "runs": runs, "shown": shown, "groups": groups, "clips": CLIPS, "names": names, "strips": strips},
        **{"width": STRIP * (HEIGHT + 2) - 2, "height": HEIGHT, "benchmark": runs[0].experiment.benchmark.name},
    )


def write_retrieved(
    where: Sequence[str], said: Experiment, output: Path, limit: int = 60, group: str = ""
) -> tuple[Path, Shown]:
    """Write the page of one run, or of two side by side. Raises as `read_run`, `choose` and `pictures` do."""
    runs = [read_run(one, said) for one in where]
    shown = choose(runs, limit, group)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page(runs, shown), encoding="utf-8")
    return output, shown
