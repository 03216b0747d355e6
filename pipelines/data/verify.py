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
import pyarrow.compute as pc
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
BLOCKS, BLOCK = 64, 512  # tasks of Ray, if none has more videos than that
TEXTS = 4096  # tokenized at once
LOOK = pa.schema(  # at a file
    {
        **{"path": pa.string(), "bytes": pa.int64(), "problem_kind": pa.string(), "problem": pa.string()},
        **{"frames": pa.int64(), "duration_s": pa.float64(), "width": pa.int64(), "height": pa.int64()},
        **{"fps": pa.float64(), "codec": pa.string(), "missing": pa.int64(), "why": pa.string()},
    }
)
CONDITIONS = {  # of a row, with a title and what is shown of it; the last three are told and no fault
    "missing": (pc.field("problem_kind") == "missing", "missing", "{path}"),
    "unreadable": (~pc.field("problem_kind").isin(["", "missing"]), "unreadable", "{problem_kind}: {problem}"),
    "other_extension": (pc.field("other_extension") != "", "under another extension", "{other_extension}"),
    "few_frames": (pc.field("few_frames"), "few frames", "{frames}"),
    "same_bytes_as": (pc.field("same_bytes_as") != "", "with the same bytes as another file", "{same_bytes_as}"),
}


@dataclass(frozen=True)
class Verified:
    """A row a video, in the records' order; what is published; the tokens that a text may have; the report's path.

    rows: LOOK, and what is known beside it. shared: pairs of videos in two splits that show the same, unless
    `benchmark.shared_videos` allows it.
    """

    rows: pa.Table
    protocol: Protocol | None
    tokens: int
    report: Path
    shared: list[tuple[Record, Record]]

    def counts(self, split: str) -> dict[str, int]:
        """What there is of a split: videos, captions, and how many of them are in each condition."""
        rows = self.rows.filter(pc.field("split") == split)
        return {
            "videos": len(rows),
            **{column: pc.sum(rows[column]).as_py() or 0 for column in ("captions", "captions_cut")},
            **{condition: len(rows.filter(where)) for condition, (where, _, _) in CONDITIONS.items()},
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
        for name in CONDITIONS:
            rows.append([name.replace("_", " "), *(str(counts[split][name]) for split in SPLITS)])
        cut = (100 * counts[split]["captions_cut"] / max(1, counts[split]["captions"]) for split in SPLITS)
        return ["", *SPLITS], [*rows, ["captions cut", *(f"{share:.1f}%" for share in cut)]]

    def names(self, most: int = 20) -> Iterator[str]:
        """The videos behind the numbers, the first of each kind, a line each."""
        for where, title, show in CONDITIONS.values():
            rows = self.rows.filter(where)
            if len(rows):
                yield f"{title}:"
            yield from (f"  {row['split']} {row['video_id']}: {show.format(**row)}" for row in rows[:most].to_pylist())
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
        looks = _looks(sorted({record.path for record in records}))
        copies = equal_files(dict(zip(*(looks[name].to_pylist() for name in ("path", "bytes")), strict=True)), _hashes)
    looks = looks.take(pc.index_in(pa.array(record.path for record in records), looks["path"].combine_chunks()))
    kinds = looks["problem_kind"].to_pylist()
    missing = [record for record, kind_of in zip(records, kinds, strict=True) if kind_of == "missing"]
    elsewhere = _elsewhere(missing, config.videos)
    rows = pa.table(
        {
            "video_id": [record.video_id for record in records],
            "split": [record.split for record in records],
            **dict(zip(LOOK.names, looks.columns, strict=True)),
            "other_extension": [
                (_other_extension(record, protocol) if kind_of != "missing" else elsewhere.get(record.video_id)) or ""
                for record, kind_of in zip(records, kinds, strict=True)
            ],
            "few_frames": pc.and_(pc.equal(looks["problem_kind"], ""), pc.less(looks["frames"], experiment.frames.count)),
            "same_bytes_as": [copies.get(record.path, "") for record in records],
            "captions": [len(record.captions) for record in records],
            "captions_cut": cut,
        }
    )
    with told(str(report)):
        report.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, report, write_page_checksum=True)
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


def _looks(paths: Sequence[str]) -> pa.Table:
    """LOOK of each file."""
    return pa.concat_tables([LOOK.empty_table(), *_on_ray(paths, look_at, "opening", LOOK)])


def _hashes(paths: Sequence[str], function: Callable[[str], dict[str, Any]], doing: str) -> Iterator[dict[str, Any]]:
    for table in _on_ray(paths, function, doing):
        yield from table.to_pylist()


def _on_ray(
    items: Sequence[str], function: Callable[[str], dict[str, Any]], doing: str, schema: pa.Schema | None = None
) -> Iterator[pa.Table]:
    """Tables with a row for each item, from all CPUs of the cluster, as they come."""
    if not items:
        return

    def block(table: pa.Table) -> pa.Table:
        return pa.Table.from_pylist([function(item) for item in table["item"].to_pylist()], schema=schema)

    size = min(BLOCK, -(-len(items) // BLOCKS))
    blocks = [pa.table({"item": list(items[start : start + size])}) for start in range(0, len(items), size)]
    options = {"batch_size": None, "batch_format": "pyarrow", "num_cpus": 1, **labelled("decode")}
    dataset = ray.data.from_arrow(blocks).map_batches(block, **options)
    rows = closing(iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow")))  # as in `decode`
    with Progress(logger, doing, len(items), "videos") as progress, rows as batches:
        for batch in batches:
            progress.add(len(batch))
            yield batch


def _other_extension(record: Record, protocol: Protocol | None) -> str:
    """The name of the file that was found, if its extension is not the published one."""
    published = Path(record.video_id).name + (protocol.extension if protocol else "")
    name = Path(record.path).name
    return name if stem_of(published) != published and name != published else ""


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
