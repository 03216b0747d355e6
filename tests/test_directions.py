"""Which package may import which: pipelines -> vop, tune_spaces -> Ray's sampling functions and the list of methods."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("vop", "pipelines", "tune_spaces")
    for path in sorted((ROOT / package).rglob("*.py"))
}
VOP, PIPELINES, SPACES = ([m for m in FILES if m.partition(".")[0] == p] for p in ("vop", "pipelines", "tune_spaces"))
WITHOUT_TORCH = [
    *(module for module in VOP if module.startswith("vop.benchmarks")),
    *("vop", "vop.config", "vop.frames", "vop.methods", "vop.toy.scenes", "vop.toy.videos"),
]


def imports(source: str, package: str = "") -> set[str]:
    """Dotted names that a source imports anywhere, in functions too; `from a import b` gives a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            found |= {".".join([*parents, *([node.module] if node.module else []), alias.name]) for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "importlib.import_module",
            "import_module",
            "__import__",
        ):
            found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
    return found


def imports_of(module: str) -> set[str]:
    path = FILES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return imports(path.read_text(encoding="utf-8"), package)


def reached(module: str) -> set[str]:
    """All that is imported on the way, through the project's own files and the packages that they lie in."""
    names, queue, seen = set[str](), [module], set[str]()
    while queue:
        here = queue.pop()
        if here in FILES and here not in seen:
            seen.add(here)
            names |= imports_of(here)
            for name in (here, *imports_of(here)):
                parts = name.split(".")
                queue += [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    return names


def tops(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def test_imports_are_found_wherever_they_stand() -> None:
    source = "import a.b as c\nfrom d import e\ndef f():\n    from g.h import i\n    importlib.import_module('j')\n"
    assert imports(source) == {"a.b", "d.e", "g.h.i", "j"}
    assert imports("from . import a\nfrom .b import c\nfrom .. import d", "x.y") == {"x.y.a", "x.y.b.c", "x.d"}
    assert "torch" in tops(reached("vop.adapter")) and "torch" in tops(reached("vop.tuning.full"))
    assert "vop.frames" in FILES and len(VOP) > 20 and len(PIPELINES) > 5 and SPACES


@pytest.mark.parametrize("module", VOP)
def test_vop_knows_neither_ray_nor_mlflow_nor_pipelines(module: str) -> None:
    assert not tops(imports_of(module)) & {"ray", "mlflow", "pipelines", "tune_spaces"}


@pytest.mark.parametrize("module", [m for m in FILES if m != "pipelines.tracking"])
def test_only_tracking_imports_mlflow(module: str) -> None:
    assert not [name for name in imports_of(module) if "mlflow" in name.split(".")]
    assert "mlflow" in tops(imports_of("pipelines.tracking"))


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_annotations_and_frames_need_no_torch(module: str) -> None:
    assert not tops(reached(module)) & {"torch", "torchvision", "open_clip", "safetensors"}


@pytest.mark.parametrize("module", SPACES)
def test_a_tune_space_imports_only_the_sampling_functions_and_the_methods(module: str) -> None:
    allowed = ("ray.tune.", "vop.methods.", "__future__.")
    assert not [name for name in imports_of(module) if not f"{name}.".startswith(allowed)]
