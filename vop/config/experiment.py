"""Experiment: one frozen, typed object that says everything about a run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, SerializeAsAny, field_validator, model_validator

from vop.config.kinds import CHAINED, ConfigError, config_of
from vop.config.sections import (
    BackboneConfig,
    BenchmarkConfig,
    DataConfig,
    FramesConfig,
    HeadConfig,
    ResourcesConfig,
    Section,
    TextPromptConfig,
    TrackingConfig,
    TrainingConfig,
    TuningConfig,
    VideoEncoderConfig,
    VideoPromptConfig,
)

Tree = dict[str, Any]
NAME = re.compile(r"\w[\w .,+^=()-]{0,99}")


def valid_name(name: str) -> str:
    """A name that folders, MLflow's runs and its registered models can have. Raises ValueError."""
    if not NAME.fullmatch(name):
        raise ValueError(
            f"{name[:100]!r} cannot name runs and folders: it begins with a letter, a digit or _, then there may be spaces and "
            "- . , + ^ = ( ) too; at most 100 characters"
        )
    return name


Name = Annotated[str, AfterValidator(valid_name)]


BASES: dict[str, type[Section]] = {
    "benchmark": BenchmarkConfig,
    "video_prompt": VideoPromptConfig,
    "tuning": TuningConfig,
    "head": HeadConfig,
}


class Experiment(Section):
    """Everything about a run. The model's part of it travels with the weights (`adapter.json`)."""

    name: Name = Field("vop", description="what its runs and its adapter's folder are called")
    seed: int = Field(0, ge=0, lt=2**32, description="of initial weights, order of training and frames that are drawn")
    backbone: BackboneConfig = BackboneConfig()
    benchmark: SerializeAsAny[BenchmarkConfig] = BenchmarkConfig()
    frames: FramesConfig = FramesConfig()
    text_prompt: TextPromptConfig = TextPromptConfig()
    video_prompt: SerializeAsAny[VideoPromptConfig] = VideoPromptConfig()
    video_encoder: VideoEncoderConfig = VideoEncoderConfig()
    tuning: SerializeAsAny[TuningConfig] = TuningConfig()
    head: SerializeAsAny[HeadConfig] = HeadConfig()
    training: TrainingConfig = TrainingConfig()
    data: DataConfig = DataConfig()
    resources: ResourcesConfig = ResourcesConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="before")
    @classmethod
    def _no_prompts_without_prompt_tuning(cls, tree: Any) -> Any:
        if not isinstance(tree, dict) or "prompts" in name_in(tree, "tuning", "prompts").split("+"):
            return tree
        return merged({"text_prompt": {"length": 0}, "video_prompt": {"length": 0}}, tree)

    @field_validator(*BASES, mode="before")
    @classmethod
    def _of_its_kind(cls, value: Any, info: Any) -> Any:
        """Validate a section with the Config of the file that its `name` names, if that file has one of its own."""
        if not isinstance(value, dict):
            return value
        base = BASES[info.field_name]
        name = name_in({info.field_name: value}, info.field_name, base.model_fields["name"].default)
        if "+" in name:  # it may have come as a list
            value = {**value, "name": name}
        strict = (info.context or {}).get("strict", True)
        return (config_of(info.field_name, name) or base).model_validate(value, strict=strict)

    @model_validator(mode="after")
    def _prompts_belong_to_prompt_tuning(self) -> Self:
        if "prompts" not in self.tuning.name.split("+"):
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


def layers_of(depth: str, layers: int, key: str) -> range:
    """Layer numbers (from 0) that "all" or "i-j" (from 1, inclusive) names among `layers` layers."""
    if depth == "all":
        return range(layers)
    first, last = (int(number) for number in depth.split("-"))
    if not first <= last <= layers:
        raise ConfigError(f"{key}: {depth!r} is not within 1-{layers}, the layers of this encoder")
    return range(first - 1, last)


def merged(tree: Mapping[str, Any], change: Mapping[str, Any]) -> Tree:
    """A copy of a tree with another one's values over its own."""
    result = dict(tree)
    for key, value in change.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def name_in(tree: Tree, section: str, default: str) -> str:
    """The kind that a section of a raw tree names; several joined by + where it lists them."""
    value = tree.get(section)
    name = value.get("name", default) if isinstance(value, Mapping) else default
    return "+".join(map(str, name)) if section in CHAINED and isinstance(name, list) else str(name)


def _flatten(tree: Tree, prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
