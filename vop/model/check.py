"""Whether the walkers compute what a model's own encoders compute, tried on two inputs as soon as there are weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vop.config import ConfigError, TextPromptConfig, VideoEncoderConfig, VideoPromptConfig
from vop.model.text_encoder import TextEncoder
from vop.model.video_encoder import VideoEncoder
from vop.model.walkers import text_of

MOST = 1e-4  # of the largest number of an embedding; two orders of the same sums differ by 1e-6


@torch.no_grad()
def check_walk(name: str, clip: Any, size: int) -> None:
    """Raise ConfigError where zero prompts change an embedding; clip: on the CPU, in eval mode, not yet frozen.

    Not frozen, so that no weights are packed (`frozen.py`) that may leave for a GPU at once. size: pixels of the input.
    """
    generator = torch.Generator().manual_seed(0)
    pixels_NCHW, tokens_BT = torch.randn(2, 3, size, size, generator=generator), random_tokens(clip, generator)
    with torch.random.fork_rng(devices=[]):
        text = TextEncoder(clip, TextPromptConfig(length=0))
        video = VideoEncoder(clip, VideoPromptConfig(length=0), VideoEncoderConfig(), frames=1)
    towers = {
        "text": (text(clip, tokens_BT)[:, 0], clip.encode_text(tokens_BT)),
        "visual": (video(clip, pixels_NCHW, 1)[:, 0], clip.encode_image(pixels_NCHW)),
    }
    for tower, (walked, own) in towers.items():
        error, largest = float((walked - own).abs().max()), float(own.abs().max())
        if not error <= MOST * largest:  # nor if one is not a number
            raise ConfigError(
                f"backbone.name: the layers of {name}'s {tower} tower compute something that is not known here: without "
                f"prompts its embeddings differ by {error / largest:.0e} from its own (docs/backbones.md lists what is known)"
            )


def random_tokens(clip: Any, generator: torch.Generator) -> Tensor:
    """Two texts [2, T] of random ids, one of which ends early, as the tower's tokenizer would end it."""
    text = text_of(clip)
    context, vocabulary = len(text.positions), text.tower.token_embedding.num_embeddings
    eos = text.eos if text.pool == "eos" else vocabulary - 1
    tokens_BT = torch.randint(1, vocabulary, (2, context), generator=generator)
    tokens_BT[tokens_BT == eos] = 2 if eos == 1 else 1
    for row, end in enumerate((context // 3, context - 1)):
        tokens_BT[row, end] = eos
        tokens_BT[row, end + 1 :] = 0
    return tokens_BT
