"""RetrievalModel: a CLIP with prompts, from pixels and token ids to the rows that its head keeps."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import torch
from torch import Tensor, nn

from vop.config import ConfigError, Experiment, kind, kinds_of
from vop.model.architecture import caption_tokens
from vop.model.backbone import Backbone, shape_of_backbone, shared_backbone
from vop.model.head import build_head
from vop.model.loss import contrastive_loss, sigmoid_loss
from vop.model.part import parts_of
from vop.model.precision import exactly, moved
from vop.model.text_encoder import TextEncoder
from vop.model.video_encoder import VideoEncoder
from vop.model.walkers import embedding_width, text_of, visual_of


class RetrievalModel(nn.Module):
    """The frozen CLIP (`clip`), the prompts (`text`, `video`), whatever a tuning protocol adds or unfreezes, and the head.

    `tuned` is what each tuning protocol trains. `stages` and `head` make rows of embeddings (`vop/model/head.py`): with the
    default head unit embeddings [E].
    """

    mean_C: Tensor
    std_C: Tensor

    def __init__(self, backbone: Backbone, experiment: Experiment):
        super().__init__()
        self.clip = backbone.clip
        self.backbone, self.backbone_name = backbone, experiment.backbone.name
        self.frames = experiment.frames.count
        again = experiment.training.checkpointing
        spoken = kind("video_prompt", experiment.video_prompt.name).Prompts.speaks
        self.text = TextEncoder(self.clip, experiment.text_prompt, again, spoken)
        text = self.text.shape if spoken else None
        self.video = VideoEncoder(self.clip, experiment.video_prompt, experiment.video_encoder, self.frames, again, text)
        visual = visual_of(self.clip)
        if self.video.prompts.carried is not None and (visual.rotary or not visual.reads_class_token):
            raise ConfigError(f"video_prompt.name: {experiment.video_prompt.name}: {visual.lacks(self.backbone_name)}")
        self.sigmoid = experiment.training.loss == "sigmoid"
        if self.sigmoid and self.clip.logit_bias is None:
            raise ConfigError(f"training.loss: sigmoid needs a logit bias, {experiment.backbone.name} has none (SigLIP's have)")
        self.stages, self.head = build_head(experiment.head, self.clip, self.frames)
        if self.head.tokens and experiment.text_prompt.suffix:
            raise ConfigError(f"head.name={experiment.head.name} reads all places of a text: text_prompt.suffix must be 0")
        self.tuned: dict[str, list[nn.Parameter]] = {}
        self.register_buffer("mean_C", torch.tensor(backbone.preprocess.mean) * 255, persistent=False)
        self.register_buffer("std_C", torch.tensor(backbone.preprocess.std) * 255, persistent=False)

    def tokenize(self, captions: list[str]) -> Tensor:
        """Token ids [M, T] of captions, on the host, cut so that prompts and caption fit the context; the end token is kept."""
        return self.backbone.tokenize(captions, self.backbone.context_length - self.text.shift)

    def encode_text(self, tokens_BT: Tensor) -> Tensor:
        """Token ids -> the head's rows [B, S], fp32; of the default head unit embeddings [B, E]."""
        text_BTE, mask_BT = self.text_places(tokens_BT, self.head.tokens)
        with exactly(text_BTE):
            return self.head.text_rows(text_BTE, mask_BT)

    def text_places(self, tokens_BT: Tensor, every: bool) -> tuple[Tensor, Tensor]:
        """What a head sees of texts: their places, not normalized, and which of them are no padding; or the end token alone."""
        prompts_of = self.video.prompts.of_text if self.text.spoken else None
        text_BTE = self.text(self.clip, tokens_BT, every, prompts_of).float()
        end_B = moved(text_of(self.clip).end(tokens_BT), text_BTE.device)
        return text_BTE, torch.arange(text_BTE.shape[1], device=text_BTE.device) <= end_B[:, None]

    def encode_frame_captions(self, tokens_NT: Tensor, mask_BF: Tensor) -> Tensor:
        """Token ids of captions of frames, a video's in a row, N = B * F -> what a head has of them in training [B, X]."""
        prompts_of = self.video.prompts.of_text if self.text.spoken else None
        text_N1E = self.text(self.clip, tokens_NT, prompts_of=prompts_of, frames_BF=mask_BF).float()
        with exactly(text_N1E):
            return self.head.caption_rows(text_N1E.reshape(*mask_BF.shape, -1), mask_BF)

    def encode_video(self, pixels_BFHWC: Tensor, mask_BF: Tensor) -> Tensor:
        """uint8 frames, and a mask that is False where a frame is padding -> the head's rows [B, R], fp32.

        Of the default head they are unit embeddings [B, E] (`vop/heads/mean.py`).
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
        """The rest of `encode_video`: `activations` -> the head's rows [B, R], fp32."""
        frames_BFE = self.frame_embeddings(tokens_BFLD, mask_BF)
        with exactly(frames_BFE):
            return self.head.video_rows(frames_BFE, mask_BF)

    def frame_embeddings(self, tokens_BFLD: Tensor, mask_BF: Tensor) -> Tensor:
        """What a head sees of videos: `activations` -> [B, F, E], not normalized, after the head's frame stages."""
        tokens_NLD, frames = tokens_BFLD.flatten(0, 1), tokens_BFLD.shape[1]
        frames_BFE = self.video.upper(self.clip, tokens_NLD, frames, self.frozen_layers, mask_BF).float()
        with exactly(frames_BFE):
            for stage in self.stages.values():
                frames_BFE = stage(frames_BFE, mask_BF)
        return frames_BFE

    @cached_property
    def frozen_layers(self) -> int:
        """How many visual layers lie below everything that is trained."""
        visual, video = visual_of(self.clip), self.video
        blocks = visual.blocks
        if any(parameter.requires_grad for part in visual.stem for parameter in _parameters(part)):
            return 0
        prompted = {*video.below, *video.above, *range(video.split, len(blocks))}
        changed = (bool(parts_of(block)) or any(p.requires_grad for p in block.parameters()) for block in blocks)
        touched = (layer for layer, change in enumerate(changed) if change or layer in prompted)
        return next(touched, len(blocks))

    def forward(self, pixels_BFHWC: Tensor, mask_BF: Tensor, tokens_BT: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of texts and videos of B pairs: ([B, S], [B, R])."""
        return self.encode_text(tokens_BT), self.encode_video(pixels_BFHWC, mask_BF)

    @property
    def scale(self) -> Tensor:
        """exp(logit_scale). Not clamped: OpenAI's weights stand at the limit of 100, where a clamp has no gradient."""
        return torch.as_tensor(self.clip.logit_scale.exp())

    @property
    def embedding_width(self) -> int:
        """E, of the space of texts and frames."""
        return embedding_width(self.clip)

    @property
    @torch.no_grad()
    def video_width(self) -> int:
        """How many numbers the head keeps of a video: R."""
        frames_BFE = torch.ones(1, self.frames, self.embedding_width, device=self.mean_C.device)
        mask_BF = torch.ones_like(frames_BFE[..., 0], dtype=torch.bool)
        return self.head.video_rows(frames_BFE, mask_BF).shape[1]

    def loss(self, scores_BB: Tensor) -> Tensor:
        """The loss of a text-by-video matrix of the head's scores, a scalar; the bias of a sigmoid is never trained."""
        if self.sigmoid:
            return sigmoid_loss(scores_BB * self.scale + self.clip.logit_bias)
        return contrastive_loss(scores_BB * self.scale)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad and p.numel()}

    def count_trainable(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.trainable().values())


