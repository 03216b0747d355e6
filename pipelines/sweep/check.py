"""What of a sweep can be known to be wrong before torch, Ray and MLflow are imported."""

from __future__ import annotations

from pathlib import Path

from vop.config import ConfigError

FOLDER = Path(__file__).resolve().parents[2] / "tune_spaces"
SAMPLERS = ("grid", "random", "tpe")


def check_words(space: str, sampler: str) -> None:
    """Raise ConfigError for a space that has no file, several with commas, and for an unknown sampler."""
    for name in space.split(","):
        space_file(name)
    if sampler not in SAMPLERS:
        raise ConfigError(f"--sampler: there is no {sampler!r}; valid: {', '.join(SAMPLERS)}")


def space_file(name: str) -> Path:
    """`tune_spaces/<name>.py`, or the .py file that a name is. Raises ConfigError where there is none."""
    name = name.strip()
    path = Path(name) if name.endswith(".py") else FOLDER / f"{name}.py"
    if not path.is_file():
        valid = sorted(file.stem for file in FOLDER.glob("*.py") if not file.stem.startswith("_"))
        raise ConfigError(f"--space: there is no {name!r}; valid: a .py file, or one of {', '.join(valid)}")
    return path
