"""YAML recipe (a name or a path) -> raw tree -> dotted overrides -> Experiment, validated once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from os.path import expanduser
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from vop.config.experiment import Experiment, Tree, merged, name_in
from vop.config.kinds import PACKAGES, ConfigError, config_of
from vop.config.strict_yaml import read_yaml
from vop.messages import one_line

RECIPES = Path(__file__).parents[1] / "recipes"
LARGEST = 2**16  # bytes of a recipe
MOST, LONGEST = 20, 200  # faults that are named of a recipe, and characters of a value in a message


def load_experiment(recipe: str | Path | Mapping[str, Any] = "", overrides: Iterable[str] = ()) -> Experiment:
    """Read a recipe (a packaged name, a path, or a tree), apply `key=value` overrides, validate once.

    Raises ConfigError for a missing file, bad YAML, an unknown key or name, a value of the wrong type.
    """
    return validated(raw_tree(recipe, overrides))


def recipe_words(names: str, words: Sequence[str]) -> dict[str, tuple[str, list[str]]]:
    """Several recipes with commas, and overrides of all (`key=value`) or of one (`didemo:key=value`): by name, its own of both.

    A recipe file of one's own has the name of its file. Raises ConfigError for a name that is there twice, or of no recipe.
    """
    places = [name.strip() for name in names.split(",")]
    named = [place if place in recipes() else Path(place).stem for place in places]
    if twice := next((name for name in named if named.count(name) > 1), None):
        raise ConfigError(f"--recipes {names}: two are called {twice}; rename the file of one")
    overrides: dict[str, list[str]] = {name: [] for name in named}
    for word in words:
        own = re.fullmatch(r"([^:=]+):([^=]+=.*)", word, re.DOTALL)
        if own and own[1] not in named:
            raise ConfigError(f"{word}: there is no recipe {own[1]!r} among {', '.join(named)}")
        for name in [own[1]] if own else named:
            overrides[name].append(own[2] if own else word)
    return {name: (place, overrides[name]) for name, place in zip(named, places, strict=True)}


def is_override(word: str) -> bool:
    """Whether a word among others, such as texts to search for, sets a key: `data.cache=/scratch`."""
    return bool(re.match(r"[a-z_]+(\.[a-z_]+)+=", word))


def raw_tree(recipe: str | Path | Mapping[str, Any] = "", overrides: Iterable[str] = ()) -> Tree:
    """A recipe with its overrides, not validated: only what differs from the defaults."""
    tree = _read(recipe) if isinstance(recipe, str | Path) and str(recipe) else recipe or {}
    assert isinstance(tree, Mapping)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"override {override!r}: write key=value, for example training.epochs=3")
        try:
            tree = with_value(tree, key, _read_value(text))
        except ValueError as error:
            raise ConfigError(f"override {override!r}: {text!r} is not a YAML value: {error}") from error
    return dict(tree)


def _read_value(text: str) -> Any:
    """What a word of the command line says: YAML, in which ` #` begins no comment, for it may stand in a path."""
    return text if re.search(r"(^|\s)#", text) and text[0] not in "\"'[{" else read_yaml(text)


def validated(tree: Mapping[str, Any], *, strict: bool = True) -> Experiment:
    """An Experiment from a raw tree; raises ConfigError that names every bad key. strict: false takes "3" for 3, too."""
    try:
        return Experiment.model_validate(dict(tree), strict=strict, context={"strict": strict})
    except ValidationError as error:
        details = error.errors()
        more = [f"and {len(details) - MOST} more"] if len(details) > MOST else []
        raise ConfigError(*(_explain(detail, tree) for detail in details[:MOST]), *more) from None


def with_value(tree: Mapping[str, Any], key: str, value: Any) -> Tree:
    """A copy of a raw tree with one dotted key set."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return merged(tree, value)


def recipes() -> list[str]:
    """The names of the packaged recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipe_file(recipe: str | Path) -> Path:
    """The file of a recipe: of a packaged one by its name, or a path to one of your own. ConfigError if there is none."""
    path = Path(expanduser(recipe))
    if path.is_file():
        return path
    packaged = RECIPES / f"{recipe}.yaml"
    if str(recipe) in recipes():
        return packaged
    near = ", ".join(sorted(str(p) for p in (path.parent if path.parent.is_dir() else Path()).glob("*.yaml")))
    raise ConfigError(
        f"recipe {recipe}: there is no such file and no packaged recipe of this name; names: {', '.join(recipes())}; "
        f"files beside it: {near or 'none'}"
    )


def _read(recipe: str | Path) -> Tree:
    path = recipe_file(recipe)
    if (size := path.stat().st_size) > LARGEST:
        raise ConfigError(f"recipe {path}: {size:,} bytes, a recipe has at most {LARGEST:,}")
    try:
        tree = read_yaml(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ConfigError(f"recipe {path} is not valid YAML: {one_line(error)}") from error
    if tree is None:
        raise ConfigError(f"recipe {path} says nothing: write `key: value` lines; vop config prints the keys")
    if not isinstance(tree, dict):
        raise ConfigError(f"recipe {path}: expected `key: value` lines, found {type(tree).__name__}")
    return tree


def _explain(detail: Any, tree: Mapping[str, Any]) -> str:
    """One line for one pydantic error, with the dotted key and, for an unknown key, what is valid at its place."""
    place = [str(part) for part in detail["loc"]]
    key = ".".join(place) or "experiment"
    if detail["type"] != "extra_forbidden":
        given = "" if detail["type"] == "value_error" else f" (given: {json.dumps(detail['input'], default=str)[:LONGEST]})"
        problem = detail["msg"].removeprefix("Value error, ")
        return problem + given if problem.startswith(f"{key}.") else f"{key}: {problem}{given}"
    section: type[BaseModel] = Experiment
    for part in place[:-1]:
        default = section.model_fields[part].default
        section = type(default)
        if part in PACKAGES:
            name = name_in(dict(tree), part, default.name)
            section = config_of(part, name) or section
    where = ".".join(place[:-1]) or "the top level"
    return f"{key}: unknown key; valid keys at {where}: {', '.join(section.model_fields)}"
