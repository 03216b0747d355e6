"""`make chaos`: faults, tried by hand as often as one likes: `python -m tests.chaos --seed 0 --runs 3 --kills 30`.

KINDS is a plain list of functions. Each is given a generator, which decides where and when, and an empty folder; it does the
harm and asserts what must hold after it: above all that the next run gives the same numbers. It raises Skipped where this
machine cannot do the harm. More kinds: a module beside this one with a list KINDS, named in MODULES.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from random import Random

from pipelines.cluster.connect import connected
from tests.chaos.kind import Kind, Skipped

logger = logging.getLogger("tests.chaos")
MODULES = ("stores", "runs", "commands", "nodes")


def kinds(only: str = "") -> list[Kind]:
    """All kinds whose name holds `only`."""
    found = [kind for name in MODULES for kind in importlib.import_module(f"tests.chaos.{name}").KINDS]
    return [(name, do) for name, do in found if only in name]


def tried(name: str, do: Callable[[Random, Path], None], seed: int, runs: int) -> tuple[int, int, str]:
    """How often a kind was tried, how often it held, and why not."""
    held, why = 0, ""
    for run in range(runs):
        with tempfile.TemporaryDirectory(prefix="vop-chaos-") as folder:
            try:
                do(Random(f"{seed} {run} {name}"), Path(folder))
                held += 1
                logger.info("%s: run %d of %d held", name, run + 1, runs)
            except Skipped as reason:
                return 0, 0, f"skipped: {reason}"
            except Exception:
                why = f"run {run}: {traceback.format_exc().strip().splitlines()[-1]}"
                traceback.print_exc()
    return runs, held, why


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Faults: tried, held.")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    parser.add_argument("--runs", type=int, default=1, help="of each kind")
    parser.add_argument("--kills", type=int, default=1, help="runs of each kind in which something is killed")
    parser.add_argument("--only", default="", help="kinds whose name holds this")
    given = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)
    print(f"seed {given.seed}, runs {given.runs}, kills {given.kills}", flush=True)
    logging.getLogger("pipelines").setLevel(logging.CRITICAL)
    chosen = kinds(given.only)
    width, good = max(len(name) for name, _ in chosen), True
    print(f"{'kind':{width}}  tried  held", flush=True)
    # for commands that run in this process
    with connected() if any(name.startswith("a training") for name, _ in chosen) else nullcontext():
        for name, do in chosen:
            times, held, why = tried(name, do, given.seed, given.kills if "killed" in name else given.runs)
            good &= times == held
            print(f"{name:{width}}  {times:5}  {held:4}  {why}".rstrip(), flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
