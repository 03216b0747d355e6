"""What there is to say: every key with its type, its default and its meaning, and an experiment with what differs marked."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
import yaml
from pydantic.fields import FieldInfo

from vop.config.experiment import BASES, Experiment
from vop.config.kinds import ConfigError, config_of, kinds
from vop.config.sections import Section

LIMITS = {annotated_types.Ge: "ge", annotated_types.Gt: "gt", annotated_types.Le: "le", annotated_types.Lt: "lt"}
SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


@dataclass(frozen=True)
class Key:
    """A dotted key; `default` as YAML; `kinds`: the names of the section that have it, none where all do."""

    key: str
    type: str
    default: str
    meaning: str
    kinds: tuple[str, ...] = ()


def keys(within: str = "") -> list[Key]:
    """All keys, or one, or those of a section, in the order of `Experiment`. Raises ConfigError for what is neither."""
    section = within.partition(".")[0]
    near = [key for name in Experiment.model_fields if section in ("", name) for key in _keys(name)]
    found = [key for key in near if within in ("", key.key) or key.key.startswith(f"{within}.")]
    if not found:
        beside = [key.key for key in near if "." in key.key]
        raise ConfigError(f"{within}: unknown key; valid: {', '.join(dict.fromkeys(beside or Experiment.model_fields))}")
    return found


def is_key(word: str) -> bool:
    """Whether a word is meant as a key or a section, and not as a recipe."""
    return word.partition(".")[0] in Experiment.model_fields


def _keys(name: str) -> Iterator[Key]:
    """Of one field of `Experiment`; those of kinds are imported for it."""
    field = Experiment.model_fields[name]
    if not isinstance(field.default, Section):
        yield _key(name, field)
        return
    known = type(field.default).model_fields
    own: dict[Key, list[str]] = {}
    for one in kinds(name) if name in BASES else ():
        config = config_of(name, one)
        for part, other in config.model_fields.items() if config else ():
            key = _key(f"{name}.{part}", other)
            if part not in known or key != _key(f"{name}.{part}", known[part]):
                own.setdefault(key, []).append(one)
    for part, other in known.items():
        key = _key(f"{name}.{part}", other)
        yield (
            Key(key.key, f"one of {', '.join(kinds(name))}", key.default, key.meaning)
            if (part == "name" and name in BASES)
            else key
        )
    for key, names in own.items():
        yield Key(key.key, key.type, key.default, key.meaning, tuple(names))


def _key(key: str, field: FieldInfo) -> Key:
    limits = [f" {SIGNS[name]} {getattr(item, name):g}" for item in field.metadata if (name := LIMITS.get(type(item)))]
    return Key(key, _type(field.annotation, "".join(limits)), scalar(field.default), field.description or "")


def _type(annotation: Any, limits: str) -> str:
    if get_origin(annotation) is Literal:
        return f"one of {', '.join(get_args(annotation))}"
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join("null" if part is type(None) else _type(part, limits) for part in get_args(annotation))
    names = {"str": "text", "bool": "true or false", "int": "whole number", "float": "number"}
    return names.get(annotation.__name__, str(annotation.__name__)) + limits


def scalar(value: Any) -> str:
    """A value as YAML, on one line."""
    text = yaml.safe_dump([value], default_flow_style=True, width=float("inf"), allow_unicode=True)
    return str(text.strip()[1:-1])


def explained(experiment: Experiment) -> str:
    """An experiment as YAML, which is a recipe; what differs from the defaults is marked with them."""
    default = Experiment().tree()
    for section in BASES:
        own = type(getattr(experiment, section)).model_fields.items()
        default[section] = {name: field.default for name, field in own} | default[section]
    return "\n".join(_lines(experiment.tree(), default, ""))


def _lines(tree: dict[str, Any], default: dict[str, Any], indent: str) -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield f"{indent}{key}:"
            yield from _lines(value, default[key], indent + "  ")
            continue
        line = f"{indent}{key}: {scalar(value)}"
        yield line if value == default[key] else f"{line}  # default: {scalar(default[key])}"
