"""YAML as recipes use it: nothing that is read otherwise than it looks, and nothing that grows when it is read.

Numbers and true/false as in YAML 1.2 (`010` and `yes` are text, `3e-4` is a number), no dates. A key that is there twice,
anchors, aliases and tags are errors; `<<` is a key like others.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

KEPT = {"tag:yaml.org,2002:null"}  # of PyYAML's own rules
RULES = {
    "bool": ("true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    "float": (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+.0123456789"),
}


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "anchor", None):  # of an alias, too
            raise yaml.MarkedYAMLError(problem="anchors and aliases are not read: write it out", problem_mark=event.start_mark)
        if getattr(event, "tag", None):
            raise yaml.MarkedYAMLError(problem=f"tags such as {event.tag} are not read", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be a word", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} is there twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [rule for rule in rules if rule[0] in KEPT] for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _name, (_pattern, _firsts) in RULES.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), list(_firsts))


def read_yaml(text: str) -> Any:
    """The value that a text stands for. Raises ValueError that says what is wrong and where."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError as error:
        raise ValueError("it is nested too deep to be a recipe") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
