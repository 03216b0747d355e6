"""Arguments that several commands share."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from vop.config import recipes


def complete_recipe(incomplete: str) -> list[str]:
    """For the shell: the names of packaged recipes."""
    return [name for name in recipes() if name.startswith(incomplete)]


RECIPE = "a recipe: its name, such as toy, or the path of one of your own"
Recipe = Annotated[str, typer.Argument(help=RECIPE, autocompletion=complete_recipe)]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, such as training.epochs=3 (all keys: vop config)")]
RecipeAndOverrides = Annotated[
    list[str] | None, typer.Argument(help="a recipe and key=value, both optional", autocompletion=complete_recipe)
]
AdapterPlace = Annotated[str, typer.Argument(help="its folder, its MLflow run (the start of the id), or models:/NAME@ALIAS")]
Split = Literal["train", "val", "test"]


def recipe_and_overrides(arguments: list[str] | None) -> tuple[str, list[str]]:
    """An optional recipe, then overrides."""
    words = arguments or []
    has_recipe = bool(words) and "=" not in words[0]
    return (words[0], words[1:]) if has_recipe else ("", words)
