"""Writes the generated parts of README.md and docs/: what the program knows, and the tables and figures of docs/results/.

python docs/generate.py            writes them
python docs/generate.py --check    exit code 1 if one of them is not as it would be written

A part stands between `<!-- part: NAME -->` and `<!-- end -->`; NAME is a key of PARTS.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.update(COLUMNS="80", NO_COLOR="1")  # before rich looks

import measured
import reference

from vop.paper.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PART = re.compile(r"<!-- part: ([\w-]+) -->\n.*?<!-- end -->", re.DOTALL)

# files of docs/results/speed
SPEEDS = [
    "model",
    "model-intel",
    "demo",
    "gpu",
    "data",
    "scale",
    "verify",
    "stream",
    "remote",
    "scores",
    "heads",
    "index",
    "clips",
    "moments",
    "sweep",
    "start",
    "serve",
]
PARTS: dict[str, Callable[[], str]] = {
    "methods": reference.methods,
    "costs": reference.costs,
    "benchmarks": reference.benchmarks,
    "backbones": reference.backbones,
    "refused-backbones": reference.refused_backbones,
    "recipes": reference.recipe_list,
    "prompts": lambda: reference.table(["`video_prompt.name`", ""], reference.files(ROOT / "vop/prompts")),
    "tuning": lambda: reference.table(["`tuning.name`", ""], reference.files(ROOT / "vop/tuning")),
    "heads": lambda: reference.table(["`head.name`", ""], reference.files(ROOT / "vop/heads")),
    "spaces": lambda: reference.table(["space", "what it varies"], reference.files(ROOT / "tune_spaces")),
    "configuration": reference.configuration,
    "commands": reference.commands,
    "demo": measured.demo,
    "results-short": lambda: measured.results(measured.SHORT),
    "results": lambda: measured.results(METHODS),
    "libraries": measured.libraries,
    "costs-on-toy": measured.costs,
    "ablations": measured.ablations,
    "learning-rates": measured.learning_rates,
    "provenance": measured.provenance,
    "speed-short": measured.speed_short,
    **{f"speed-{name}": (lambda name=name: measured.speed(name)) for name in SPEEDS},
}


def written(text: str) -> str:
    """A page with its parts as they should be."""
    return PART.sub(lambda m: f"<!-- part: {m[1]} -->\n{PARTS[m[1]]()}\n<!-- end -->", text)


def main(check: bool) -> int:
    """Exit code 1 if a part or a figure was not as it should be and `check` is set."""
    stale = []
    for file, text in measured.figures().items():
        # how a figure is drawn depends on matplotlib's version; what it shows, on the results alone
        if not file.is_file() or f'data-results="{measured.digest()}"' not in file.read_text(encoding="utf-8"):
            stale.append(file)
            if not check:
                file.parent.mkdir(exist_ok=True)
                file.write_text(text + "\n", encoding="utf-8")
    for page in PAGES:
        old = page.read_text(encoding="utf-8")
        if (new := written(old)) != old:
            stale.append(page)
            if not check:
                page.write_text(new, encoding="utf-8")
    for file in stale:
        print(f"{'not up to date, run make docs' if check else 'written'}: {file.relative_to(ROOT)}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
