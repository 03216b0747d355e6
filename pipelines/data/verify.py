"""Is a dataset whole? What a benchmark publishes against the files that are there: counted, probed on Ray, never decoded.

A dataset is whole if the videos and captions of every split are as many as published and every video is there, can be
opened and is not cut off, and no two splits share one. The rest is no fault: other extensions, clips of few frames, equal
files, texts that are cut.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray.data

from pipelines.cluster.connect import connected, labelled
from vop.annotations.copies import equal_files, shared_by_splits
from vop.benchmarks import SPLITS, BenchmarkError, Protocol, Record, Split, find_videos, stem_of
from vop.config import Experiment, kind
from vop.messages import Progress
from vop.places import absolute, is_remote, told
from vop.video.frames import FrameError, probe

logger = logging.getLogger(__name__)
BLOCK = 64  # videos a Ray task
TEXTS = 4096  # tokenized at once
NOTES = (  # what is told and no fault: column, title, what is shown of a row
    ("other_extension", "under another extension", "{other_extension}"),
    ("few_frames", "few frames", "{frames}"),
    ("same_bytes_as", "with the same bytes as another file", "{same_bytes_as}"),
)


@dataclass(frozen=True)
class Verified:
    """A row a video, in the records' order; what is published; the tokens that a text may have; the report's path.

    shared: pairs of videos in two splits that show the same, unless `benchmark.shared_videos` allows it.
    """

    rows: list[dict[str, Any]]
    protocol: Protocol | None
    tokens: int
    report: Path
    shared: list[tuple[Record, Record]]

    def counts(self, split: str) -> dict[str, int]:
        """What there is of a split: videos, captions, and how many of them are in each condition."""
        rows = [row for row in self.rows if row["split"] == split]
        return {
            "videos": len(rows),
            "captions": sum(row["captions"] for row in rows),
            "missing": sum(row["problem_kind"] == "missing" for row in rows),
            "unreadable": sum(row["problem_kind"] not in ("", "missing") for row in rows),
            "captions_cut": sum(row["captions_cut"] for row in rows),
            **{column: sum(bool(row[column]) for row in rows) for column, _, _ in NOTES},
        }

    def published(self, split: Split, what: str) -> int | None:
        """How many `videos` or `captions` are published of a split; None where nothing is."""
        counts: dict[Split, int] = getattr(self.protocol, what, {})
        return counts.get(split)

    def faults(self) -> list[str]:
        """What keeps the dataset from being whole, a line each; empty if it is."""
        lines = []
        for split in SPLITS:
            counts = self.counts(split)
            for what in ("videos", "captions"):
                if self.published(split, what) not in (None, counts[what]):
                    there = f"{counts[what]} {what} in the annotation files"
                    lines.append(f"{split}: {there}, {self.published(split, what)} published")
            lines += [f"{split}: {counts[what]} videos {what}" for what in ("missing", "unreadable") if counts[what]]
        if self.shared:
            one, other = self.shared[0]
            what = f"{one.video_id} ({one.split}) and {other.video_id} ({other.split})"
            lines.append(f"{len(self.shared)} videos of one split have the same bytes as one of another, such as {what}")
        return lines

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Heads and rows, a column a split; what is published stands after a slash."""
        counts = {split: self.counts(split) for split in SPLITS}
        rows = [
            [what, *(f"{counts[split][what]} / {self.published(split, what) or '-'}" for split in SPLITS)]
            for what in ("videos", "captions")
        ]
        for name in ("missing", "unreadable", *(column for column, _, _ in NOTES)):
            rows.append([name.replace("_", " "), *(str(counts[split][name]) for split in SPLITS)])
        cut = (100 * counts[split]["captions_cut"] / max(1, counts[split]["captions"]) for split in SPLITS)
        return ["", *SPLITS], [*rows, ["captions cut", *(f"{share:.1f}%" for share in cut)]]

    def names(self, most: int = 20) -> Iterator[str]:
        """The videos behind the numbers, the first of each kind, a line each."""
        broken = [row for row in self.rows if row["problem_kind"] not in ("", "missing")]
        yield from self._named("missing", [row for row in self.rows if row["problem_kind"] == "missing"], "{path}", most)
        yield from self._named("unreadable", broken, "{problem_kind}: {problem}", most)
        for column, title, show in NOTES:
            yield from self._named(title, [row for row in self.rows if row[column]], show, most)

    def _named(self, title: str, rows: list[dict[str, Any]], show: str, most: int) -> Iterator[str]:
        if rows:
            yield f"{title}:"
        yield from (f"  {row['split']} {row['video_id']}: {show.format(**row)}" for row in rows[:most])
        if len(rows) > most:
            yield f"  ... and {len(rows) - most} more, in {self.report}"


