"""Walkers: the frozen blocks of a tower, gone through one by one with prompts. One file a family of towers.

A file has a class `Walker`, whose `towers` are the classes that it walks: these exactly, for a subclass may compute something
else. A walker holds nothing but its tower, so one is made wherever it is needed. Whether it computes what the tower itself
computes is checked as soon as there are weights (`vop/model/check.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import open_clip
from torch import Tensor, nn

from vop.config import ConfigError
from vop.model.block import Layer, run_layer
from vop.model.part import Context, parts_of

CLIPS = (open_clip.CLIP, open_clip.CustomTextCLIP)


class VisualWalker:
    """tower: what holds the blocks; holder: the CLIP's `visual`, of timm's towers open_clip's wrapper around it."""

    towers: tuple[type, ...] = ()

    def __init__(self, holder: nn.Module) -> None:
        self.holder: Any = holder
        self.tower: Any = getattr(holder, "trunk", holder)

    @property
    def blocks(self) -> Sequence[Any]:
        """The layers, from the input on."""
        raise NotImplementedError

    @property
    def width(self) -> int:
        """D, of the tokens."""
        raise NotImplementedError

    @property
    def class_token(self) -> bool:
        """Whether the first token of a frame stands for the frame."""
        return True

    @property
    def rotary(self) -> bool:
        """Whether attention turns patches by their positions, so that they must stay where they are."""
        return False

    def lacks(self, name: str) -> str:
        """Why what needs class tokens that are read, and patches that may move, cannot be had; name: the CLIP's."""
        lacking = "turns its patches by their positions" if self.rotary else "reads no class tokens"
        return f"the visual tower of {name} {lacking}"

    @property
    def tokens(self) -> int:
        """L: the tokens of a frame, patches and class token."""
        raise NotImplementedError

    @property
    def stem(self) -> Iterable[nn.Module | Tensor | None]:
        """What lies below the first layer."""
        raise NotImplementedError

    @property
    def projection(self) -> nn.Module | Tensor | None:
        """What maps the pooled token into the joint space; None where nothing does."""
        raise NotImplementedError

    def embed(self, pixels_NCHW: Tensor) -> Tensor:
        """Normalized pixels -> the tokens of each frame with their positions, before `enter`: [N, L, D]."""
        raise NotImplementedError

    def enter(self, tokens: Tensor) -> Tensor:
        """What the tower does to tokens and prompts before the first layer, mostly a layer norm; any shape [..., D]."""
        raise NotImplementedError

    def layer(self, block: Any, length: int) -> Layer:
        """What a block computes on sequences of so many tokens, of one or several frames in a row."""
        raise NotImplementedError

    def step(
        self,
        block: Any,
        tokens_BLD: Tensor,
        prompts_GPD: Tensor | None,
        mask: Tensor | None,
        rows: slice,
        context: Context,
    ) -> tuple[Tensor, Context]:
        """A block with its parts on sequences of one or several frames, as `vop.model.block.step_block` is on open_clip's."""
        layer = self.layer(block, tokens_BLD.shape[1])
        return run_layer(layer, parts_of(block), tokens_BLD, prompts_GPD, mask, rows, context)

    def run(self, block: Any, tokens_BLD: Tensor, prompts_GPD: Tensor | None = None, rows: slice = slice(None)) -> Tensor:
        """A block that stands alone: [B, R, D]."""
        return self.step(block, tokens_BLD, prompts_GPD, None, rows, Context("visual"))[0]

    @property
    def reads_class_token(self) -> bool:
        """Whether `pool` reads each frame's class token alone, so that the last layer computes nothing else."""
        raise NotImplementedError

    def pool(self, tokens_NRD: Tensor) -> Tensor:
        """The tokens that leave the last layer, or each frame's class token alone (R = 1) -> embeddings [N, E]."""
        raise NotImplementedError

    def activation(self, block: Any) -> nn.Module:
        """Of a block's feed-forward network."""
        raise NotImplementedError

    def attention_weights(self, block: Any) -> list[tuple[nn.Module, str, str]]:
        """(module, name of its weight, which rows it has: "qkv", "q", "k" or "v") of a block's attention."""
        raise NotImplementedError

    def attention_biases(self, block: Any) -> list[tuple[nn.Module, str, str]]:
        """The same of its biases, those that it has."""
        raise NotImplementedError

    def refusal(self) -> str:
        """Why the tower cannot be walked; "" if it can."""
        return ""


@cache
def walkers() -> dict[type, type[Any]]:
    """The walkers of this package's files by the class of the tower."""
    stems = sorted(file.stem for file in Path(__file__).parent.glob("*.py") if not file.stem.startswith("_"))
    found = [import_module(f"{__name__}.{stem}").Walker for stem in stems]
    return {tower: walker for walker in found for tower in walker.towers}


def visual_of(clip: Any) -> VisualWalker:
    """The walker of a CLIP's visual tower. Raises ConfigError where there is none."""
    tower = getattr(clip.visual, "trunk", clip.visual)
    found: VisualWalker = _walker(tower, "visual")(clip.visual)
    return found


def text_of(clip: Any) -> Any:
    """The walker of a CLIP's text tower, `vop.model.walkers.text.Walker`. Raises ConfigError where there is none."""
    tower = getattr(clip, "text", clip)
    return _walker(tower, "text")(tower)


def _walker(tower: Any, which: str) -> Any:
    if type(tower) not in walkers():
        raise ConfigError(f"its {which} tower is {type(tower).__name__}, whose layers prompts cannot enter")
    return walkers()[type(tower)]


def embedding_width(clip: Any) -> int:
    """E, of the joint space of texts and frames."""
    tower = getattr(clip, "text", clip)
    projection = tower.text_projection
    if isinstance(projection, nn.Linear):
        return projection.out_features
    return int((tower.positional_embedding if projection is None else projection).shape[1])


def refusal(clip: nn.Module) -> str:
    """Why a CLIP, which may be on the meta device, cannot be walked, as half a sentence; "" if its structure is walked."""
    if type(clip) not in CLIPS:
        return f"it is {type(clip).__name__}, not a text tower beside a visual one"
    try:
        return text_of(clip).refusal() or visual_of(clip).refusal()
    except ConfigError as error:
        return str(error)


def is_openai_like(clip: Any) -> bool:
    """Whether weights, activation, heads and sizes say all of a CLIP: it is built like OpenAI's."""
    text, visual = text_of(clip), visual_of(clip)
    plain = not other_than((clip, clip.visual), (open_clip.CLIP, open_clip.transformer.VisionTransformer))
    blocks = other_than((*text.blocks, *visual.blocks), (open_clip.transformer.ResidualAttentionBlock,))
    return plain and not blocks and visual.reads_class_token and text.causal and text.pool == "argmax"


def other_than(parts: Iterable[Any], known: tuple[type, ...]) -> str:
    """The class of the first part that is exactly none of the known ones; "" if there is none."""
    return next((type(part).__name__ for part in parts if type(part) not in known), "")
