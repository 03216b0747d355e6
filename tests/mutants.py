"""Small faults put into `vop/`, one at a time, in a copy: do the tests find them? `make mutants COUNT=60 SEED=1`.

A mutant is one changed operator, comparison, number or truth value in a function. The tests that mirror its room are run
until one fails (killed), all pass (survived), or they take far longer than without it (it hangs: killed, too). Some survivors
change nothing that can be observed; each is printed as a diff, to be judged.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult},
    **{ast.MatMult: ast.Mult, ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr},
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And},
}
# Rooms whose tests stand in another room's folder; what has none at all meets every test without Ray.
TESTED_IN = {"prompts": "model", "tuning": "model", "__init__.py": "test_api.py", "retriever.py": "test_api.py"}
SKIPPED = ("annotation", "returns", "decorator_list")
NOT_RUN = {"backbones", "testing"}  # a script that trains; tests
HEAVY = ("av", "numpy", "open_clip", "pyarrow.parquet", "torchvision", "typer")  # imported once, then forked


class Mutant(NamedTuple):
    """`text` stands in the place of bytes start..end of a file of `vop/`."""

    file: str
    start: int
    end: int
    text: str

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.text.encode() + source[self.end :]


def mutated(node: ast.AST) -> ast.AST | None:
    """A copy of an expression with one thing changed; None where there is nothing to change."""
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        return ast.Constant(not node.value if isinstance(node.value, bool) else node.value + 1)
    if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in OPERATORS:
        return type(node)(**{**vars(node), "op": OPERATORS[type(node.op)]()})
    if isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
        return ast.Compare(node.left, [OPERATORS[type(node.ops[0])](), *node.ops[1:]], node.comparators)
    return node.operand if isinstance(node, ast.UnaryOp) else None


def expressions(node: ast.AST) -> Iterator[ast.expr]:
    """All below a node but annotations, and what only words a message."""
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if name in SKIPPED or not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr | ast.Raise):
                continue
            if isinstance(child, ast.expr):
                yield child
            yield from expressions(child)


def mutants_of(path: Path) -> list[Mutant]:
    source = path.read_bytes()
    tree, starts = ast.parse(source), [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for node in {expression for function in functions for expression in expressions(function)}:
        if (changed := mutated(node)) is not None and node.end_lineno and node.end_col_offset:
            start, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
            text = ast.unparse(changed) if isinstance(node, ast.Constant) else f"({ast.unparse(changed)})"
            found.append(Mutant(str(path.relative_to(ROOT)), start, end, text))
    return sorted(found)


def tests_of(file: str) -> str:
    room = Path(file).parts[1]
    places = (f"tests/{TESTED_IN.get(room, room)}", f"tests/test_{room}", "tests")
    return next(place for place in places if (ROOT / place).exists())


def run_tests(folder: Path, tests: str) -> None:
    """In a fork: the copy's own packages, no output."""
    os.chdir(folder)
    os.environ["PYTHONPATH"] = str(folder)
    sys.path[:] = [str(folder), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT)]
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "vop", "pipelines")]:
        del sys.modules[name]
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    os._exit(pytest.main(["-x", "-q", "-m", "not ray", "-p", "no:cacheprovider", tests]))


def passes(folder: Path, tests: str, seconds: float) -> bool:
    process = multiprocessing.get_context("fork").Process(target=run_tests, args=(folder, tests))
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("files", nargs="*", type=Path, help="of vop/; all of them if none is named")
    options = parser.parse_args()
    files = [path.resolve() for path in options.files] or sorted((ROOT / "vop").rglob("*.py"))
    every = [m for path in files if path.relative_to(ROOT).parts[1] not in NOT_RUN for m in mutants_of(path)]
    sample = random.Random(options.seed).sample(every, min(options.count, len(every)))
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in HEAVY:
        __import__(name)
    limits: dict[str, float] = {}
    survived = 0
    with tempfile.TemporaryDirectory(prefix="vop-mutants-") as scratch:
        folder = Path(scratch) / "copy"
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".*", "__pycache__", "runs"))
        for number, mutant in enumerate(sample, start=1):
            tests, source = tests_of(mutant.file), (ROOT / mutant.file).read_bytes()
            if tests not in limits:
                started = time.monotonic()
                if not passes(folder, tests, 3600):
                    sys.exit(f"{tests} does not pass as it is")
                limits[tests] = 30 + 3 * (time.monotonic() - started)
            (folder / mutant.file).write_bytes(mutant.apply(source))
            alive = passes(folder, tests, limits[tests])
            (folder / mutant.file).write_bytes(source)
            survived += alive
            before, after = (text.decode().splitlines() for text in (source, mutant.apply(source)))
            changed = [line for line in difflib.unified_diff(before, after, lineterm="", n=0)][2:]
            print(f"{number}/{len(sample)} {'SURVIVED' if alive else 'killed'} {mutant.file}", *changed, sep="\n  ", flush=True)
    print(f"{len(sample) - survived} of {len(sample)} mutants killed, {len(every)} there are; seed {options.seed}")


if __name__ == "__main__":
    main()
