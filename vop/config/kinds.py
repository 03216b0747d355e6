"""Kinds: a name in a recipe (`tuning.name=lora`) is a file of this project, or of an installed package, found by its name.

A package of your own names its file in an entry point of the group that is called like ours, so that a lab adds a method
without a fork (docs/extending.md):

    [project.entry-points."vop.prompts"]
    mine = "my_package.mine"

A name means one file. One that two packages give, or that is a file of this project too, is an error as soon as it is used.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from vop.errors import VopError


class ConfigError(VopError, ValueError):
    """A recipe or override that is not valid; the message names each key, its place and what is valid there."""


PACKAGES = {  # groups of entry points too
    "benchmark": "vop.benchmarks",
    "video_prompt": "vop.prompts",
    "tuning": "vop.tuning",
    "head": "vop.heads",
}
CHAINED = ("head", "tuning")  # sections whose name may be several, joined by +


def kinds(section: str) -> list[str]:
    """The names that a section (`benchmark`, `video_prompt`, ...) knows: the files of its package, installed ones."""
    return sorted({*own_kinds(section), *(_name(point) for point in _installed(PACKAGES[section]))})


def own_kinds(section: str) -> list[str]:
    """The names of the files of this project alone."""
    return sorted(_files(section))


def kind(section: str, name: str) -> ModuleType:
    """Import the file of a kind by its name.

    Raises ConfigError for a name that there is not, listing those that there are; for one that means two files; and for an
    installed one that does not load.
    """
    own = name in _files(section)
    points = [point for point in _installed(PACKAGES[section]) if _name(point) == name]
    if own + len(points) > 1:
        owners = [*(["vop itself"] if own else []), *(f"{point.value} of {_owner(point)}" for point in points)]
        raise ConfigError(f"{section}.name: {name!r} means {' and '.join(owners)}: rename or uninstall one")
    if own:
        return importlib.import_module(f"{PACKAGES[section]}.{name.replace('-', '_')}")
    if not points:
        raise ConfigError(f"{section}.name: there is no {name!r}; valid names: {', '.join(kinds(section))}")
    return _loaded(section, points[0])


def kinds_of(section: str, name: str) -> dict[str, ModuleType]:
    """The files that a name stands for, in order: several for a chain, `prompts+lora`. Raises as `kind` does."""
    return {part: kind(section, part) for part in name.split("+")}


def config_of(section: str, name: str) -> type[Any] | None:
    """The class `Config` of a kind, for a chain one with the fields of all; None where it has none. Raises as `kind` does.

    A file of this project is imported only if it speaks of a Config: most files pull in torch, which takes seconds.
    """
    if section in CHAINED and "+" in name:
        found = dict.fromkeys(config for part in name.split("+") if (config := config_of(section, part)))
        return _chained(section, tuple(found)) if found else None
    file = _files(section).get(name)
    if file is not None and not re.search(r"\bConfig\b", file.read_text(encoding="utf-8")):
        return None
    return getattr(kind(section, name), "Config", None)


@cache  # one class for the same chain: instances of two would never be equal
def _chained(section: str, configs: tuple[type[Any], ...]) -> type[Any]:
    def reduce(self: Any) -> tuple[Any, ...]:  # pickle finds no such class in any module
        return _unpickled, (section, self.model_dump())

    return type("Config", configs, {"__module__": __name__, "__doc__": "Options of a chain.", "__reduce__": reduce})


def _unpickled(section: str, fields: dict[str, Any]) -> Any:
    config = config_of(section, fields["name"])
    assert config is not None
    return config(**fields)


def _files(section: str) -> dict[str, Path]:
    spec = importlib.util.find_spec(PACKAGES[section])
    assert spec is not None and spec.submodule_search_locations
    files = (file for folder in spec.submodule_search_locations for file in Path(folder).glob("*.py"))
    return {file.stem.replace("_", "-"): file for file in files if not file.name.startswith("_")}


def _loaded(section: str, point: EntryPoint) -> ModuleType:
    try:
        found = point.load()
    except Exception as error:
        raise ConfigError(f"{section}.name: {point.value} of {_owner(point)} does not load: {error!r}") from error
    if not isinstance(found, ModuleType):
        raise ConfigError(f"{section}.name: {point.value} of {_owner(point)} is no module: name the file, not what is in it")
    return found


@cache
def _installed(group: str) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))


def _name(point: EntryPoint) -> str:
    return point.name.replace("_", "-")


def _owner(point: EntryPoint) -> str:
    return f"package {point.dist.name}" if point.dist else "an installed package"
