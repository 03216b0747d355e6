"""The words of a vop command as a job may have them: nothing in them is relative to the folder that it is submitted from."""

from __future__ import annotations

from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path

from vop.config import Experiment, is_override, load_experiment, recipe_file, recipe_words, recipes
from vop.errors import VopError
from vop.index.table import is_index
from vop.places import absolute, is_remote

WRITING = (  # goes where a recipe says
    *("check", "train", "tune", "prepare", "evaluate", "report", "demo", "index", "search", "retrieved"),
)
PRINTING = ("doctor", "methods", "throughput", "verify")
RECIPE_FIRST = ("check", "train", "prepare", "tune", "report", "doctor")
ADAPTER_FIRST = ("evaluate", "search", "retrieved")
OF_A_MODEL = (*ADAPTER_FIRST, "index")  # it brings a model of its own, which the overrides may belong to
PLACES = ("--output", "--export", "--report", "--videos", "--annotations", "--to", "--queries", "--like")  # a value is a path
OUTPUT = {"verify": ("--report", "verify-{}.parquet"), "retrieved": ("--output", "retrieved.html")}  # in the caller's folder
FLAGS = ("--asha", "--dry-run", "--store", "--json", "--help", "-h")  # options without a value
PATHS = ("tracking.output", "data.cache", "benchmark.videos", "benchmark.annotations")


class WordError(VopError, ValueError):
    """A command that is not for a job, or names a file that is not there."""


@dataclass(frozen=True)
class Command:
    """The words of a job, and the files that they name: their place in the job's folder -> where they are now."""

    words: list[str]
    files: dict[str, Path]


def job_command(words: list[str]) -> Command:
    """A command for a job: paths are absolute, and a recipe or space of one's own goes with it.

    Raises WordError for what is not for a job, ConfigError for a recipe or override that is not valid.
    """
    command, rest = words[0], words[1:]
    if command not in (*WRITING, *PRINTING):
        valid = ", ".join((*WRITING, *PRINTING))
        raise WordError(f"vop {command} is not for a job, run it on this machine; a job can be: {valid}")
    options, positional = _values_and_positional(rest)
    recipe = _recipe_place(command, rest, positional)
    files: dict[str, Path] = {}
    given = list(rest)
    for place, word in enumerate(rest):
        if place == recipe:
            given[place] = _recipe(word, place, files)
        elif place in positional:
            given[place] = _positional(command, [rest[other] for other in positional[: positional.index(place)]], word)
        elif place in options:
            before, equals, value = word.rpartition("=") if word.startswith("--") else ("", "", word)
            given[place] = before + equals + _option(options[place], value, place, files)
    given += _default_output(command, given, positional, options)
    if command not in WRITING:
        return Command([command, *given], files)
    if names := next((rest[place].removeprefix("--recipes=") for place, name in options.items() if name == "--recipes"), ""):
        return Command([command, *given, *_paths_of_recipes(names, [rest[place] for place in positional], given)], files)
    overrides = [rest[place] for place in positional if place != recipe and "=" in rest[place]]
    said = [] if command in OF_A_MODEL else overrides
    experiment = load_experiment("" if recipe is None else rest[recipe], said)
    return Command([command, *given, *_absolute_paths(experiment, given)], files)


def _positional(command: str, before: list[str], word: str) -> str:
    """A word that belongs to no option: an adapter, a folder of videos, key=value, or what means the same everywhere."""
    if (command == "index" and not before) or (command == "search" and len(before) == 1 and not is_index(before[0])):
        return absolute(word)
    if command == "search" and before and not is_override(word):
        return word  # a text to search for
    if "=" in word:
        key, _, value = word.partition("=")
        return f"{key}={_absolute(key.rpartition(':')[2], value)}"
    return _folder(word) if command in ADAPTER_FIRST else word


def _option(name: str, value: str, place: int, files: dict[str, Path]) -> str:
    if name == "--space":
        return _space(value, place, files)
    if name in ("--recipe", "--recipes"):
        return ",".join(_recipe(recipe.strip(), place, files) for recipe in value.split(","))
    if name == "--model":
        return _folder(value)
    return absolute(value) if name in PLACES and value else value


