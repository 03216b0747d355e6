"""Experiment: one frozen, typed object that says everything about a run.

YAML recipe -> raw tree -> dotted overrides -> Experiment (validated once) -> JSON for Ray, flat dotted keys for MLflow.
Importing this module pulls in neither torch nor ray; only the file of a chosen kind (`vop/prompts/context.py` for
`video_prompt.name=context`) is imported when an experiment that names it is validated.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import pkgutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError, field_validator, model_validator
from typing_extensions import Self

Tree = dict[str, Any]


class ConfigError(ValueError):
    """A recipe or override that is not valid; the message names each key, its place and what is valid there."""


class Section(BaseModel):
    """A part of an experiment: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class BackboneConfig(Section):
    """The frozen CLIP: an open_clip name, and its weights: a pretrained tag, a file, or `random` (for tests)."""

    name: str = "ViT-B-32"
    pretrained: str = "openai"
    quick_gelu: bool | None = None


class FramesConfig(Section):
    """Which frames of a video are read (`vop/frames.py`).

    With `sampling` random, each step of training draws one of `candidates` frames in each of `count` segments of the video;
    evaluation takes the middle ones.
    """

    count: int = Field(12, ge=1)
    sampling: Literal["uniform", "random", "fps"] = "uniform"
    candidates: int = Field(3, ge=1)
    fps: float = Field(1.0, gt=0)
    decoder: Literal["auto", "decord", "pyav"] = "auto"


class BenchmarkConfig(Section):
    """A benchmark (`vop/benchmarks/`): its name, where its videos and annotation files are. A kind may add fields."""

    name: str = "toy"
    videos: str = ""
    annotations: str = ""


class PromptConfig(Section):
    """Prompts of an encoder: `length` tokens in each layer of `depth` ("all", or "i-j" from 1, the input side)."""

    length: int = Field(8, ge=0)
    depth: str = Field("all", pattern=r"^(all|[1-9]\d*-[1-9]\d*)$")


class TextPromptConfig(PromptConfig):
    """Prompts of the text encoder. `suffix` of the `length` stand where the authors' release puts them: `vop/release.py`."""

    suffix: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _suffix_within_length(self) -> Self:
        if self.suffix > self.length:
            raise ValueError(f"suffix {self.suffix} is more than length {self.length}")
        if self.suffix and self.depth != "all":
            raise ValueError(f"suffix {self.suffix} needs depth all: the release prompts every layer; given depth {self.depth}")
        return self


class VideoPromptConfig(PromptConfig):
    """Prompts of the video encoder; `name` is a file of `vop/prompts/`, which may add fields."""

    name: str = "shared"


class VideoEncoderConfig(Section):
    """`split_layer` K_s: layers 1..K_s attend inside a frame, those above across the video (VoP^F). Null: no split."""

    split_layer: int | None = Field(None, ge=1)


class TuningConfig(Section):
    """What is trained: a file of `vop/tuning/`, which may add fields."""

    name: str = "prompts"


class TrainingConfig(Section):
    """Optimisation; the defaults are the paper's (section 4.1). `learning_rate` null: the tuning protocol's default.

    checkpointing: keep less for the backward pass and compute it again; chunk_size: so many pairs of a worker at a time, for
    the gradient of the whole batch in the memory of a chunk. Both are exact, and slower.
    """

    epochs: int = Field(5, ge=0)
    batch_size: int = Field(32, ge=1, description="pairs in a step, over all workers")
    learning_rate: float | None = Field(None, gt=0)
    weight_decay: float = Field(0.2, ge=0)
    warmup: float = Field(0.1, ge=0, lt=1, description="share of all steps")
    precision: Literal["fp32", "bf16"] = "fp32"
    checkpointing: bool = False
    chunk_size: int | None = Field(None, ge=1)
    select: Literal["val", "test"] = "val"


