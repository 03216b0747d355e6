"""`vop throughput model`: what a training step costs, and videos embedded alone, against the plain way to compute a step.

The plain way walks the same open_clip blocks with prompts as ordinary tokens: the whole context of text, every row of the last
layer, all pixels anew. "before": with every linear layer and QuickGELU as torch has them, as if no weight were frozen. One
worker, ViT-B/32 with random weights and OpenAI's activation unless the overrides say otherwise.
"""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from pipelines.data.reader import Batch
from pipelines.throughput import interleaved, median_ratio
from pipelines.train.step import backward
from vop.config import ConfigError, Experiment, load_experiment
from vop.model import block, frozen
from vop.model.backbone import Backbone, load_backbone
from vop.model.loss import contrastive_loss
from vop.model.retrieval import RetrievalModel, build_model
from vop.model.walkers import is_openai_like, visual_of

PAIRS = 4
CAPTION = "a person in a red shirt is riding a bicycle along the beach"  # 14 tokens; MSR-VTT's have 12 on average
BF16 = ("VoP, bf16", "VoP, bf16, before")
LAST_FOUR, LAST = "video_prompt.depth=9-12", "video_prompt.depth=12-12"


@dataclasses.dataclass(frozen=True)
class StepCost:
    """A line of the table: a way, what it is compared with, medians of its ratios, peak memory in MiB, the target."""

    name: str
    against: str
    cpu: float
    wall: float
    memory: float | None
    loss: float | None
    target: float | None


def measure(overrides: Iterable[str] = (), rounds: int = 5) -> list[StepCost]:
    """Time all ways in turn; the overrides are those of the experiment that all share.

    bf16 is left out where the processor has no instructions for it: emulated, a step takes minutes.
    """
    base = load_experiment({"backbone": {"pretrained": "random", "quick_gelu": True}}, overrides)
    backbone = load_backbone(base.backbone)
    if not is_openai_like(backbone.clip):
        raise ConfigError(
            f"backbone.name: {base.backbone.name} is not built like OpenAI's CLIPs, which alone have a plain way here"
        )
    reused = {name: _reused_step(_experiment(base, name), backbone) for name in (LAST_FOUR, LAST)}
    lora, tempme = (_without_prompts(base, f"tuning.name={name}") for name in ("lora", "tempme"))
    split = f"video_encoder.split_layer={max(1, len(visual_of(backbone.clip).blocks) * 2 // 3)}"
    ways: dict[str, tuple[Callable[[], Tensor], str, float | None]] = {
        "plain": (_plain_step(base, backbone), "plain", None),
        "VoP": (_step(base, backbone), "plain", 0.37),
        "VoP, before": (_before(_step(base, backbone)), "plain", None),
        BF16[0]: (_step(_experiment(base, "training.precision=bf16"), backbone), "plain", 0.26),
        BF16[1]: (_before(_step(_experiment(base, "training.precision=bf16"), backbone)), "plain", None),
        "VoP, visual prompts in the last 4 layers, reused": (reused[LAST_FOUR], "plain", 0.25),
        "VoP, visual prompts in the last layer, reused": (reused[LAST], "plain", 0.05),
        "VoP^F": (_step(_experiment(base, split), backbone), "VoP", 1.04),
        "VoP^C": (_step(_experiment(base, "video_prompt.name=context"), backbone), "VoP", 1.08),
        "LoRA": (_step(lora, backbone), "plain", None),
        "TempMe": (_step(tempme, backbone), "LoRA", None),
        "VoP, videos embedded alone": (_embedding(base, backbone), "plain", None),
        "LoRA, videos embedded alone": (_embedding(lora, backbone), "plain", None),
        "TempMe, videos embedded alone": (_embedding(tempme, backbone), "LoRA, videos embedded alone", None),
        "VoP, checkpointing": (_step(_experiment(base, "training.checkpointing=true"), backbone), "VoP", None),
        "VoP, one pair at a time": (_step(_experiment(base, "training.chunk_size=1"), backbone), "VoP", None),
    }
    for name in () if has_bf16() else BF16:
        del ways[name]
    # Embeddings are no loss.
    losses = {name: loss.item() if (loss := way()).numel() == 1 else None for name, (way, _, _) in ways.items()}
    memory = {name: peak_memory(way) for name, (way, _, _) in ways.items()}
    costs = interleaved({name: way for name, (way, _, _) in ways.items()}, rounds)
    return [
        StepCost(
            name,
            against,
            median_ratio(costs[name], costs[against]),
            median_ratio(costs[name], costs[against], "wall"),
            memory[name],
            losses[name],
            target,
        )
        for name, (_, against, target) in ways.items()
    ]


