"""CLIP's visual tower with prompts in its layers; the split layer of VoP^F lives here."""

from __future__ import annotations

from functools import partial

import open_clip
import torch
from torch import Tensor, nn

from vop.config import ConfigError, VideoEncoderConfig, VideoPromptConfig, kind, layers_of
from vop.model.block import Step, checkpointed, joined_prompts
from vop.model.part import Context, parts_of
from vop.model.walkers import VisualWalker, visual_of
from vop.prompts import INIT_STD, TextShape, VideoPrompts


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
        text: TextShape | None = None,
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
        spoken = {} if text is None else {"text": text}
        self.prompts: VideoPrompts = kind("video_prompt", prompt.name).Prompts(prompt, len(self.below), frames, width, **spoken)
        if self.prompts.carried is not None and self.split < depth:
            raise ConfigError("video_encoder.split_layer: prompts that are carried attend over all frames without it")
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
        return self._walk(visual, visual.embed(pixels_NCHW), range(layer), self._context(visual, frames))[0]

    def upper(self, clip: open_clip.CLIP, tokens_NLD: Tensor, frames: int, layer: int, mask_BF: Tensor | None = None) -> Tensor:
        """Frame embeddings [B, F, E] from what enters a layer. mask: False where a frame is padding, for parts of blocks."""
        visual = visual_of(clip)
        context = self._context(visual, frames, mask_BF)
        tokens, carried_BGD = self._walk(visual, tokens_NLD, range(layer, len(visual.blocks)), context)
        if carried_BGD is not None:  # the first is the video, and so each of its frames
            return torch.as_tensor(visual.pool(carried_BGD[:, :1]).unsqueeze(1).expand(-1, frames, -1))
        read = 1 if visual.reads_class_token else visual.tokens
        out_NE = visual.pool(tokens.reshape(-1, read, tokens.shape[-1]))
        return torch.as_tensor(out_NE.unflatten(0, (-1, frames)))

    def _context(self, visual: VisualWalker, frames: int, mask_BF: Tensor | None = None) -> Context:
        return Context("visual", frames, visual.tokens, visual.class_token, mask_BF)

    def _walk(self, visual: VisualWalker, tokens: Tensor, layers: range, context: Context) -> tuple[Tensor, Tensor | None]:
        """Some layers: one sequence a frame [N, L, D] up to the split, one a video [B, F * L, D] above it.

        Beside the tokens it gives the prompts that are carried [B, G, D].
        """
        carried_BGD: Tensor | None = None
        blocks, step = visual.blocks, checkpointed(visual.step) if self.checkpointing else visual.step
        for layer in layers:
            context = context.at(layer)
            if layer == self.split:
                tokens = (tokens.unflatten(0, (-1, context.frames)) + self.frame_embedding[:, None]).flatten(1, 2)
            tokens, prompts_GPD = self._enter(visual, tokens, context)
            if layer == 0:  # the first layer's prompts pass through the norm before it, like the tokens
                tokens = visual.enter(tokens)
                prompts_GPD = prompts_GPD if prompts_GPD is None or self.prompts.after_norm else visual.enter(prompts_GPD)
            if self.prompts.carried is not None and layer == self.below.start:
                carried_BGD = self.prompts.carried.expand(tokens.shape[0] // context.frames, -1, -1)
            if carried_BGD is not None:
                last, ask = layer == len(blocks) - 1, partial(self._ask, visual, step, blocks[layer], context)
                prompts_GPD, carried_BGD = ask(tokens, prompts_GPD, carried_BGD)
                if last:  # the frames are not read any more
                    continue
            # At the end nothing is computed that is not read; a part may need it all the same.
            only_class = visual.reads_class_token and layer == len(blocks) - 1
            every_row = not only_class or any(part.every_row for part in parts_of(blocks[layer]))
            rows = slice(None) if every_row else class_rows(context)
            tokens, context = step(blocks[layer], tokens, prompts_GPD, None, rows, context)
            if only_class and every_row:
                tokens = tokens[:, class_rows(context)]
        return tokens, carried_BGD

    def _ask(
        self,
        visual: VisualWalker,
        step: Step,
        block: nn.Module,
        context: Context,
        tokens_NLD: Tensor,
        prompts_GPD: Tensor | None,
        carried_BGD: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Carried prompts through a layer: they see themselves, and tokens and prompts of all frames that are no padding.

        Gives what each frame sees beside its own tokens [N, G + P, D], and what becomes of the carried ones [B, G, D].
        """
        (B, G, D), N = carried_BGD.shape, tokens_NLD.shape[0]
        prompts_NPD = tokens_NLD[:, :0] if prompts_GPD is None else prompts_GPD.repeat(N // prompts_GPD.shape[0], 1, 1)
        mask_B11S: Tensor | None = None
        if context.mask_BF is not None:
            of_prompts, of_tokens = (context.mask_BF.repeat_interleave(x.shape[1], dim=1) for x in (prompts_NPD, tokens_NLD))
            of_carried = torch.ones_like(of_tokens[:, :1]).expand(-1, G)
            mask_B11S = torch.cat([of_prompts, of_carried, of_tokens], dim=1)[:, None, None]
        rows_BSD = torch.cat([carried_BGD, tokens_NLD.reshape(B, -1, D)], dim=1)
        asked_BGD, _ = step(block, rows_BSD, prompts_NPD.reshape(B, -1, D), mask_B11S, slice(G), context)
        return torch.cat([carried_BGD.repeat_interleave(N // B, dim=0), prompts_NPD], dim=1), asked_BGD

    def _enter(self, visual: VisualWalker, tokens: Tensor, context: Context) -> tuple[Tensor, Tensor | None]:
        """The tokens that enter a layer, and its prompts if it has any."""
        if context.layer in self.above:
            return tokens, self.video_prompts[context.layer - self.above.start].unsqueeze(0)
        if context.layer not in self.below:
            return tokens, None
        index = context.layer - self.below.start
        joined = context.joined
        cls_NkD = tokens[:, :joined] if visual.class_token else tokens.mean(1, keepdim=True)
        cls_BFD = cls_NkD.reshape(-1, context.frames, tokens.shape[-1])
        new_cls_BFD = self.prompts.replace_cls(index, cls_BFD)
        if new_cls_BFD is not cls_BFD:
            tokens = torch.cat([new_cls_BFD.reshape(-1, joined, tokens.shape[-1]), tokens[:, joined:]], dim=1)
        seen = tokens.unflatten(0, (-1, context.frames)) if self.prompts.sees_tokens else cls_BFD
        return tokens, joined_prompts(self.prompts(index, seen), joined)


def class_rows(context: Context) -> slice:
    """Where the class tokens are: at the start of each frame, or of a sequence of joined frames."""
    return slice(context.joined) if context.joined > 1 else slice(0, None, context.tokens)
