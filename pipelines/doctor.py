"""What works on this machine: each part that training needs or can use, its version, and why it does not load."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich import box
from rich.markup import escape
from rich.table import Table

from vop.config import Experiment

NEEDED = {  # a distribution: the module that shows whether it loads
    "torch": "torch",
    "open_clip_torch": "open_clip",
    "ray": "ray.train",
    "mlflow": "pipelines.tracking",
}
ROOM_GIB = 1  # the frames of about 600 videos, 12 of 224 x 224 each


@dataclass(frozen=True)
class Check:
    """A part: whether it works, its version or what is wrong, and whether training needs it."""

    name: str
    works: bool
    found: str
    needed: bool = False


def checks(experiment: Experiment) -> list[Check]:
    """All checks for an experiment, in the order of the table."""
    return [
        Check("python", True, f"{platform.python_version()}, {os.cpu_count()} CPUs"),
        *_decoders(),
        *(_library(name, module) for name, module in NEEDED.items()),
        _cuda(),
        _ffmpeg(),
        _disk(experiment.data.cache),
    ]


def table(found: list[Check]) -> Table:
    """One row a check."""
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for head in ("part", "works", "needed", "version, or why not"):
        shown.add_column(head, overflow="fold")
    for check in found:
        works = "[green]yes[/green]" if check.works else "[red]no[/red]" if check.needed else "no"
        shown.add_row(check.name, works, "yes" if check.needed else "", escape(check.found))
    return shown


def _decoders() -> list[Check]:
    """PyAV reads every file and is needed; the others are faster on some."""
    try:
        from vop.frames import decoder_versions
    except (ImportError, OSError) as error:
        return [Check("decoder pyav", False, f"does not load: {error}", needed=True)]
    return [
        Check(f"decoder {name}", not text.startswith("does not load"), text, needed=name == "pyav")
        for name, text in decoder_versions().items()
    ]


def _library(name: str, module: str) -> Check:
    try:
        importlib.import_module(module)
        return Check(name, True, version(name), needed=True)
    except (ImportError, OSError, PackageNotFoundError) as error:
        return Check(name, False, f"does not load: {error}", needed=True)


def _cuda() -> Check:
    try:
        import torch
    except (ImportError, OSError):
        return Check("cuda", False, "torch does not load")
    if not torch.cuda.is_available():
        return Check("cuda", False, f"no device (torch is built for CUDA {torch.version.cuda or 'none'}); the CPU is used")
    devices = [torch.cuda.get_device_properties(place) for place in range(torch.cuda.device_count())]
    return Check("cuda", True, ", ".join(f"{device.name} {device.total_memory / 2**30:.0f} GiB" for device in devices))


def _ffmpeg() -> Check:
    program = shutil.which("ffmpeg")
    if not program:
        return Check("ffmpeg program", False, "not on the PATH; only tests use it")
    lines = subprocess.run([program, "-version"], capture_output=True, text=True).stdout.splitlines()
    return Check("ffmpeg program", bool(lines), f"{lines[0] if lines else 'does not run'}; only tests use it")


def _disk(cache: str) -> Check:
    """Room where the frame store goes; its folder need not be there yet."""
    if "://" in cache:
        return Check("data.cache", True, f"{cache}: not on this machine's disks", needed=True)
    place = Path(cache).expanduser().resolve()
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Check("data.cache", False, f"{there} is not a folder that can be written to", needed=True)
    free = shutil.disk_usage(there).free / 2**30
    works = free >= ROOM_GIB
    return Check("data.cache", works, f"{free:.1f} GiB free at {there}" + ("" if works else f"; need {ROOM_GIB}"), needed=True)
