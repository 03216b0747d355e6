"""README and docs: commands are valid, snippets run, names resolve, generated parts are up to date."""

from __future__ import annotations

import doctest
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from pipelines.cli import app
from pipelines.sweep.space import load_space
from vop.config import PACKAGES, Experiment, kind, kinds, load_experiment, recipes
from vop.errors import VopError

ROOT = Path(__file__).parents[2]
PAGES = {
    str(page.relative_to(ROOT)): page.read_text(encoding="utf-8")
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
}
FENCE = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
BLOCKS = [(page, m[2], re.sub(f"^{m[1]}", "", m[3], flags=re.M)) for page, text in PAGES.items() for m in FENCE.finditer(text)]
USAGE: Any = typer.BadParameter.__base__  # of all that is wrong with a command line; typer does not export it
OWN_TESTS = {"docs/python.md", "docs/extending.md", "docs/export.md"}  # their snippets need more than an adapter and two videos
ROOTS = "vop|pipelines|tests|docs|tune_spaces|experiments"
ELSEWHERE = ("runs/", "results/", "/path/to", "~", "http")  # made by commands, or the reader's own


def prose(text: str) -> str:
    """A page without its blocks."""
    return FENCE.sub("", text)


def commands(text: str) -> list[list[str]]:
    """The words of each command of a shell block, settings of the environment left out."""
    lines = [shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines()]
    bare = [[word for i, word in enumerate(words) if not (i == 0 and re.match(r"[A-Z_]+=", word))] for words in lines]
    return [words for words in bare if words]


COMMANDS = [(page, words) for page, kind, text in BLOCKS if kind in ("sh", "bash", "console") for words in commands(text)]
INLINE = [(page, shlex.split(m[1])) for page, text in PAGES.items() for m in re.finditer(r"`(vop [^`\n]+)`", prose(text))]
VOP = [(page, words[1:]) for page, words in COMMANDS if words[0] in ("vop", ".venv/bin/vop")]


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """The name of the command that is called, and its parameters; fails as the command line would."""
    command: Any = typer.main.get_command(app)
    names: list[str] = []
    while hasattr(command, "commands"):
        assert words and words[0] in command.commands, f"no command {' '.join([*names, *words[:1]])}"
        names.append(words[0])
        command, words = command.commands[words[0]], words[1:]
    return " ".join(names), command.make_context(names[-1], list(words)).params


def check(words: list[str]) -> None:
    """A `vop` command: its arguments are those of the command, its recipe and space exist, its keys and values are valid."""
    name, params = parsed(words)
    if name == "submit":
        return check(list(params["words"]))
    given = [str(word) for value in params.values() if isinstance(value, list | tuple) for word in value]
    recipe = str(params.get("recipe") or "")
    if given and "=" not in given[0] and name in ("tune", "report", "config", "ui"):
        recipe, given = given[0], given[1:]
    overrides = [word for word in given if re.match(r"[a-z_]+(\.[a-z_]+)*=", word)]
    if recipe:
        assert recipe in recipes(), recipe
    if name == "verify":
        overrides.insert(0, f"benchmark.name={params['benchmark']}")
    experiment = load_experiment(recipe, overrides)
    if params.get("space"):
        load_space(str(ROOT / params["space"]) if str(params["space"]).startswith("tests/") else params["space"])
    assert isinstance(experiment, Experiment)


@pytest.mark.parametrize(("page", "words"), VOP, ids=[f"{page}-{' '.join(words)}" for page, words in VOP])
def test_a_vop_command_is_valid(page: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_space.py").write_text(next(text for _, kind, text in BLOCKS if kind == "python" and "SPACE" in text))
    check(words)


def test_a_wrong_command_is_found() -> None:
    for wrong in ("train toi", "train toy trainng.epochs=1", "tune toy --space nothing", "train toy --nothing", "evaluate"):
        with pytest.raises((VopError, AssertionError, USAGE)):
            check(wrong.split())


@pytest.mark.parametrize(("page", "words"), INLINE, ids=[f"{page}-{' '.join(words)}" for page, words in INLINE])
def test_a_vop_command_in_a_sentence_exists(page: str, words: list[str]) -> None:
    """`vop prepare RECIPE` in a sentence: capitals stand for something, options and keys are real."""
    command: Any = typer.main.get_command(app)
    rest = words[1:]
    if rest[0] == "COMMAND":
        return
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"{page}: {' '.join(words)}"
        command, rest = command.commands[rest[0]], rest[1:]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help", "--version"}
    assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= known
    load_experiment("", [word for word in rest if re.match(r"[a-z_]+\.[a-z_]+=[^.]", word)])


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[f"{page}-{' '.join(words)}" for page, words in COMMANDS])
def test_a_shell_command_is_one_that_is_checked(page: str, words: list[str]) -> None:
    program = words[0]
    if program == "make":
        targets = [word for word in words[1:] if "=" not in word]
        assert set(targets) <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)), targets
    elif program == "pip":
        assert words[1] in ("install", "download")
        for extra in re.findall(r"\[(\w+)\]", " ".join(words)):
            assert re.search(rf"^{extra} = \[", (ROOT / "pyproject.toml").read_text(), re.M), extra
    elif program == "ray":
        assert words[1] in ("start", "up", "job")
        assert all((ROOT / word).is_file() for word in words if word.endswith(".yaml"))
    elif program == "export":
        assert all(re.fullmatch(r"(MLFLOW|RAY|VOP)_\w+=\S+", word) for word in words[1:])
    else:
        assert program in ("vop", ".venv/bin/vop", "git", "cd", "uv", "python"), f"{page}: nothing checks {program}"


