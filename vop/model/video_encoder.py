"""CLIP's visual tower with prompts in its layers; the split layer of VoP^F lives here."""

from __future__ import annotations

import open_clip
import torch
from torch import Tensor, nn

from vop.config import ConfigError, VideoEncoderConfig, VideoPromptConfig, kind, layers_of
from vop.model.block import checkpointed
from vop.model.walkers import VisualWalker, visual_of
from vop.prompts import INIT_STD, VideoPrompts


class VideoEncoder(nn.Module):
    """Holds the video prompts and walks the frozen blocks of a CLIP with them.

    Layers up to the split layer attend inside a frame, with prompts of the chosen kind. Layers above it attend across all
    frames of a video, with generic prompts; a frame embedding tells the frames apart there (paper, section 3.5).
    """

    def __init__(
        self,
        clip: open_clip.CLIP,
        prompt: VideoPromptConfig,
        encoder: VideoEncoderConfig,
        frames: int,
        checkpointing: bool = False,
    ):
        super().__init__()
        visual, self.checkpointing = visual_of(clip), checkpointing
        depth, width = len(visual.blocks), visual.width
        self.split = depth if encoder.split_layer is None else encoder.split_layer
        if self.split > depth:
            raise ConfigError(f"video_encoder.split_layer: {self.split} is above {depth}, the layers of this encoder")
        layers = layers_of(prompt.depth, depth, "video_prompt.depth") if prompt.length else range(0)
        self.below = range(layers.start, min(layers.stop, self.split))
        self.above = range(max(layers.start, self.split), layers.stop)
        self.prompts: VideoPrompts = kind("video_prompt", prompt.name).Prompts(prompt, len(self.below), frames, width)
        if self.prompts.replaces_class_token and not visual.class_token:
            raise ConfigError("video_prompt.role: cls: the frames of this CLIP have no class token that could be replaced")
        self.video_prompts = nn.Parameter(torch.randn(len(self.above), prompt.length, width) * INIT_STD)
        embedded = frames if self.split < depth else 0
        self.frame_embedding = nn.Parameter(torch.randn(embedded, width) * INIT_STD)

    def forward(self, clip: open_clip.CLIP, pixels_NCHW: Tensor, frames: int) -> Tensor:
        """Normalized pixels of N = B * frames frames, a video's in a row -> frame embeddings [B, F, E], not normalized."""
        return self.upper(clip, self.lower(clip, pixels_NCHW, frames, 0), frames, 0)

    def lower(self, clip: open_clip.CLIP, pixels_NCHW: Tensor, frames: int, layer: int) -> Tensor:
        """What enters a layer (from 0; no higher than the split; the depth of the tower: what leaves it): [N, L, D]."""
        visual = visual_of(clip)
        return self._walk(visual, visual.embed(pixels_NCHW), frames, range(layer))

    def upper(self, clip: open_clip.CLIP, tokens_NLD: Tensor, frames: int, layer: int) -> Tensor:
        """Frame embeddings [B, F, E] from what enters a layer."""
        visual = visual_of(clip)
        tokens = self._walk(visual, tokens_NLD, frames, range(layer, len(visual.blocks)))
        read = 1 if visual.reads_class_token else visual.tokens
        out_NE = visual.pool(tokens.reshape(-1, read, tokens.shape[-1]))
        return torch.as_tensor(out_NE.unflatten(0, (-1, frames)))

    def _walk(self, visual: VisualWalker, tokens: Tensor, frames: int, layers: range) -> Tensor:
        """Some layers: one sequence a frame [N, L, D] up to the split, one a video [B, F * L, D] above it."""
        blocks, run = visual.blocks, checkpointed(visual.run) if self.checkpointing else visual.run
        for layer in layers:
            if layer == self.split:
                tokens = (tokens.unflatten(0, (-1, frames)) + self.frame_embedding[:, None]).flatten(1, 2)
            tokens, prompts_GPD = self._enter(visual, layer, tokens, frames)
            if layer == 0:  # the first layer's prompts pass through the norm before it, like the tokens
                tokens = visual.enter(tokens)
                prompts_GPD = None if prompts_GPD is None else visual.enter(prompts_GPD)
            # At the end nothing is computed that is not read.
            only_class = visual.reads_class_token and layer == len(blocks) - 1
            rows = slice(0, None, visual.tokens) if only_class else slice(None)
            tokens = run(blocks[layer], tokens, prompts_GPD, rows=rows)
        return tokens

    def _enter(self, visual: VisualWalker, layer: int, tokens: Tensor, frames: int) -> tuple[Tensor, Tensor | None]:
        """The tokens that enter a layer, and its prompts if it has any."""
        if layer in self.above:
            return tokens, self.video_prompts[layer - self.above.start].unsqueeze(0)
        if layer not in self.below:
            return tokens, None
        index = layer - self.below.start
        cls_ND = tokens[:, 0] if visual.class_token else tokens.mean(1)
        cls_BFD = cls_ND.unflatten(0, (-1, frames))
        new_cls_BFD = self.prompts.replace_cls(index, cls_BFD)
        if new_cls_BFD is not cls_BFD:
            tokens = torch.cat([new_cls_BFD.reshape(-1, 1, tokens.shape[-1]), tokens[:, 1:]], dim=1)
        return tokens, self.prompts(index, cls_BFD)
