"""RetrievalModel: a CLIP with prompts, from pixels and token ids to unit embeddings.

Tensor names end in their shape: B pairs, F frames, P prompt length, L visual tokens, M patches or captions, T text tokens,
D width, E joint embedding, N videos (or frames of all videos), G sets of prompts, R rows read, H W C pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vop.backbone import Backbone, load_backbone
from vop.block import checkpointed, run_block
from vop.config import Experiment, kind
from vop.text_encoder import TextEncoder
from vop.video_encoder import VideoEncoder


class RetrievalModel(nn.Module):
    """The frozen CLIP (`clip`), the prompts (`text`, `video`) and whatever a tuning protocol adds or unfreezes."""

    mean_C: Tensor
    std_C: Tensor

    def __init__(self, backbone: Backbone, experiment: Experiment):
        super().__init__()
        self.clip = backbone.clip
        self.backbone = backbone
        self.frames = experiment.frames.count
        run = checkpointed if experiment.training.checkpointing else run_block
        self.text = TextEncoder(self.clip, experiment.text_prompt, run)
        self.video = VideoEncoder(self.clip, experiment.video_prompt, experiment.video_encoder, self.frames, run)
        self.register_buffer("mean_C", torch.tensor(backbone.mean) * 255, persistent=False)
        self.register_buffer("std_C", torch.tensor(backbone.std) * 255, persistent=False)

    def tokenize(self, captions: list[str]) -> Tensor:
        """Token ids [M, T] of captions, cut so that prompts and caption fit the context; the end token is kept."""
        return self.backbone.tokenize(captions, self.backbone.context_length - self.text.shift)

    def encode_text(self, tokens_BT: Tensor) -> Tensor:
        """Token ids -> unit embeddings [B, E], fp32."""
        return F.normalize(self.text(self.clip, tokens_BT).float(), dim=-1)

    def encode_video(self, pixels_BFHWC: Tensor, mask_BF: Tensor) -> Tensor:
        """uint8 frames, and a mask that is False where a frame is padding -> unit embeddings [B, E], fp32.

        Each frame's embedding is normalized, the real frames' are averaged, the average is normalized again.
        """
        return self.encode_activations(self.activations(pixels_BFHWC), mask_BF)

    def activations(self, pixels_BFHWC: Tensor) -> Tensor:
        """The part of `encode_video` that training does not change: what enters visual layer `frozen_layers`, [B, F, L, D]."""
        frames = pixels_BFHWC.shape[1]
        if frames != self.frames:
            raise ValueError(f"the model was built for {self.frames} frames a video, these have {frames}")
        pixels_NHWC = (pixels_BFHWC.flatten(0, 1).float() - self.mean_C) / self.std_C
        tokens_NLD = self.video.lower(self.clip, pixels_NHWC.permute(0, 3, 1, 2), frames, self.frozen_layers)
        return torch.as_tensor(tokens_NLD.unflatten(0, (-1, frames)))

    def encode_activations(self, tokens_BFLD: Tensor, mask_BF: Tensor) -> Tensor:
        """The rest of `encode_video`: `activations` -> unit embeddings [B, E], fp32."""
        tokens_NLD, frames = tokens_BFLD.flatten(0, 1), tokens_BFLD.shape[1]
        frames_BFE = self.video.upper(self.clip, tokens_NLD, frames, self.frozen_layers).float()
        # In double: a clip and its reverse then have the same average to the last bit of fp32.
        weights_BF1 = mask_BF[..., None].double()
        mean_BE = (F.normalize(frames_BFE, dim=-1).double() * weights_BF1).sum(1) / weights_BF1.sum(1)
        return F.normalize(mean_BE, dim=-1).float()

    @cached_property
    def frozen_layers(self) -> int:
        """How many visual layers lie below everything that is trained."""
        visual, video = self.clip.visual, self.video
        blocks = visual.transformer.resblocks
        stem = (visual.conv1, visual.ln_pre, visual.class_embedding, visual.positional_embedding)
        if any(parameter.requires_grad for part in stem for parameter in _parameters(part)):
            return 0
        prompted = {*video.below, *video.above, *range(video.split, len(blocks))}
        touched = (i for i, block in enumerate(blocks) if i in prompted or any(p.requires_grad for p in block.parameters()))
        return next(touched, len(blocks))

    def forward(self, pixels_BFHWC: Tensor, mask_BF: Tensor, tokens_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Unit text and video embeddings of B pairs: ([B, E], [B, E])."""
        return self.encode_text(tokens_BT), self.encode_video(pixels_BFHWC, mask_BF)

    @property
    def scale(self) -> Tensor:
        """exp(logit_scale). Not clamped: OpenAI's weights stand at the limit of 100, where a clamp has no gradient."""
        return torch.as_tensor(self.clip.logit_scale.exp())

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad and p.numel()}


def _parameters(part: nn.Module | Tensor) -> Iterable[Tensor]:
    return part.parameters() if isinstance(part, nn.Module) else (part,)


def build_model(experiment: Experiment, backbone: Backbone | None = None) -> RetrievalModel:
    """The model of an experiment at the start of its training, on the CPU; the same seed gives the same weights.

    Raises ConfigError where the backbone cannot be loaded or an option does not fit it.
    """
    backbone = backbone or load_backbone(experiment.backbone)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(experiment.seed)
        model = RetrievalModel(backbone, experiment)
        model.requires_grad_(False)
        kind("tuning", experiment.tuning.name).apply(model, experiment.tuning)
    return model
