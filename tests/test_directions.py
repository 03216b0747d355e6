"""Which room may import which: arrows only run down, also inside functions and under TYPE_CHECKING."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("vop", "pipelines", "tune_spaces")
    for path in sorted((ROOT / package).rglob("*.py"))
}
VOP, PIPELINES, SPACES = ([m for m in FILES if m.partition(".")[0] == p] for p in ("vop", "pipelines", "tune_spaces"))
# A room may import those in lines above its own; rooms that share a line know nothing of each other.
ROOMS = {
    "vop": [
        ("secrets",),
        ("errors",),
        ("messages", "fingerprint"),
        ("places", "config"),
        ("whole", "claim", "video", "annotations"),
        ("toy",),
        ("benchmarks",),
        ("prompts",),
        ("model",),
        ("tuning", "heads"),
        ("scores",),
        ("retriever",),
        ("paper", "backbones", "index", "testing", "export"),
    ],
    "pipelines": [
        ("environment", "locations", "look"),
        ("output",),
        ("cluster", "tracking"),
        ("data",),
        ("score",),
        ("train",),
        ("sweep", "search"),
        ("report", "serve"),
        ("throughput",),
        ("cli",),
        ("__main__",),
    ],
}
WITHOUT_TORCH = [
    *(module for module in VOP if module.startswith("vop.benchmarks")),
    *("vop", "vop.config", "vop.fingerprint", "vop.video.frames", "vop.paper.methods", "vop.toy.scenes", "vop.toy.videos"),
]


def imports(source: str, package: str = "", typing: bool = True) -> set[str]:
    """Dotted names that a source imports anywhere, in functions too; `from a import b` gives a.b.

    typing: whether those count that only a type checker follows.
    """
    found, tree = set[str](), ast.parse(source)
    if not typing:
        tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")]
    for node in ast.walk(tree):
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


def imports_of(module: str, typing: bool = True) -> set[str]:
    path = FILES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return imports(path.read_text(encoding="utf-8"), package, typing)


def reached(module: str) -> set[str]:
    """All that a run imports on the way, through the project's own files and the packages that they lie in."""
    names, queue, seen = set[str](), [module], set[str]()
    while queue:
        here = queue.pop()
        if here in FILES and here not in seen:
            seen.add(here)
            names |= imports_of(here, typing=False)
            for name in (here, *imports_of(here, typing=False)):
                parts = name.split(".")
                queue += [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    return names


def tops(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def test_imports_are_found_wherever_they_stand() -> None:
    source = "import a.b as c\nfrom d import e\ndef f():\n    from g.h import i\n    importlib.import_module('j')\n"
    assert imports(source) == {"a.b", "d.e", "g.h.i", "j"}
    assert imports("if TYPE_CHECKING:\n    import a\nimport b", typing=False) == {"b"}
    assert imports("from . import a\nfrom .b import c\nfrom .. import d", "x.y") == {"x.y.a", "x.y.b.c", "x.d"}
    assert "torch" in tops(reached("vop.model.adapter")) and "torch" in tops(reached("vop.tuning.lora"))
    assert "vop.video.frames" in FILES and len(VOP) > 20 and len(PIPELINES) > 5 and SPACES


def room(name: str) -> tuple[str, str]:
    """Package and room of a module, or of what is imported from it."""
    package, _, rest = name.partition(".")
    return package, rest.partition(".")[0]


@pytest.mark.parametrize("module", [*VOP, *PIPELINES])
def test_arrows_only_run_down(module: str) -> None:
    package, own = room(module)
    level = {name: place for place, names in enumerate(ROOMS[package]) for name in names}
    for name in imports_of(module):
        other, wanted = room(name)
        if other == package and wanted != own and own:
            assert level[wanted] < level[own], f"{module} imports {name}, which is not below it"


def parents(names: set[str]) -> set[str]:
    """Modules, and the packages that they lie in."""
    return {".".join(name.split(".")[:end]) for name in names for end in range(1, name.count(".") + 2)}


def test_every_room_has_its_place() -> None:
    for package, modules in (("vop", VOP), ("pipelines", PIPELINES)):
        known = {name for names in ROOMS[package] for name in names}
        assert {room(module)[1] for module in modules} - {""} <= known


def test_no_module_imports_itself_on_the_way() -> None:
    inside = {
        m: {".".join(n.split(".")[:end]) for n in imports_of(m) for end in range(1, n.count(".") + 2)} & FILES.keys()
        for m in FILES
    }
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"a circle: {' -> '.join((*way, module))}"
        if module not in done:
            for name in sorted(inside[module] - {module}):
                if not module.startswith(f"{name}."):  # a package that it lies in
                    visit(name, (*way, module))
            done.add(module)

    for module in FILES:
        visit(module, ())


@pytest.mark.parametrize("module", VOP)
def test_vop_knows_neither_ray_nor_mlflow_nor_pipelines(module: str) -> None:
    assert not tops(imports_of(module)) & {"ray", "mlflow", "pipelines", "tune_spaces"}


@pytest.mark.parametrize("module", [m for m in FILES if not f"{m}.".startswith("pipelines.tracking.")])
def test_only_tracking_imports_mlflow(module: str) -> None:
    assert not [name for name in imports_of(module) if "mlflow" in name.split(".")]
    assert "mlflow" in tops(imports_of("pipelines.tracking"))


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_annotations_and_frames_need_no_torch(module: str) -> None:
    assert not tops(reached(module)) & {"torch", "torchvision", "open_clip", "safetensors"}


@pytest.mark.parametrize(
    "module", ["pipelines.report", "pipelines.report.results", "pipelines.train.holdings", "pipelines.tracking"]
)
def test_what_reads_runs_needs_no_torch_and_no_ray(module: str) -> None:
    assert not tops(reached(module)) & {"torch", "torchvision", "ray", "safetensors"}


def test_what_drives_a_sweep_loads_no_torch() -> None:
    code = "import sys, pipelines.sweep.run; assert not {'torch', 'open_clip', 'safetensors'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("module", SPACES)
def test_a_tune_space_imports_only_the_sampling_functions_and_the_methods(module: str) -> None:
    allowed = ("ray.tune.", "vop.paper.methods.", "__future__.")
    assert not [name for name in imports_of(module) if not f"{name}.".startswith(allowed)]
