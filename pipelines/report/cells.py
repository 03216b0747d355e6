"""Which runs stand behind a number.

A run belongs to a cell by its parameters, never by its name. *What is tuned* (prompts, split layer, protocol) names the
method or the point of a figure and must match in every key. *The protocol* (backbone, frames, training, the benchmark's own
options) must be one for all methods on a benchmark. Free are the seed, which is averaged over, the learning rate, which is
chosen on validation, and what cannot change a result: names, folders, resources, the decoder.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.tracking import LoggedRun
from vop.config import NOTHING, ConfigError, kinds_of, params_of, validated, with_value
from vop.model.architecture import layers_of_backbone
from vop.paper.methods import overrides_of

HEADLINE = "test/t2v/R1"
TUNED = ("text_prompt.", "video_prompt.", "video_encoder.", "tuning.", "head.")
PROTOCOL = ("backbone.", "benchmark.", "frames.", "training.")
FREE = ("frames.decoder", "training.learning_rate", "training.head_learning_rate", "training.select")
DEPTHS = ("text_prompt.depth", "video_prompt.depth")
SPLIT = "video_encoder.split_layer"

Params = dict[str, str]


@dataclass(frozen=True)
class Entry:
    """A finished run with its test scores, and its parameters in one spelling, defaults filled in."""

    run: LoggedRun
    params: Params

    @property
    def benchmark(self) -> str:
        """The benchmark's name."""
        return self.params["benchmark.name"]

    @property
    def learning_rate(self) -> float:
        """As it was used, the tuning protocol's default included."""
        return float(self.params["training.learning_rate"])

    @property
    def on_test(self) -> bool:
        """Whether the checkpoint was chosen by its test score."""
        return "test" in (self.run.tags.get("selected_on"), self.params["training.select"])

    @property
    def trains(self) -> bool:
        """Zero-shot CLIP with its own mean does not, so its training parameters mean nothing."""
        return self.params["tuning.name"] != "zero-shot" or self.params["head.name"] != "mean"


@dataclass(frozen=True)
class Cell:
    """One experiment, one learning rate, one run a seed."""

    entries: tuple[Entry, ...]
    tried: tuple[float, ...] = ()  # all learning rates that were run

    def values(self, metric: str) -> list[float]:
        """A metric of each seed; a run without it is left out."""
        return [entry.run.metrics[metric] for entry in self.entries if metric in entry.run.metrics]

    def mean(self, metric: str) -> float | None:
        """The mean over the seeds; None if no run has the metric."""
        return statistics.fmean(values) if (values := self.values(metric)) else None

    def std(self, metric: str) -> float | None:
        """The sample standard deviation over the seeds; None for fewer than two."""
        return statistics.stdev(values) if len(values := self.values(metric)) > 1 else None

    @property
    def on_test(self) -> bool:
        """Whether checkpoints were chosen by their test scores."""
        return any(entry.on_test for entry in self.entries)

    @property
    def commits(self) -> list[str]:
        """At which the runs were made."""
        return sorted({entry.run.tags.get("commit", "unknown") for entry in self.entries})


@dataclass
class Book:
    """The cells of each benchmark; `left_out` says of every other run why it does not count."""

    protocols: dict[str, Params]
    layers: dict[str, int]  # of each benchmark's visual encoder
    cells: dict[tuple[str, frozenset[tuple[str, str]]], Cell]
    left_out: list[tuple[LoggedRun, str]] = field(default_factory=list)

    def cell(self, benchmark: str, overrides: Mapping[str, Any]) -> Cell | None:
        """The cell of the default experiment with these dotted overrides."""
        if benchmark not in self.protocols:
            return None
        return self.cells.get((benchmark, frozenset(self.tuned(benchmark, overrides).items())))

    def method(self, benchmark: str, name: str, **overrides: Any) -> Cell | None:
        """The cell of one of METHODS, with further overrides."""
        return self.cell(benchmark, overrides_of(name, self.layers.get(benchmark, 12)) | overrides)

    def tuned(self, benchmark: str, overrides: Mapping[str, Any]) -> Params:
        """What is tuned, in the spelling of `canonical`."""
        tree: Mapping[str, Any] = {"backbone": {"name": self.protocols[benchmark]["backbone.name"]}}
        for key, value in overrides.items():
            tree = with_value(tree, key, value)
        return _only(canonical(params_of(validated(tree))), TUNED)


def book_of(runs: Iterable[LoggedRun], wanted: Params | None = None) -> Book:
    """Sort runs into cells. `wanted`: the parameters of a recipe, whose protocol then counts on its benchmark."""
    left_out: list[tuple[LoggedRun, str]] = []
    benchmarks: dict[str, list[Entry]] = defaultdict(list)
    for run in runs:
        entry = _entry(run)
        if isinstance(entry, Entry):
            benchmarks[entry.benchmark].append(entry)
        elif entry:
            left_out.append((run, entry))
    book = Book({}, {}, {}, left_out)
    for benchmark, entries in benchmarks.items():
        own = canonical(wanted) if wanted and wanted["benchmark.name"] == benchmark else None
        protocol = protocol_of(own) if own else _most_used(entries)
        book.protocols[benchmark] = protocol
        book.layers[benchmark] = layers_of_backbone(protocol["backbone.name"])[1]
        _fill(book, benchmark, entries, protocol)
    return book


