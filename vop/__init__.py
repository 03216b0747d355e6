"""VoP from Python: the few names that `docs/python.md` shows. Each is imported on first use: `import vop` costs nothing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vop.config import load_experiment
    from vop.errors import VopError
    from vop.index.search import Index
    from vop.model.adapter import load_adapter
    from vop.retriever import Retriever
    from vop.scores.ranks import retrieval_metrics
    from vop.video.frames import read_frames

    __version__: str

__all__ = [
    "Index",
    "Retriever",
    "VopError",
    "__version__",
    "load_adapter",
    "load_experiment",
    "read_frames",
    "retrieval_metrics",
]

MODULES = {
    "Index": "vop.index.search",
    "Retriever": "vop.retriever",
    "VopError": "vop.errors",
    "load_adapter": "vop.model.adapter",
    "load_experiment": "vop.config",
    "read_frames": "vop.video.frames",
    "retrieval_metrics": "vop.scores.ranks",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _installed_version()
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def _installed_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("vop")
    except PackageNotFoundError:  # a copy of the source, such as the one that a cluster's job gets
        return "0+unknown"
