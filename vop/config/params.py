"""An experiment as flat text, which is what MLflow keeps of a run: written here, and read back here."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from contextlib import suppress
from types import NoneType
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from vop.config.experiment import BASES, Experiment, Tree
from vop.config.load import validated, with_value
from vop.config.sections import Section
from vop.secrets import masked

NOTHING = str(None)  # the text of a key without a value


def params_of(experiment: Experiment) -> dict[str, str]:
    """Every dotted key of an experiment, defaults included, with its value as text; secrets in addresses are masked."""
    return {key: masked(str(value)) for key, value in experiment.flat().items()}


def read_params(params: Mapping[str, str]) -> Experiment:
    """The experiment whose `params_of` these are; a key that is not among them has its default.

    Raises ConfigError for a key that there is not, a value that is not valid, and a kind that is not on this machine.
    """
    names = {section: {"name": params[f"{section}.name"]} for section in BASES if f"{section}.name" in params}
    kinds = validated(names)
    tree: Tree = {}
    for key, text in params.items():
        tree = with_value(tree, key, _value(kinds, key.split("."), text))
    return validated(tree, strict=False)


def _value(section: Section, path: list[str], text: str) -> Any:
    """What a text stands for: nothing where a field can be that, the text where it can be text, else Python's value."""
    field: FieldInfo | None = type(section).model_fields.get(path[0])
    below = getattr(section, path[0], None)
    if field is None or (isinstance(below, Section) and len(path) > 1):
        return _value(below, path[1:], text) if isinstance(below, Section) else text
    if text == NOTHING and NoneType in get_args(field.annotation):
        return None
    with suppress(ValidationError):
        TypeAdapter[Any](field.annotation or Any).validate_python(text, strict=True)
        return text
    with suppress(ValueError, SyntaxError):
        return ast.literal_eval(text)
    return text
