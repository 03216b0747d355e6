"""What the program knows, as Markdown: methods, benchmarks, recipes, keys, commands. For `docs/generate.py`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import open_clip
import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipelines.cli import app
from vop.benchmarks import SPLITS
from vop.config import PACKAGES, BackboneConfig, ConfigError, Experiment, kind, kinds, load_experiment, recipe_file, recipes
from vop.config.experiment import BASES
from vop.model.architecture import context_length, image_size
from vop.model.backbone import shape_of_backbone
from vop.model.preprocess import Preprocess, preprocess_of
from vop.model.walkers import text_of, visual_of
from vop.paper.costs import count_costs
from vop.paper.counts import count_methods
from vop.paper.methods import paper_key, paper_results

FIVE = ("msrvtt-9k", "msrvtt-7k", "didemo", "activitynet", "lsmdc")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in GitHub's Markdown."""
    lines = [list(columns), ["---"] * len(columns), *([str(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(re.sub(r"\s+", " ", cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def code(text: object) -> str:
    """As code, or nothing for nothing."""
    return f"`{text}`" if str(text) else ""


def first_sentence(doc: str | None) -> str:
    """What a docstring says first."""
    return re.split(r"(?<=[.?])\s", " ".join((doc or "").split()), maxsplit=1)[0]


def methods() -> str:
    """`vop methods`."""
    counts = count_methods()
    rows = []
    for name, count in counts.methods.items():
        printed = paper_results()["msrvtt-9k"].get(paper_key(name), {})
        share = [f"{count.trained:,}", f"{100 * count.trained / counts.total:.3f}%", f"{count.paper_trained:,}"]
        paper = f"{printed['params_m']} M" if "params_m" in printed else ""
        rate = f"{count.learning_rate:g}" if count.trained else ""
        rows.append([name, *share, paper, rate, code(" ".join(f"{key}={v}" for key, v in count.overrides.items()))])
    about = f"Of the {counts.total:,} parameters of ViT-B/32:\n\n"
    return about + table(["method", "trained", "share", "the paper's way", "paper", "learning rate", "overrides"], rows)


def costs() -> str:
    """`vop methods --costs`."""
    rows = [
        [name, f"{cost.trained:,}", f"{cost.video_flops / 1e9:.2f}", f"{cost.text_flops / 1e9:.3f}", f"{cost.index_bytes:,}"]
        for name, cost in count_costs().items()
    ]
    return table(["method", "trained", "a video, GFLOPs", "a text, GFLOPs", "a video in an index, bytes"], rows)


def files(folder: Path) -> list[list[str]]:
    """The modules of a folder with the first sentence of each."""
    sources = [file for file in sorted(folder.glob("*.py")) if not file.stem.startswith("_")]
    docs = {file: re.match(r'"""(.*?)"""', file.read_text(encoding="utf-8"), re.DOTALL) for file in sources}
    return [[code(file.stem.replace("_", "-")), first_sentence(doc and doc[1])] for file, doc in docs.items()]


def benchmarks() -> str:
    """The published protocols."""
    rows = []
    for name in FIVE:
        config = load_experiment({"benchmark": {"name": name}}).benchmark
        protocol = kind("benchmark", name).protocol(config)
        counts = [counted(protocol.videos.get(split), protocol.captions.get(split)) for split in SPLITS]
        window = "" if protocol.window is None else f"{protocol.window[0]:g} to {protocol.window[1]:g} s"
        rows.append([code(name), *counts, protocol.text, window, protocol.source])
    return table(["`benchmark.name`", "train", "val", "test", "a query is", "part of the video", "source"], rows)


def counted(videos: int | None, captions: int | None) -> str:
    """Videos of a split, and captions where they are more."""
    if videos is None:
        return "" if captions is None else f"{captions:,} captions"
    return f"{videos:,} videos" + (f", {captions:,} captions" if captions not in (None, videos) else "")


@cache
def clips() -> dict[str, tuple[list[str], str, str]]:
    """Of each model of open_clip that has weights: their tags, what its towers are like, and why it is refused, if it is.

    Built on the meta device, once for all models whose configurations differ in numbers alone; but of timm's towers the
    name's number must be the size of the pictures, so that these two are compared.
    """
    found, known = {}, dict[str, tuple[str, str]]()
    for name in open_clip.list_models():
        if tags := open_clip.list_pretrained_tags_by_model(name):
            config = open_clip.get_model_config(name)
            vision = config["vision_cfg"]
            agree = str(vision.get("image_size")) in vision.get("timm_model_name", "")
            shape = f"{re.sub(r'[0-9]+', '', json.dumps(config))} {agree}"
            if shape not in known:
                known[shape] = _towers(name)
            found[name] = (tags, *known[shape])
    return found


def _towers(name: str) -> tuple[str, str]:
    try:
        clip = shape_of_backbone(BackboneConfig(name=name, pretrained="random")).clip
    except ConfigError as error:
        return "", str(error).partition(" can enter: ")[2].partition(" (docs")[0].replace(name, "it")
    text, visual = text_of(clip), visual_of(clip)
    said = {"no class token": not visual.class_token, "texts not causal": not text.causal}
    return ", ".join([code(type(visual).__module__.rpartition(".")[2]), *(word for word, true in said.items() if true)]), ""


def backbones() -> str:
    """The models that are walked, with the tags of their weights."""
    rows, count = [], 0
    for name, (tags, towers, refused) in clips().items():
        if refused:
            continue
        count += len(tags)
        config = BackboneConfig(name=name, pretrained=tags[0])
        ways = dict.fromkeys(_resized(preprocess_of(BackboneConfig(name=name, pretrained=tag))) for tag in tags)
        size, texts = image_size(config), context_length(config)
        rows.append([code(name), " ".join(map(code, tags)), size, " or ".join(ways), texts, towers])
    total = sum(len(tags) for tags, *_ in clips().values())
    about = f"{count} of the {total} tags of open_clip {open_clip.__version__}:\n\n"
    return about + table(["`backbone.name`", "`backbone.pretrained`", "pixels", "resized", "tokens", "walker"], rows)


def _resized(preprocess: Preprocess) -> str:
    return {"shortest": "cut", "squash": "squashed"}[preprocess.resize] + f", {preprocess.interpolation}"


def refused_backbones() -> str:
    """The models that are not walked, by the reason."""
    reasons: dict[str, list[str]] = {}
    for name, (_, _, refused) in clips().items():
        if refused:
            reasons.setdefault(re.sub(r"tower is \S+ of", "tower is a model of", refused), []).append(code(name))
    return table(["why", "`backbone.name`"], [[reason, " ".join(names)] for reason, names in reasons.items()])


def recipe_list() -> str:
    """The packaged recipes: the command in the first line of each, and what it is."""
    rows = []
    for name in recipes():
        lines = [line.removeprefix("# ") for line in recipe_file(name).read_text(encoding="utf-8").splitlines()]
        rows.append([code(name), first_sentence(lines[1]), code(lines[0])])
    return table(["recipe", "what it trains", "command"], rows)


def configuration() -> str:
    """Every key of an experiment, and those that kinds add."""
    top = {name: field for name, field in Experiment.model_fields.items() if not isinstance(field.default, BaseModel)}
    parts = ["### Top level", keys(top, "")]
    for section, field in Experiment.model_fields.items():
        if section in top:
            continue
        parts += [
            f"### `{section}`",
            first_paragraph(type(field.default).__doc__),
            keys(type(field.default).model_fields, section),
        ]
        for name in kinds(section) if section in PACKAGES else []:
            config = getattr(kind(section, name), "Config", BASES[section])
            own = {key: f for key, f in config.model_fields.items() if key not in BASES[section].model_fields}
            if own:
                parts += [f"With `{section}.name={name}` also:", keys(own, section)]
    return "\n\n".join(parts)


def first_paragraph(doc: str | None) -> str:
    """What a class is."""
    return " ".join((doc or "").split("\n\n")[0].split())


def keys(fields: dict[str, FieldInfo], section: str) -> str:
    """A table of fields by their dotted keys."""
    prefix = f"{section}." if section else ""
    rows = [
        [code(prefix + key), typed(field), code(as_yaml(field.default)), field.description or ""]
        for key, field in fields.items()
    ]
    return table(["key", "type", "default", "meaning"], rows)


def typed(field: FieldInfo) -> str:
    """The type of a field and what bounds it."""
    return ", ".join(filter(None, [type_name(field.annotation), *(bound(part) for part in field.metadata)]))


def type_name(annotation: Any) -> str:
    """A type as YAML's users call it."""
    if get_origin(annotation) is Literal:
        return ", ".join(code(choice) for choice in get_args(annotation))
    if parts := get_args(annotation):
        return " or ".join("null" if part is type(None) else type_name(part) for part in parts)
    return {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}.get(
        annotation.__name__, annotation.__name__
    )


def bound(part: Any) -> str:
    """A limit of pydantic's in words."""
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than", "pattern": "as"}
    return " ".join(f"{word} {getattr(part, name)}" for name, word in words.items() if getattr(part, name, None) is not None)


def as_yaml(default: Any) -> str:
    """A default as it is written in a recipe."""
    return default if isinstance(default, str) else json.dumps(default)


def commands() -> str:
    """`--help` of all commands, by group."""
    root: Any = typer.main.get_command(app)
    panels: dict[str, list[str]] = {}
    for name, command in root.commands.items():
        panel = getattr(command, "rich_help_panel", None)
        group = panels.setdefault(panel if isinstance(panel, str) else "", [])
        group += [described(f"vop {name}", command)]
        group += [described(f"vop {name} {sub}", part) for sub, part in getattr(command, "commands", {}).items()]
    parts = [described("vop", root)] if any(p.name != "help" for p in root.params) else []
    return "\n\n".join(
        [*parts, *(text for panel, group in panels.items() for text in [*([f"## {panel}"] if panel else []), *group])]
    )


def described(name: str, command: Any) -> str:
    """One command: what it does, its arguments and options."""
    parameters = [p for p in command.params if not getattr(p, "hidden", False) and p.name != "help"]
    rows = []
    for p in parameters:
        option = p.param_type_name == "option"
        shown = (
            ", ".join(p.opts) if option else f"{(p.metavar or p.name).strip('{}[].').upper()}{' ...' if p.nargs == -1 else ''}"
        )
        empty = p.default in (None, "", False) or callable(p.default)
        rows.append([code(shown), p.help or "", "required" if p.required else "" if empty else code(p.default)])
    help_text = " ".join((command.help or "").split("\n\n")[0].split())
    return "\n\n".join([f"### `{name}`", help_text, *([table(["", "", "default"], rows)] if rows else [])])
