"""Frames decoded by decord (the package decord2), for those who name it: bilinear where PyAV is bicubic."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import Any

from vop.video.decode import Images, Read, Square, central_square, shrunk
from vop.video.files import FrameError
from vop.video.sampling import Indices
from vop.video.scan import Scan

log = logging.getLogger(__name__)
NOT_THERE: Any = object()


def load_decord() -> Any:
    """The module decord, or None where it does not load."""
    try:
        decord = _import()
    except (ImportError, OSError):
        return None
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def _import() -> Any:
    """decord2 loads all libraries of NVIDIA's packages for all to see; libnvblas among them ends torch on the CPU. Hide them.

    Its wheel on PyPI decodes on the CPU and needs none of them.
    """
    before = sys.modules.get("nvidia", NOT_THERE)
    sys.modules["nvidia"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("decord")
    finally:
        del sys.modules["nvidia"]
        if before is not NOT_THERE:
            sys.modules["nvidia"] = before


def version_of_decord() -> str:
    """Its version. Raises ImportError or OSError where it does not load."""
    return str(_import().__version__)


def with_decord(scan: Scan, indices: Indices, square: Square) -> Read:
    """One batch, resized in the decoder, in one thread; a warning is logged where decord may return wrong frames."""
    decord, seen = load_decord(), scan.probe
    if decord is None:
        raise FrameError(scan.path, "no-decoder", "decord does not load")
    if scan.decord_risk:
        log.warning("%s: decord may return wrong frames of it (%s); decoder auto does not", scan.path, scan.decord_risk)
    width, height = shrunk(scan.path, seen.width, seen.height, square)
    try:
        with open(scan.path, "rb") as file:
            # a name that is not UTF-8 cannot be handed over
            path = os.path.abspath(scan.path) if scan.path.isprintable() else f"/dev/fd/{file.fileno()}"
            # fault_tol=0: an error rather than a neighbour in place of a frame that fails
            reader = decord.VideoReader(path, width=width, height=height, num_threads=1, fault_tol=0)
        if len(reader) != seen.frames:
            raise RuntimeError(f"it counts {len(reader)} frames, {seen.frames} are shown")
        images: Images = reader.get_batch(indices).asnumpy()
    except Exception as error:  # decord raises whatever its C++ core or its assertions throw
        raise FrameError(scan.path, "decode", f"decord cannot read it: {error}") from error
    return Read(scan, central_square(images, square.size), 0)