def has_bf16() -> bool:
    """Whether this machine computes in bf16 itself."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def frozen_ways() -> dict[str, str]:
    """Which library computes the linear layers of frozen weights here, for each precision."""
    if torch.cuda.is_available():
        return {}
    precisions = {"fp32": torch.float32, **({"bf16": torch.bfloat16} if has_bf16() else {})}
    return {name: "oneDNN, packed" if frozen.use_onednn(dtype) else "as torch has them" for name, dtype in precisions.items()}


def _experiment(base: Experiment, *overrides: str) -> Experiment:
    return load_experiment(base.tree(), overrides)


def _without_prompts(base: Experiment, override: str) -> Experiment:
    return load_experiment({name: part for name, part in base.tree().items() if not name.endswith("_prompt")}, [override])


def _model(experiment: Experiment, backbone: Backbone) -> RetrievalModel:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return build_model(experiment, backbone).to(device)


def _batch(model: RetrievalModel) -> Batch:
    size, rng = model.backbone.size, np.random.default_rng(0)
    pixels = rng.integers(0, 256, (PAIRS, model.frames, size, size, 3), dtype=np.uint8)
    mask = np.ones((PAIRS, model.frames), dtype=np.bool_)
    return Batch(0, np.arange(PAIRS), pixels, mask, [f"{CAPTION} number {n}" for n in range(PAIRS)])


def _step(experiment: Experiment, backbone: Backbone) -> Callable[[], Tensor]:
    model = _model(experiment, backbone)
    batch = _batch(model)
    return lambda: _cleared(model, lambda: backward(model, batch, [PAIRS], 0, experiment.training))


def _reused_step(experiment: Experiment, backbone: Backbone) -> Callable[[], Tensor]:
    model = _model(experiment, backbone)
    batch = _batch(model)
    with torch.no_grad():
        activations = model.activations(torch.from_numpy(batch.pixels_BFHWC).to(model.mean_C.device)).cpu().numpy()
    batch = dataclasses.replace(batch, activations_BFLD=activations)
    return lambda: _cleared(model, lambda: backward(model, batch, [PAIRS], 0, experiment.training))


def _embedding(experiment: Experiment, backbone: Backbone) -> Callable[[], Tensor]:
    model = _model(experiment, backbone).eval()
    batch = _batch(model)
    pixels_BFHWC, mask_BF = (torch.from_numpy(array).to(model.mean_C.device) for array in (batch.pixels_BFHWC, batch.mask_BF))

    def embed() -> Tensor:
        with torch.inference_mode():
            return model.encode_video(pixels_BFHWC, mask_BF)

    return embed


def _before(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The step as if no weight were frozen."""

    def run() -> Tensor:
        with patch.object(frozen, "is_frozen", _never), patch.object(block, "is_frozen", _never):
            return step()

    return run


def _never(weight: Tensor, bias: Tensor | None) -> bool:
    return False


def _cleared(model: RetrievalModel, step: Callable[[], Tensor]) -> Tensor:
    model.zero_grad(set_to_none=True)
    return step()


def _plain_step(experiment: Experiment, backbone: Backbone) -> Callable[[], Tensor]:
    model = _model(experiment, backbone)
    batch = _batch(model)

    def step() -> Tensor:
        device = model.mean_C.device
        tokens_BT = model.tokenize(batch.captions).to(device)
        text_BE = torch.nn.functional.normalize(_plain_text(model, tokens_BT), dim=-1)
        video_BE = _plain_video(model, torch.from_numpy(batch.pixels_BFHWC).to(device))
        loss = contrastive_loss(text_BE @ video_BE.T * model.scale)
        loss.backward()
        return loss.detach()

    return lambda: _cleared(model, step)


def _plain_text(model: RetrievalModel, tokens_BT: Tensor) -> Tensor:
    """Text embeddings [B, E], the whole context at every layer."""
    clip, prompts_KPD = model.clip, model.text.prompts
    P, B = prompts_KPD.shape[1], len(tokens_BT)
    hidden = clip.token_embedding(tokens_BT)
    for layer, one in enumerate(clip.transformer.resblocks):
        words_BTD = hidden[:, 1 if layer == 0 else 1 + P :]
        hidden = torch.cat([hidden[:, :1], prompts_KPD[layer].expand(B, -1, -1), words_BTD], dim=1)
        hidden = one(hidden + clip.positional_embedding if layer == 0 else hidden, attn_mask=clip.attn_mask)
    end_B = tokens_BT.argmax(dim=1) + P
    out_BE: Tensor = clip.ln_final(hidden)[torch.arange(B, device=end_B.device), end_B] @ clip.text_projection
    return out_BE


def _plain_video(model: RetrievalModel, pixels_BFHWC: Tensor) -> Tensor:
    """Video embeddings [B, E], every row of every layer."""
    visual, prompts_KPD = model.clip.visual, model.video.prompts.generic
    pixels_NHWC = (pixels_BFHWC.flatten(0, 1).float() - model.mean_C) / model.std_C
    hidden = visual_of(model.clip).embed(pixels_NHWC.permute(0, 3, 1, 2))
    N, P = len(hidden), prompts_KPD.shape[1]
    for layer, one in enumerate(visual.transformer.resblocks):
        patches_NMD = hidden[:, 1 if layer == 0 else 1 + P :]
        hidden = torch.cat([hidden[:, :1], prompts_KPD[layer].expand(N, -1, -1), patches_NMD], dim=1)
        hidden = one(visual.ln_pre(hidden) if layer == 0 else hidden)
    frames_NE = torch.nn.functional.normalize((visual.ln_post(hidden) @ visual.proj)[:, 0], dim=-1)
    return torch.nn.functional.normalize(frames_NE.unflatten(0, pixels_BFHWC.shape[:2]).mean(1), dim=-1)


def peak_memory(way: Callable[[], object]) -> float | None:
    """MiB that a step takes at its peak beyond what is held before it; on the CPU from Linux's count of resident pages."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    ctypes.CDLL(None).malloc_trim(0)  # give back what earlier steps left
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _kilobytes(status, "VmRSS")
    way()
    return (_kilobytes(status, "VmHWM") - before) / 1024


def _kilobytes(status: Path, key: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(key))