class DataConfig(Section):
    """Where frames come from, and what to do with videos that cannot be read.

    cache: a folder, or a URI that pyarrow knows (s3://, gs://, ...); store: false decodes the training videos anew each time
    that they are needed, and stores the frames of validation and test only; codec: of the frames in the store (jpeg loses
    some, see `vop throughput data`); activations_gb: disk for what the layers below the first prompt make of the training
    videos, computed once and reused in every epoch and run (0: never).
    """

    cache: str = "~/.cache/vop"
    store: bool = True
    codec: Literal["raw", "lz4", "zstd", "jpeg"] = "raw"
    jpeg_quality: int = Field(90, ge=1, le=100)
    ahead: int = Field(2, ge=1, description="batches read or decoded ahead of training; memory: one more than that, a worker")
    activations_gb: float = Field(20, ge=0)
    max_failed_fraction: float = Field(0.02, ge=0, le=1)


class ResourcesConfig(Section):
    """What a training takes of the cluster. `use_gpu` null: a GPU for each worker where the cluster has one."""

    num_workers: int = Field(1, ge=1)
    cpus_per_worker: float = Field(1.0, gt=0)
    use_gpu: bool | None = None
    max_failures: int = Field(0, ge=0, description="restarts of a training whose worker or node died")


class TrackingConfig(Section):
    """Where runs are kept. `uri` empty: MLFLOW_TRACKING_URI, or else an SQLite file in `output`."""

    experiment: str = "vop"
    uri: str = ""
    output: str = "runs"


BASES: dict[str, type[Section]] = {
    "benchmark": BenchmarkConfig,
    "video_prompt": VideoPromptConfig,
    "tuning": TuningConfig,
}


class Experiment(Section):
    """Everything about a run; it travels with the weights (`adapter.json`)."""

    name: str = "vop"
    seed: int = Field(0, ge=0)
    backbone: BackboneConfig = BackboneConfig()
    benchmark: SerializeAsAny[BenchmarkConfig] = BenchmarkConfig()
    frames: FramesConfig = FramesConfig()
    text_prompt: TextPromptConfig = TextPromptConfig()
    video_prompt: SerializeAsAny[VideoPromptConfig] = VideoPromptConfig()
    video_encoder: VideoEncoderConfig = VideoEncoderConfig()
    tuning: SerializeAsAny[TuningConfig] = TuningConfig()
    training: TrainingConfig = TrainingConfig()
    data: DataConfig = DataConfig()
    resources: ResourcesConfig = ResourcesConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="before")
    @classmethod
    def _no_prompts_without_prompt_tuning(cls, tree: Any) -> Any:
        if not isinstance(tree, dict) or _name_in(tree, "tuning", "prompts") == "prompts":
            return tree
        return _merged({"text_prompt": {"length": 0}, "video_prompt": {"length": 0}}, tree)

    @field_validator("benchmark", "video_prompt", "tuning", mode="before")
    @classmethod
    def _of_its_kind(cls, value: Any, info: Any) -> Any:
        """Validate a section with the Config of the file that its `name` names, if that file has one of its own."""
        if not isinstance(value, dict):
            return value
        base = BASES[info.field_name]
        module = kind(info.field_name, str(value.get("name", base.model_fields["name"].default)))
        return getattr(module, "Config", base).model_validate(value)

    @model_validator(mode="after")
    def _prompts_belong_to_prompt_tuning(self) -> Self:
        if self.tuning.name != "prompts":
            if self.text_prompt.length or self.video_prompt.length:
                raise ValueError(f"tuning.name={self.tuning.name} has no prompts: leave text_prompt and video_prompt out")
            if self.video_encoder.split_layer is not None:
                raise ValueError(f"tuning.name={self.tuning.name} has no split layer: leave video_encoder.split_layer out")
        return self

    def tree(self) -> Tree:
        """The experiment as JSON-ready nested dictionaries, every default written out."""
        return self.model_dump(mode="json")

    def flat(self) -> dict[str, Any]:
        """The experiment as {dotted key: value}."""
        return dict(_flatten(self.tree()))


PACKAGES = {"benchmark": "vop.benchmarks", "video_prompt": "vop.prompts", "tuning": "vop.tuning"}


