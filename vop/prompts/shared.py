"""Basic VoP: the same prompts for all frames (paper, section 3.2)."""

from __future__ import annotations

from vop.config import VideoPromptConfig
from vop.prompts import VideoPrompts


class Prompts(VideoPrompts):
    """P shared prompts a layer."""

    def __init__(self, config: VideoPromptConfig, layers: int, frames: int, width: int):
        super().__init__(layers, config.length, width)