def verify(experiment: Experiment, report: Path) -> Verified:
    """Look at every file of an experiment's benchmark once, and write `report` (Parquet, a row a video).

    Raises BenchmarkError for annotation files or folders that are missing or malformed, ConfigError for an unknown backbone.
    """
    config = experiment.benchmark
    if is_remote(config.videos):
        raise BenchmarkError(f"benchmark.videos: {config.videos} is a URI; files are verified on a disk of the cluster")
    module = kind("benchmark", config.name)
    records: list[Record] = module.records(config)
    protocol: Protocol | None = module.protocol(config) if hasattr(module, "protocol") else None
    cut, tokens = _captions_cut(records, experiment)
    with connected():
        paths = sorted({record.path for record in records})
        looks = {look["path"]: look for look in _on_ray(paths, look_at, "opening")}
        copies = _copies(looks)
    elsewhere = _elsewhere([record for record in records if looks[record.path]["problem_kind"] == "missing"], config.videos)
    rows = [
        {
            **{"video_id": record.video_id, "split": record.split, **looks[record.path]},
            "other_extension": _other_extension(record, looks[record.path], protocol) or elsewhere.get(record.video_id, ""),
            "few_frames": not looks[record.path]["problem_kind"] and looks[record.path]["frames"] < experiment.frames.count,
            "same_bytes_as": copies.get(record.path, ""),
            "captions": len(record.captions),
            "captions_cut": cut[place],
        }
        for place, record in enumerate(records)
    ]
    with told(str(report)):
        report.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), report, write_page_checksum=True)
    shared = shared_by_splits(records, copies) if config.shared_videos == "refuse" else []
    return Verified(rows, protocol, tokens, report, shared)


def look_at(path: str) -> dict[str, Any]:
    """What the packets of one file tell, or why they cannot be read."""
    look: dict[str, Any] = {"path": path, "bytes": 0, "problem_kind": "", "problem": ""}
    look |= {"frames": 0, "duration_s": 0.0, "width": 0, "height": 0, "fps": 0.0, "codec": "", "missing": 0, "why": ""}
    try:
        look["bytes"] = os.stat(path).st_size
        look |= vars(probe(path))
        if look["missing"]:
            look |= {"problem_kind": "truncated", "problem": "the file is cut off"}
    except FrameError as error:
        look |= {"problem_kind": error.kind, "problem": error.problem}
    except FileNotFoundError:
        look |= {"problem_kind": "missing", "problem": "no such file"}
    except Exception as error:  # one odd file must not end the job
        look |= {"problem_kind": "unexpected", "problem": repr(error)}
    return look


def _on_ray(items: Sequence[str], function: Callable[[str], dict[str, Any]], doing: str) -> Iterator[dict[str, Any]]:
    """A row for each item, from all CPUs of the cluster, as they come."""
    if not items:
        return

    def block(table: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([function(item) for item in table["item"].to_pylist()])

    blocks = [pa.table({"item": list(items[start : start + BLOCK])}) for start in range(0, len(items), BLOCK)]
    options = {"batch_size": None, "batch_format": "pyarrow", "num_cpus": 1, **labelled("decode")}
    dataset = ray.data.from_arrow(blocks).map_batches(block, **options)
    rows = closing(iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow")))  # as in `decode`
    with Progress(logger, doing, len(items), "videos") as progress, rows as batches:
        for batch in batches:
            progress.add(len(batch))
            yield from batch.to_pylist()


def _copies(looks: dict[str, dict[str, Any]]) -> dict[str, str]:
    return equal_files({path: look["bytes"] for path, look in looks.items()}, _on_ray)


def _other_extension(record: Record, look: dict[str, Any], protocol: Protocol | None) -> str:
    """The name of the file that was found, if its extension is not the published one."""
    published = Path(record.video_id).name + (protocol.extension if protocol else "")
    name = Path(record.path).name
    differs = stem_of(published) != published and name != published
    return name if differs and look["problem_kind"] != "missing" else ""


def _elsewhere(missing: Sequence[Record], videos: str) -> dict[str, str]:
    """{video_id: file that has its stem} for missing videos; benchmarks that look for other extensions have none left."""
    if not missing or not videos:
        return {}
    near = find_videos(absolute(videos), {Path(record.path).name for record in missing})
    found = {record.video_id: near[Path(record.path).name] for record in missing}
    return {video_id: Path(path).name for video_id, path in found.items() if os.path.exists(path)}


def _captions_cut(records: Sequence[Record], experiment: Experiment) -> tuple[list[int], int]:
    """How many captions of each record have more tokens than the model reads, and how many it reads, both ends included."""
    from vop.model.architecture import caption_tokens
    from vop.model.backbone import load_tokenizer

    tokenizer, context_length = load_tokenizer(experiment.backbone)
    limit = min(context_length, caption_tokens(experiment) + 2)
    owners = [place for place, record in enumerate(records) for _ in record.captions]
    texts = [caption for record in records for caption in record.captions]
    cut = Counter[int]()
    for start in range(0, len(texts), TEXTS):
        # A text that is not cut leaves padding in the place after the limit, as one without words does.
        *last, padding = tokenizer([*texts[start : start + TEXTS], ""], context_length=limit + 1)[:, limit].tolist()
        cut.update(owners[start + place] for place, token in enumerate(last) if token != padding)
    return [cut[place] for place in range(len(records))], limit
