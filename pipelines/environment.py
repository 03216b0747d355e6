"""What a number depends on beside its experiment: the source, the machine, the libraries."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

LIBRARIES = ("ray", "torch", "open_clip_torch", "decord2", "av", "mlflow", "pyarrow")
ABSENT = "absent"
ROOT = Path(__file__).resolve().parents[1]
OURS = ("vop/*.py", "pipelines/*.py", "tune_spaces/*.py")  # git's `*` crosses folders


def environment() -> dict[str, str]:
    """What a number depends on beside the experiment: commit, hardware, library versions."""
    return {
        "commit": commit(),
        "cpu": f"{os.cpu_count()} x {_cpu_name()}",
        "python": platform.python_version(),
        **{f"version.{name}": library_version(name) for name in LIBRARIES},
    }


def library_version(name: str) -> str:
    """The version of an installed distribution, or "absent": not every library has a wheel for every machine."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ABSENT


def version() -> str:
    """The version of this project, as it was installed."""
    return library_version("vop")


def commit() -> str:
    """What the source is: in a clone its commit, with `-dirty` if it has changed since; else VOP_COMMIT, or the version.

    A repository around the environment that this project is installed in is not asked. A file of ours that git does not know
    counts as a change: it may be a kind that the run uses.
    """
    try:
        if (
            _git("ls-files", "--full-name", "--", str(Path(__file__).resolve()))
            == f"{Path(__file__).parent.name}/environment.py"
        ):
            described = _git("describe", "--always", "--dirty", "--abbrev=10", "--exclude=*")
            unknown = _git("ls-files", "--others", "--", *OURS)
            return f"{described}-dirty" if unknown and not described.endswith("-dirty") else described
    except (OSError, subprocess.CalledProcessError):
        pass
    return os.environ.get("VOP_COMMIT") or ("unknown" if (ROOT / ".git").exists() else version())


def _git(*words: str) -> str:
    """What git says of this project's folder, whatever repository a hook that called us has set."""
    kept = {name: value for name, value in os.environ.items() if name not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")}
    done = subprocess.run(["git", *words], cwd=ROOT, env=kept, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