def kinds(section: str) -> list[str]:
    """The names that a section (`benchmark`, `video_prompt`, `tuning`) knows: the files of its package."""
    package = importlib.import_module(PACKAGES[section])
    return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def kind(section: str, name: str) -> ModuleType:
    """Import the file of a kind by its name. Raises ConfigError listing the files present when there is none."""
    if name not in kinds(section):
        raise ConfigError(f"{section}.name: there is no {name!r}; valid names: {', '.join(kinds(section))}")
    return importlib.import_module(f"{PACKAGES[section]}.{name.replace('-', '_')}")


def layers_of(depth: str, layers: int, key: str) -> range:
    """Layer numbers (from 0) that "all" or "i-j" (from 1, inclusive) names among `layers` layers."""
    if depth == "all":
        return range(layers)
    first, last = (int(number) for number in depth.split("-"))
    if not first <= last <= layers:
        raise ConfigError(f"{key}: {depth!r} is not within 1-{layers}, the layers of this encoder")
    return range(first - 1, last)


def load_experiment(recipe: str | Path | Mapping[str, Any] = "", overrides: Iterable[str] = ()) -> Experiment:
    """Read a YAML recipe (or take a tree), apply `key=value` overrides, validate once.

    Raises ConfigError for a missing file, bad YAML, an unknown key or name, a value of the wrong type.
    """
    return validated(raw_tree(recipe, overrides))


def raw_tree(recipe: str | Path | Mapping[str, Any] = "", overrides: Iterable[str] = ()) -> Tree:
    """A recipe with its overrides, not validated: only what differs from the defaults."""
    tree = _read(Path(recipe)) if isinstance(recipe, str | Path) and str(recipe) else recipe or {}
    assert isinstance(tree, Mapping)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"override {override!r}: write key=value, for example training.epochs=3")
        try:
            tree = with_value(tree, key, yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise ConfigError(f"override {override!r}: {text!r} is not a YAML value") from error
    return dict(tree)


def validated(tree: Mapping[str, Any]) -> Experiment:
    """An Experiment from a raw tree; raises ConfigError that names every bad key."""
    try:
        return Experiment.model_validate(dict(tree))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(detail, tree) for detail in error.errors())) from None


def with_value(tree: Mapping[str, Any], key: str, value: Any) -> Tree:
    """A copy of a raw tree with one dotted key set."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return _merged(tree, value)


def _read(path: Path) -> Tree:
    if not path.is_file():
        near = ", ".join(sorted(str(p) for p in (path.parent if path.parent.is_dir() else Path()).glob("*.yaml")))
        raise ConfigError(f"recipe {path} does not exist; recipes beside it: {near or 'none'}")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"recipe {path} is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"recipe {path}: expected `key: value` lines, found {type(tree).__name__}")
    return tree


def _merged(tree: Mapping[str, Any], change: Mapping[str, Any]) -> Tree:
    merged = dict(tree)
    for key, value in change.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _name_in(tree: Tree, section: str, default: str) -> str:
    value = tree.get(section)
    return str(value.get("name", default)) if isinstance(value, Mapping) else default


def _flatten(tree: Tree, prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _explain(detail: Any, tree: Mapping[str, Any]) -> str:
    """One line for one pydantic error, with the dotted key and, for an unknown key, what is valid at its place."""
    place = [str(part) for part in detail["loc"]]
    key = ".".join(place) or "experiment"
    if detail["type"] != "extra_forbidden":
        given = "" if detail["type"] == "value_error" else f" (given: {json.dumps(detail['input'], default=str)})"
        problem = detail["msg"].removeprefix("Value error, ")
        return problem + given if problem.startswith(f"{key}.") else f"{key}: {problem}{given}"
    section: type[BaseModel] = Experiment
    for part in place[:-1]:
        default = section.model_fields[part].default
        section = type(default)
        if part in PACKAGES:
            name = _name_in(dict(tree), part, default.name)
            section = getattr(kind(part, name), "Config", section)
    where = ".".join(place[:-1]) or "the top level"
    return f"{key}: unknown key; valid keys at {where}: {', '.join(section.model_fields)}"
