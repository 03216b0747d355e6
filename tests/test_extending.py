"""docs/extending.md, done as it says: a benchmark in one file, and a package of a stranger's beside ours."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.recipe import recipe

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^`([\w/.]+)`\n\n```\w+\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILES = dict(BLOCK.findall((ROOT / "docs" / "extending.md").read_text(encoding="utf-8")))


def run(words: list[str], folder: Path, *places: Path) -> subprocess.CompletedProcess[str]:
    """A command in a folder; `places` come first where Python looks for packages."""
    path = os.pathsep.join(str(place) for place in (*places, ROOT))
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The stranger's source, and the folder into which it is installed."""
    source, site = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("site")
    for name in ("pyproject.toml", "lab_prompts/drift.py", "test_drift.py"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(FILES[name], encoding="utf-8")
    words = ["-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(site), str(source)]
    done = run(words, source)
    assert done.returncode == 0, done.stderr
    return source, site


def put(place: str, text: str, folder: Path) -> None:
    """A file in a copy of the package, where it passes lint and types."""
    shutil.copytree(ROOT / "vop", folder / "vop", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    if (ROOT / ".mypy_cache").exists():  # what it knows of torch and the others; without it types take a minute
        shutil.copytree(ROOT / ".mypy_cache", folder / ".mypy_cache")
    (folder / place).write_text(text, encoding="utf-8")
    for words in (["ruff", "check"], ["ruff", "format", "--check"], ["mypy", "--config-file", "pyproject.toml"]):
        passes([*words, place], folder)


def passes(words: list[str], folder: Path) -> str:
    """What a module of Python's prints that ends well in a folder."""
    done = run(["-m", *words], folder, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.usefixtures("slow")
def test_a_benchmark_is_one_file(tmp_path: Path) -> None:
    """It passes lint, types and the contract tests where the page says to put it."""
    put("vop/benchmarks/cooking.py", FILES["cooking.py"], tmp_path)
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "benchmarks" / "test_contract.py", tmp_path / "tests")
    printed = passes(["pytest", "-q", "-p", "no:cacheprovider", "tests/test_contract.py", "-k", "cooking"], tmp_path)
    assert re.search(r"\b5 passed", printed), "records, what is missing, the example, every file, test alone"


@pytest.mark.usefixtures("slow")
def test_a_head_is_one_file(tmp_path: Path) -> None:
    """It passes lint, types and the contract tests where the page says to put it."""
    put("vop/heads/softmax.py", FILES["softmax.py"], tmp_path)
    contract = "import pytest\nfrom vop.testing import HeadContract\n\n\n"
    contract += '@pytest.mark.parametrize("name", ["softmax", "seqlstm+softmax"])\nclass TestIt(HeadContract):\n    pass\n'
    (tmp_path / "test_softmax.py").write_text(contract, encoding="utf-8")
    assert re.search(r"\b16 passed", passes(["pytest", "-q", "-p", "no:cacheprovider", "test_softmax.py"], tmp_path))


@pytest.mark.usefixtures("slow")
def test_a_method_inside_the_blocks_is_one_file(tmp_path: Path) -> None:
    """In 40 lines with imports and docstrings; it passes lint, types and the contract tests."""
    assert len([line for line in FILES["shift.py"].splitlines() if line]) <= 40
    put("vop/tuning/shift.py", FILES["shift.py"], tmp_path)
    contract = "import pytest\nfrom vop.testing import TuningContract\n\n\n"
    contract += '@pytest.mark.parametrize("name", ["shift"])\nclass TestIt(TuningContract):\n    pass\n'
    (tmp_path / "test_shift.py").write_text(contract, encoding="utf-8")
    assert re.search(r"\b5 passed", passes(["pytest", "-q", "-p", "no:cacheprovider", "test_shift.py"], tmp_path))


@pytest.mark.usefixtures("slow")
def test_a_strangers_kind_is_found_and_keeps_the_contract(lab: tuple[Path, Path], tmp_path: Path) -> None:
    source, site = lab
    listed = run(["-c", "from vop.config import kinds; print(*kinds('video_prompt'))"], source, site)
    assert listed.stdout.split() == ["context", "dgl", "dgl-transformer", "drift", "position", "shared"]
    done = run(["-m", "pytest", "-q", "-p", "no:cacheprovider", "test_drift.py"], source, site)
    assert done.returncode == 0 and "passed" in done.stdout, done.stdout + done.stderr
    without = run(["-m", "pipelines", "config", "toy", "video_prompt.name=drift"], tmp_path)
    assert (
        without.returncode == 2
        and "there is no 'drift'; valid names: context, dgl, dgl-transformer, position, shared" in without.stderr
    )


def test_a_strangers_kind_trains(lab: tuple[Path, Path], own_ray: None, videos: Path, tmp_path: Path) -> None:
    _, site = lab
    experiment = recipe(videos, tmp_path, "resources.num_workers=1", "training.epochs=1")
    flat = [f"{key}={value}" for key, value in experiment.flat().items() if value not in (None, "")]
    words = ["train", "toy", *flat, "video_prompt.name=drift", "video_prompt.reach=0.5"]
    done = run(["-m", "pipelines", *words], tmp_path, site)
    assert done.returncode == 0, done.stdout + done.stderr
    (card,) = (tmp_path / "runs").glob("test-*/adapter.json")
    assert json.loads(card.read_text())["model"]["video_prompt"]["reach"] == 0.5
