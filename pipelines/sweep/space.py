"""A tune space: a file of `tune_spaces/` with SPACE, METRIC and MODE -> the points of a sweep."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from ray import tune
from ray.tune.search.sample import Domain
from ray.tune.search.variant_generator import generate_variants

from pipelines.sweep.check import space_file
from vop.config import ConfigError, Experiment, Tree, validated, with_value
from vop.messages import one_line
from vop.model.architecture import caption_tokens, layers_of_backbone
from vop.paper.methods import METHODS, overrides_of

FIXED = ("tracking.", "resources.", "seed", "name", "benchmark.name")  # of no effect on a result, or set otherwise
PART = "part"  # for samplers: which part of a space a draw is of
METRICS = re.compile(r"val/(pair_accuracy|t2v/(nDCG10|MAP)|([^/]+/)?(t2v|v2t)/(R1|R5|R10|MdR|MnR))")
PROMPTS = ("text_prompt", "video_prompt", "video_encoder")
Point = dict[str, Any]  # key of a space -> value


@dataclass(frozen=True)
class Space:
    """parts: one or more {key: Ray Tune's grid_search or sampling function}; their points together are the space.

    A key is a dotted key of the experiment, several of them joined by ", " that move together, or `method` (a name of
    `vop/paper/methods.py`). metric: logged in each epoch under `val/`; mode: max or min; first: points that TPE starts with.
    """

    name: str
    parts: tuple[dict[str, Any], ...]
    metric: str
    mode: str
    first: tuple[Point, ...]
    digest: str

    @property
    def keys(self) -> list[str]:
        """Of all parts."""
        return list(dict.fromkeys(key for part in self.parts for key in part))


def load_space(names: str) -> Space:
    """Read `tune_spaces/<name>.py`, or the .py file that a name is; several with commas are one space of all their points.

    Raises ConfigError for a file that is no space.
    """
    spaces = [_load(name.strip()) for name in names.split(",")]
    if len({(space.metric, space.mode) for space in spaces}) > 1:
        raise ConfigError(f"--space {names}: their METRIC and MODE differ")
    if len(spaces) == 1:
        return spaces[0]
    parts, digest = tuple(part for space in spaces for part in space.parts), " ".join(space.digest for space in spaces)
    return replace(spaces[0], name=names, parts=parts, first=(), digest=digest)


def _load(name: str) -> Space:
    path = space_file(name)
    module = _imported(path)
    space, metric, mode = (getattr(module, key, None) for key in ("SPACE", "METRIC", "MODE"))
    parts = tuple(space) if isinstance(space, list | tuple) else (space,)
    if not parts or not all(isinstance(part, dict) and part for part in parts):
        raise ConfigError(f"space {name}: SPACE must be a dictionary of dotted keys, or a list of such; found {space!r}")
    if mode not in ("max", "min"):
        raise ConfigError(f"space {name}: MODE must be 'max' or 'min'; found {mode!r}")
    if not isinstance(metric, str) or not metric.startswith("val/"):
        raise ConfigError(f"space {name}: METRIC {metric!r} is not under val/: a sweep never looks at test; write val/t2v/R1")
    if not METRICS.fullmatch(metric):
        raise ConfigError(
            f"space {name}: METRIC {metric!r} is not logged; valid: val/t2v/ or val/v2t/ (or of a group of queries, as in "
            "val/ordinary/t2v/) with R1, R5, R10, MdR or MnR; val/t2v/nDCG10, val/t2v/MAP, val/pair_accuracy"
        )
    for key in {key for part in parts for key in part}:
        if key.startswith(FIXED):
            raise ConfigError(
                f"space {name}: {key} cannot be searched; seeds are --seeds, benchmarks --recipes, the rest are overrides of "
                "the recipe"
            )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return Space(path.stem, parts, metric, mode, tuple(getattr(module, "FIRST", ())), digest)


def _imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tune_spaces.{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"space {path}: {type(error).__name__}: {one_line(error)}") from error
    return module


def points_of(space: Space, sampler: str, samples: int, seed: int) -> list[Point]:
    """The points of a sweep without a model of its results, each once; they depend on the arguments alone.

    grid: every point, and `samples` draws of what is a distribution; random: `samples` of the grid's points, or draws. Of a
    space of several parts, each draw is of one of them.
    """
    if sampler == "grid" or all(map(_is_grid, space.parts)):
        points = [p for part in space.parts for p in _variants(part, 1 if _is_grid(part) else samples, seed)]
        if sampler == "random":
            random.Random(seed).shuffle(points)
            points = points[:samples]
    else:
        points = [point_of(space, draw) for draw in _variants(choices(space), samples, seed)]
    return list({json.dumps(point, sort_keys=True): point for point in points}.values())


def _variants(part: Mapping[str, Any], samples: int, seed: int) -> Iterator[Point]:
    state = np.random.RandomState(seed)
    for _ in range(samples):
        for _, point in generate_variants(dict(part), random_state=state):
            yield {key: _plain(value) for key, value in point.items()}


def _is_grid(part: Mapping[str, Any]) -> bool:
    return not any(isinstance(value, Domain) for value in part.values())


def _plain(value: Any) -> Any:
    """A value that JSON and YAML know."""
    return value.item() if isinstance(value, np.generic) else value


def choices(space: Space) -> dict[str, Any]:
    """The space with each grid as a choice, for samplers that draw.

    Of a space of several parts: which of them, and the keys of all of them, `0:key`; `point_of` takes those that count.
    """
    drawn = [
        {key: tune.choice(value["grid_search"]) if isinstance(value, dict) else value for key, value in part.items()}
        for part in space.parts
    ]
    if len(drawn) == 1:
        return drawn[0]
    named = {f"{place}:{key}": value for place, part in enumerate(drawn) for key, value in part.items()}
    return {PART: tune.choice(list(range(len(drawn)))), **named}


def point_of(space: Space, draw: Mapping[str, Any]) -> Point:
    """The point that a draw of `choices` is."""
    if PART not in draw:
        return {key: _plain(draw[key]) for key in space.parts[0]}
    place = int(draw[PART])
    return {key: _plain(draw[f"{place}:{key}"]) for key in space.parts[place]}


def draw_of(space: Space, point: Point) -> Point:
    """A draw that gives a point, for a sampler that begins with points which are known."""
    if len(space.parts) == 1:
        return point
    place = next(place for place, part in enumerate(space.parts) if _holds(part, point))
    domains, state = choices(space), np.random.RandomState(0)  # what does not count may be anything
    others = {key: _plain(domain.sample(random_state=state)) for key, domain in domains.items()}
    return {**others, PART: place, **{f"{place}:{key}": value for key, value in point.items()}}


def _holds(part: Mapping[str, Any], point: Point) -> bool:
    def fits(key: str, value: Any) -> bool:
        domain = part[key]
        return value in domain["grid_search"] if isinstance(domain, dict) else bool(domain.is_valid(value))

    return part.keys() == point.keys() and all(fits(key, value) for key, value in point.items())


def experiment_of(recipe: Tree, point: Mapping[str, Any], seed: int) -> Experiment:
    """The recipe at a point; raises ConfigError that names a key or value that is not valid."""
    tree = with_value(recipe, "seed", seed)
    for key, value in point.items():
        if key == "method":
            tree = _with_method(tree, value)
            continue
        for name in key.split(","):
            tree = with_value(tree, name.strip(), value)
    try:
        experiment = validated(tree)
        caption_tokens(experiment)
    except ConfigError as error:
        raise ConfigError(f"{label(point)}: {one_line(error)}") from None
    if experiment.training.select != "val":
        raise ConfigError(
            f"training.select={experiment.training.select}: a sweep never looks at test; leave it out (vop train takes it)"
        )
    return experiment


def _with_method(tree: Tree, method: str) -> Tree:
    """A recipe with a method's overrides; what it says of prompts is left out where the method has none."""
    if method not in METHODS:
        raise ConfigError(f"method: there is no {method!r}; valid names: {', '.join(METHODS)}")
    backbone = validated({"backbone": tree.get("backbone", {})}).backbone
    overrides = overrides_of(method, layers_of_backbone(backbone.name)[1])
    if "tuning.name" in overrides:
        tree = {section: value for section, value in tree.items() if section not in PROMPTS}
    for name, value in overrides.items():
        tree = with_value(tree, name, value)
    return tree


def label(point: Mapping[str, Any]) -> str:
    """A point in short: `VoP^P, length=4` for keys that move together."""
    parts = [(key.rpartition(".")[2] if "," in key else key, value) for key, value in point.items()]
    return ", ".join(str(value) if name == "method" else f"{name}={value}" for name, value in parts)


def with_rates(points: Sequence[Point], rates: Mapping[str, float]) -> list[Point]:
    """Points with the learning rate of their method, where there is one."""
    return [p | ({"training.learning_rate": rates[p["method"]]} if p.get("method") in rates else {}) for p in points]