def _default_output(command: str, given: list[str], positional: list[int], options: dict[int, str]) -> list[str]:
    """What a command writes beside its caller if nothing else is said."""
    option, name = OUTPUT.get(command, ("", ""))
    if not option or option in options.values() or not positional:
        return []
    return [option, absolute(name.format(given[positional[0]]))]


def _values_and_positional(rest: list[str]) -> tuple[dict[int, str], list[int]]:
    """Places of the options' values (-> the option; `--space=x` is its own) and of the words that belong to no option."""
    options: dict[int, str] = {}
    positional: list[int] = []
    for place, word in enumerate(rest):
        before = rest[place - 1] if place else ""
        if word.startswith("--") and "=" in word:
            options[place] = word.partition("=")[0]
        elif word.startswith("-"):
            continue
        elif before.startswith("--") and "=" not in before and before not in FLAGS:
            options[place] = before
        else:
            positional.append(place)
    return options, positional


def _recipe_place(command: str, rest: list[str], positional: list[int]) -> int | None:
    """Where the recipe stands, as the command line sees it: first, and without it overrides may stand there."""
    if (command == "throughput" and positional and rest[positional[0]] == "sweep") or command == "evaluate":
        positional = positional[1:]
    elif command not in RECIPE_FIRST:
        return None
    always = command in ("check", "train", "prepare") and not any(word.startswith("--resume") for word in rest)
    is_recipe = bool(positional) and (always or "=" not in rest[positional[0]])
    return positional[0] if is_recipe and rest[positional[0]] else None


def _recipe(recipe: str, place: int, files: dict[str, Path]) -> str:
    """A packaged recipe by its name, one of one's own by its place in the job's folder."""
    path = recipe_file(recipe)
    return recipe if recipe in recipes() and not Path(recipe).is_file() else _taken(path, place, files)


def _space(names: str, place: int, files: dict[str, Path]) -> str:
    """Spaces with commas: those of the project by name, .py files by their place in the job's folder."""
    return ",".join(_taken(Path(n.strip()), place, files) if n.strip().endswith(".py") else n for n in names.split(","))


def _taken(path: Path, place: int, files: dict[str, Path]) -> str:
    path = Path(expanduser(path))
    if not path.is_file():
        raise WordError(f"{path}: there is no such file")
    if path.is_symlink() and not path.resolve().is_relative_to(path.parent.resolve()):
        raise WordError(f"{path} is a link to {path.resolve()}, out of its folder, and is not sent: name the file itself")
    inside = f"given/{place}/{path.name}"
    if files.setdefault(inside, path) != path:
        raise WordError(f"{files[inside]} and {path}: two files of one name cannot be one --space; rename one")
    return inside


def _folder(word: str) -> str:
    """An adapter: its folder, or a name in MLflow."""
    path = Path(expanduser(word))
    return str(path.resolve()) if path.is_dir() else word


def _paths_of_recipes(names: str, words: list[str], given: list[str]) -> list[str]:
    """`_absolute_paths` of each of several recipes; where they write is said once."""
    found: list[str] = []
    for name, (recipe, overrides) in recipe_words(names, words).items():
        for word in _absolute_paths(load_experiment(recipe, overrides), [*given, *overrides]):
            shared = word.startswith("tracking.")
            found += [word if shared else f"{name}:{word}"] if not shared or word not in found else []
    return found


def _absolute_paths(experiment: Experiment, given: list[str]) -> list[str]:
    """Overrides for those paths of a recipe, or of the defaults, that are relative."""
    said = {word.partition("=")[0] for word in given}
    flat = {key: str(value) for key, value in experiment.flat().items() if value}
    keys = [key for key in (*PATHS, "backbone.pretrained", "tracking.uri") if key in flat and key not in said]
    return [f"{key}={_absolute(key, flat[key])}" for key in keys if _absolute(key, flat[key]) != flat[key]]


def _absolute(key: str, value: str) -> str:
    if key == "tracking.uri":
        return absolute_uri(value)
    is_path = key in PATHS or (key == "backbone.pretrained" and Path(value).is_file())  # else it may be a name
    return str(Path(value).resolve()) if is_path and value and not is_remote(value) and not value.startswith("~") else value


def absolute_uri(uri: str) -> str:
    """An MLflow address; of an SQLite file, the absolute path."""
    return f"sqlite:///{Path(uri.removeprefix('sqlite:///')).resolve()}" if uri.startswith("sqlite:///") else uri