def _fill(book: Book, benchmark: str, entries: list[Entry], protocol: Params) -> None:
    groups: dict[frozenset[tuple[str, str]], list[Entry]] = defaultdict(list)
    for entry in entries:
        differs = _differences(entry, protocol)
        if differs:
            book.left_out.append((entry.run, f"another protocol: {', '.join(differs)}"))
        else:
            groups[frozenset(_only(entry.params, TUNED).items())].append(entry)
    for tuned, group in groups.items():
        cell, dropped = chosen(group)
        book.cells[benchmark, tuned] = cell
        book.left_out += [(entry.run, reason) for entry, reason in dropped]


def chosen(entries: list[Entry]) -> tuple[Cell, list[tuple[Entry, str]]]:
    """The runs of one experiment that count, and the others with the reason: never by a test score.

    Runs selected on validation come before any selected on test; of two with the same seed and learning rate the later
    counts; of several learning rates the one with the best mean validation score, on the seeds that all of them have.
    """
    dropped: list[tuple[Entry, str]] = []
    if len({entry.on_test for entry in entries}) == 2:
        dropped += [(e, "selected on test, and there are runs selected on validation") for e in entries if e.on_test]
        entries = [entry for entry in entries if not entry.on_test]
    latest: dict[tuple[float, str], Entry] = {}
    for entry in sorted(entries, key=lambda entry: entry.run.started):
        key = (entry.learning_rate if entry.trains else 0.0, entry.params["seed"])
        if key in latest:
            dropped.append((latest[key], "the same experiment and seed was run again later"))
        latest[key] = entry
    rates: dict[float, dict[str, Entry]] = defaultdict(dict)
    for (rate, seed), entry in latest.items():
        rates[rate][seed] = entry
    best = max(sorted(rates), key=lambda rate: _validation(rates[rate], rates.values()))
    reason = f"another learning rate than {best:g}, which is the best on validation"
    dropped += [(entry, reason) for rate, by_seed in rates.items() if rate != best for entry in by_seed.values()]
    return Cell(tuple(rates[best][seed] for seed in sorted(rates[best], key=int)), tuple(sorted(rates))), dropped


def _validation(by_seed: Mapping[str, Entry], rates: Iterable[Mapping[str, Entry]]) -> float:
    shared = set[str].intersection(*(set(other) for other in rates)) or set(by_seed)
    scores = [by_seed[seed].run.validation for seed in shared if seed in by_seed]
    known = [score for score in scores if score is not None]
    return statistics.fmean(known) if known else float("-inf")


def _entry(run: LoggedRun) -> Entry | str:
    """The run as an entry; else why it does not count, "" for a run that is no experiment (a sweep's parent, a report)."""
    if "benchmark.name" not in run.params:
        return ""
    if run.status != "FINISHED":
        return run.status
    if HEADLINE not in run.metrics:
        return "finished without test scores"
    try:
        return Entry(run, canonical(run.params))
    except (ConfigError, ValueError) as error:
        return f"its parameters are not valid here: {str(error).splitlines()[0]}"


def canonical(params: Mapping[str, str]) -> Params:
    """Parameters with defaults for the keys that an older run does not have, and one spelling for what is the same.

    "1-12" of 12 layers is "all"; a split after the last layer is no split; a learning rate left open is its default.
    """
    sections = ("benchmark", "video_prompt", "tuning", "head")
    names = {section: {"name": params[f"{section}.name"]} for section in sections if f"{section}.name" in params}
    full = params_of(validated(names)) | dict(params)
    layers = layers_of_backbone(full["backbone.name"])
    for key, count in zip(DEPTHS, layers, strict=True):
        if full[key] == f"1-{count}":
            full[key] = "all"
    if full[SPLIT] == str(layers[1]):
        full[SPLIT] = NOTHING
    if full["training.learning_rate"] == NOTHING:
        protocols = kinds_of("tuning", full["tuning.name"]).values()
        full["training.learning_rate"] = str(max(protocol.LEARNING_RATE for protocol in protocols))
    return full


def protocol_of(params: Params) -> Params:
    """The part of canonical parameters that all methods on a benchmark share; where files lie matters to `folder` only."""
    places = () if params["benchmark.name"] == "folder" else ("benchmark.videos", "benchmark.annotations")
    return {key: value for key, value in _only(params, PROTOCOL).items() if key not in (*FREE, *places)}


def _differences(entry: Entry, protocol: Params) -> list[str]:
    own = protocol_of(entry.params)
    keys = [key for key in sorted(own | protocol) if entry.trains or not key.startswith("training.")]
    return [f"{key}={own.get(key)}" for key in keys if own.get(key) != protocol.get(key)]


def _most_used(entries: list[Entry]) -> Params:
    """The protocol with the most different experiments, then the most runs, then the latest; zero-shot fits any training."""
    groups: dict[frozenset[tuple[str, str]], list[Entry]] = defaultdict(list)
    for entry in [e for e in entries if e.trains] or entries:
        groups[frozenset(protocol_of(entry.params).items())].append(entry)

    def size(group: list[Entry]) -> tuple[int, int, int]:
        experiments = Counter(frozenset(_only(entry.params, TUNED).items()) for entry in group)
        return len(experiments), len(group), max(entry.run.started for entry in group)

    return protocol_of(max(groups.values(), key=size)[0].params)


def _only(params: Params, prefixes: tuple[str, ...]) -> Params:
    return {key: value for key, value in params.items() if key.startswith(prefixes)}
