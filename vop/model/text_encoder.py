"""CLIP's text tower with prompts in its layers."""

from __future__ import annotations

from collections.abc import Callable

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vop.config import ConfigError, TextPromptConfig, layers_of
from vop.model.block import checkpointed, step_block, take
from vop.model.part import Context, parts_of
from vop.model.precision import moved
from vop.model.walkers import text_of
from vop.prompts import TextShape

INIT_STD = 0.02  # as in the authors' release


class TextEncoder(nn.Module):
    """Holds the text prompts and walks the frozen blocks of a CLIP with them.

    The prompts of a layer stand right after the start token. Attention is causal: the start token does not see them, all
    later tokens do. Layer 1's enter before the positional embedding, so the caption moves up by P positions.

    In a tower without a causal mask (SigLIP) every place of the context is taken, by padding too: there all tokens see the
    prompts, which have no position, and a caption is never cut at its end, for that would change its embedding.

    Prompts that a kind of video prompt speaks (`spoken`) are in the same place for attention, but have no positional embedding,
    and the caption keeps its own.

    In the layout of the authors' release (`suffix` > 0) the last `suffix` prompts stand before the context's last place
    instead, and what is read is `suffix` places after the end token: padding, or for a long caption a suffix prompt.
    """

    def __init__(self, clip: open_clip.CLIP, config: TextPromptConfig, checkpointing: bool = False, spoken: bool = False):
        super().__init__()
        text = text_of(clip)
        self.step = checkpointed(step_block) if checkpointing else step_block
        self.causal = text.causal
        if config.suffix and spoken:
            raise ConfigError(f"text_prompt.suffix: {config.suffix}: these prompts are made by video_prompt, and stand first")
        if config.suffix and not self.causal:
            raise ConfigError(f"text_prompt.suffix: {config.suffix}: this CLIP's texts have no order for prompts to be last in")
        layers = layers_of(config.depth, len(text.blocks), "text_prompt.depth")
        self.layers = layers if config.length else range(0)
        self.length, self.suffix = config.length, config.suffix
        self.spoken = spoken
        self.shape = TextShape(len(self.layers), self.length if self.layers else 0, text.width)
        self.prompts = nn.Parameter(torch.randn(0 if spoken else len(self.layers), config.length, text.width) * INIT_STD)

    @property
    def shift(self) -> int:
        """How many places layer 1's prompts take: what the caption loses of the context length."""
        return self.length if 0 in self.layers and self.causal and not self.spoken else 0

    def forward(
        self,
        clip: open_clip.CLIP,
        tokens_BT: Tensor,
        places: bool = False,
        prompts_of: Callable[[int], Tensor] | None = None,
        frames_BF: Tensor | None = None,
    ) -> Tensor:
        """Token ids, padding after the end token -> text embeddings [B, 1, E], not normalized.

        Ids on the host need not wait for a GPU to say how long the longest caption is.
        places: of all places up to the longest caption's end token instead, [B, T, E]; needs `suffix` 0.
        prompts_of: what makes the prompts [1, P, D] of the n-th prompted layer, for `spoken` ones.
        frames_BF: the texts are captions of the frames of B videos, in a row; False where a frame is padding.
        """
        prompts_of = (lambda index: self.prompts[index].unsqueeze(0)) if prompts_of is None else prompts_of
        text = text_of(clip)
        position_TD, blocks, end_B = text.positions, text.blocks, text.end(tokens_BT)
        # Where attention is causal, what stands after the last place that is read changes nothing. A graph has one length.
        short = self.causal and not torch.compiler.is_exporting()
        T = int(end_B.max()) + 1 if short else tokens_BT.shape[1]
        T = min(T + self.suffix, len(position_TD) - self.length) if self.suffix else T
        tokens_BT = F.pad(tokens_BT, (0, T - tokens_BT.shape[1]))  # a negative pad cuts
        tokens_BT, end_B = (moved(x, position_TD.device) for x in (tokens_BT, end_B))
        place_T, place_P = self._places(T, len(position_TD), tokens_BT.device)
        place_S = torch.cat([place_P, place_T])  # of all keys: [prompts | caption]
        sees_TS = (place_T[:, None] >= place_S) | (not self.causal)
        read_B = end_B + self.length  # the place that is read

        hidden_BTD = text.embed(tokens_BT) + position_TD[place_T if self.shift else slice(T)]
        context = Context("text", tokens=T)
        if frames_BF is not None:
            context = Context("text", frames_BF.shape[1], T, mask_BF=frames_BF, ends_B=end_B)
        # A part that needs every row has them in the last layer too; what is read is taken out of them.
        places_too = places or any(part.every_row for part in parts_of(blocks[-1]))
        for layer, block in enumerate(blocks):
            context = context.at(layer)
            prompts_1PD, first = None, self.length  # a layer without prompts has no keys of theirs
            if layer in self.layers:
                prompts_1PD, first = prompts_of(layer - self.layers.start), 0
                if layer == 0 and self.causal and not self.spoken:
                    prompts_1PD = prompts_1PD + position_TD[place_P]
            if layer < len(blocks) - 1 or places_too:
                hidden_BTD, context = self.step(block, hidden_BTD, prompts_1PD, sees_TS[:, first:], slice(None), context)
                continue
            rows_B = end_B  # at the end only what is read is computed
            if self.suffix and prompts_1PD is not None:  # it may be a prompt
                hidden_BTD = torch.cat([prompts_1PD.expand(hidden_BTD.shape[0], -1, -1), hidden_BTD], dim=1)
                prompts_1PD, rows_B = None, (place_S == read_B[:, None]).int().argmax(dim=1)
            mask_B11S = ((read_B[:, None] >= place_S[first:]) | (not self.causal))[:, None, None]
            hidden_BTD, _ = self.step(block, hidden_BTD, prompts_1PD, mask_B11S, rows_B, context)
        if places_too and not places:
            hidden_BTD = take(hidden_BTD, end_B)
        out_BTE: Tensor = text.project(hidden_BTD)
        return out_BTE

    def _places(self, T: int, context: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Where the caption's tokens [T] and the prompts [P] stand in the sequence of both."""
        prefix, row_T = self.length - self.suffix, torch.arange(T, device=device)
        # The release keeps the last token behind the suffix, in the context's last place.
        place_T = row_T + prefix * (row_T > 0) + self.suffix * (row_T == context - self.length - 1)
        place_P = torch.arange(1, 1 + prefix, device=device)
        if self.suffix:
            place_P = torch.cat([place_P, torch.arange(context - 1 - self.suffix, context - 1, device=device)])
        return place_T, place_P