@pytest.mark.parametrize(("page", "text"), [(p, t) for p, kind, t in BLOCKS if kind in ("yaml", "yml")])
def test_a_recipe_is_valid(page: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    load_experiment(tmp_path / "recipe.yaml")


PYTHON = [(page, text) for page, kind, text in BLOCKS if kind == "python" and page not in OWN_TESTS]


@pytest.fixture(scope="module")
def readers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader of the README has by then: an adapter and two videos."""
    from vop.model.adapter import adapter_of, save_adapter
    from vop.model.retrieval import build_model
    from vop.toy.videos import frames_of, plan, write_video

    folder = tmp_path_factory.mktemp("reader")
    experiment = load_experiment("toy")
    save_adapter(adapter_of(build_model(experiment), experiment), folder / "runs/folder-vop-XXXXXXXX")
    for name, clip in zip(("a dog.mp4", "kitchen.mp4"), plan()[0], strict=False):
        write_video(folder / name, list(frames_of(clip))[::6], rate=8)
    return folder


@pytest.mark.parametrize(("page", "text"), PYTHON, ids=[page for page, _ in PYTHON])
def test_a_python_snippet_runs(page: str, text: str, readers_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(readers_folder)
    if ">>>" in text:
        examples = doctest.DocTestParser().get_doctest(text, {}, page, page, 0)
        assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples).failed == 0
    else:
        exec(compile(text, page, "exec"), {})


LINKS = [
    (page, m[1]) for page, text in PAGES.items() for m in re.finditer(r"\]\(([^)\s]+)\)", prose(text)) if "://" not in m[1]
]


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_a_link_leads_somewhere(page: str, link: str) -> None:
    place, _, anchor = link.partition("#")
    file = (ROOT / page).parent / place if place else ROOT / page
    assert file.is_file(), link
    if anchor:
        assert anchor in {slug(title) for title in re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.M)}, link


def slug(title: str) -> str:
    """A heading's anchor."""
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", title.lower())).strip("-")


NAMED = [(page, m[1]) for page, text in PAGES.items() for m in re.finditer(rf"(?<![\w/.-])((?:{ROOTS})/[\w./*-]+)", text)]


@pytest.mark.parametrize(("page", "name"), sorted({(page, name.rstrip(".")) for page, name in NAMED}))
def test_a_file_that_is_named_is_there(page: str, name: str) -> None:
    made = name.startswith("docs/results/speed")  # by a command that the same page gives
    assert made or (ROOT / name).exists(), f"{page} names {name}"


KEYS = [
    (page, m[1], m[2])
    for page, text in PAGES.items()
    for m in re.finditer(r"`([a-z_]+\.[a-z_]+)(=[^`\s]+)?`", prose(text))
    if m[1].partition(".")[0] in Experiment.model_fields
]


@pytest.mark.parametrize(("page", "key", "value"), sorted({(page, key, value or "") for page, key, value in KEYS}))
def test_a_key_that_is_named_is_one(page: str, key: str, value: str) -> None:
    """Also one that only some kind has."""
    section, _, name = key.partition(".")
    configs = [type(Experiment.model_fields[section].default)]
    if section in PACKAGES:
        configs += [getattr(kind(section, one), "Config", configs[0]) for one in kinds(section)]
    assert any(name in config.model_fields for config in configs), f"{page}: {key}"
    if value and len(configs) == 1:
        load_experiment("", [key + value])


@pytest.mark.usefixtures("slow")
def test_generated_parts_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert {page.name for page in (ROOT / "docs").glob("*.md")} == set(re.findall(r": ([\w-]+\.md)$", text, re.M))


def test_the_readme_stays_short() -> None:
    assert 100 <= len(PAGES["README.md"].splitlines()) <= 170
