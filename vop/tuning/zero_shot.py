"""Zero-shot CLIP (Radford et al., ICML 2021): 0 parameters are trained. Default learning rate 0.0: there are no steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vop.config import TuningConfig

if TYPE_CHECKING:
    from vop.model.retrieval import RetrievalModel

LEARNING_RATE = 0.0


def apply(model: RetrievalModel, config: TuningConfig) -> None:
    """Leave everything frozen."""
