"""Zero-shot CLIP (Radford et al., ICML 2021): 0 parameters are trained. Default learning rate 0.0: there are no steps."""

from __future__ import annotations

from vop.config import TuningConfig
from vop.model import RetrievalModel

LEARNING_RATE = 0.0


def apply(model: RetrievalModel, config: TuningConfig) -> None:
    """Leave everything frozen."""
