"""Zero-shot CLIP: nothing is trained (paper, table 2, first row)."""

from __future__ import annotations

from vop.config import TuningConfig
from vop.model import RetrievalModel

LEARNING_RATE = 0.0


def apply(model: RetrievalModel, config: TuningConfig) -> None:
    """Leave everything frozen."""
