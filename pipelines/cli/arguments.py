"""Arguments that several commands share."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from vop.config import ConfigError, recipes


def complete_recipe(incomplete: str) -> list[str]:
    """For the shell: the names of packaged recipes."""
    return [name for name in recipes() if name.startswith(incomplete)]


RECIPE = "a recipe: its name, such as toy, or the path of one of your own"
Recipe = Annotated[str, typer.Argument(help=RECIPE, autocompletion=complete_recipe)]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, such as training.epochs=3 (all keys: vop config)")]
RecipeAndOverrides = Annotated[
    list[str] | None, typer.Argument(help="a recipe and key=value, both optional", autocompletion=complete_recipe)
]
PLACES = "its folder, its MLflow run (the start of the id), models:/NAME@ALIAS, or hf://ORG/NAME[@REVISION]"
AdapterPlace = Annotated[str, typer.Argument(help=PLACES)]
Split = Literal["train", "val", "test"]


def seconds(option: str, words: str) -> tuple[float, float]:
    """What `MIN:MAX` says; what is left out does not bound. Raises ConfigError."""
    least, colon, most = words.partition(":")
    try:
        found = float(least or 0), float(most or "inf")
    except ValueError:
        found = (1.0, 0.0)
    if (words and not colon) or not 0 <= found[0] <= found[1]:
        raise ConfigError(f"{option}: {words!r} is no range of seconds; valid: MIN:MAX, MIN: or :MAX, such as 60:3600")
    return found


def recipe_and_overrides(arguments: list[str] | None) -> tuple[str, list[str]]:
    """An optional recipe, then overrides."""
    words = arguments or []
    has_recipe = bool(words) and "=" not in words[0]
    return (words[0], words[1:]) if has_recipe else ("", words)