def check_parts(model: RetrievalModel, name: str) -> None:
    """Raise ConfigError where a part of the visual blocks merges tokens that something else takes frame by frame."""
    blocks = visual_of(model.clip).blocks
    parts = [part for block in blocks for part in parts_of(block)]
    if model.video.prompts.carried is not None and any(part.merges or part.by_frame for part in parts):
        raise ConfigError(f"tuning.name: {name}: it takes videos frame by frame, but some prompts belong to no frame")
    if any(part.merges for part in parts):
        if model.video.split < len(blocks):
            raise ConfigError(f"tuning.name: {name}: tokens are merged, so video_encoder.split_layer must be null")
        if any(part.by_frame for part in parts):
            raise ConfigError(f"tuning.name: {name}: one of them merges the tokens that another needs frame by frame")


def _parameters(part: nn.Module | Tensor | None) -> Iterable[Tensor]:
    return part.parameters() if isinstance(part, nn.Module) else () if part is None else (part,)


def build_model(experiment: Experiment, backbone: Backbone | None = None) -> RetrievalModel:
    """The model of an experiment at the start of its training, on the CPU; the same seed gives the same weights.

    The backbone's frozen values are those of all models on it in this process; what is trained is the model's own.
    Raises ConfigError where the backbone cannot be loaded or an option does not fit it.
    """
    caption_tokens(experiment)
    backbone = backbone or shared_backbone(experiment.backbone)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(experiment.seed)
        model = RetrievalModel(backbone.of_its_own(), experiment)
        model.requires_grad_(False)
        for name, protocol in kinds_of("tuning", experiment.tuning.name).items():
            before = set(map(id, model.trainable().values()))
            protocol.apply(model, experiment.tuning)
            model.tuned[name] = [parameter for parameter in model.trainable().values() if id(parameter) not in before]
        check_parts(model, experiment.tuning.name)
        for part in (model.stages, model.head):
            part.requires_grad_(True)
    for parameter in model.trainable().values():
        parameter.data = parameter.data.clone()
    return model


def shape_of_model(experiment: Experiment) -> RetrievalModel:
    """The model of an experiment on torch's meta device: what is trained, without values. Nothing is read or downloaded.

    Raises ConfigError as `build_model`, but for the weights themselves.
    """
    backbone = shape_of_backbone(experiment.backbone)
    with torch.device("meta"):
        return build_model(experiment, backbone)
