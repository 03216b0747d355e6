"""`vop throughput model`: what a training step costs, and videos embedded alone, against the plain way to compute a step.

The plain way and the authors' are in `references`. "before": linear layers, attention and QuickGELU as torch has them, as if no
weight were frozen. One worker, ViT-B/32 with random weights and OpenAI's activation unless the overrides say otherwise.
"""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.data.reader import Batch
from pipelines.throughput import interleaved, median_ratio
from pipelines.throughput.references import Walk, authors, loss_of, plain
from pipelines.train.step import backward
from vop.config import ConfigError, Experiment, load_experiment
from vop.model import block, frozen
from vop.model.backbone import Backbone, load_backbone
from vop.model.retrieval import RetrievalModel, build_model
from vop.model.walkers import is_openai_like, visual_of

PAIRS = 4
CAPTION = "a person in a red shirt is riding a bicycle along the beach"  # 14 tokens; MSR-VTT's have 12 on average
BF16 = ("VoP, bf16", "VoP, bf16, before")
LAST_FOUR, LAST = "video_prompt.depth=9-12", "video_prompt.depth=12-12"
AUTHORS = "the authors' way"


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
    bf16 = _experiment(base, "training.precision=bf16")
    # each way, and what it is compared with; a target where there is one
    ways: dict[str, tuple[Callable[[], Tensor], dict[str, float | None]]] = {
        "plain": (_reference_step(plain, base, backbone), {"plain": None}),
        AUTHORS: (_reference_step(authors, base, backbone), {"plain": None}),
        "VoP": (_step(base, backbone), {"plain": 0.37, AUTHORS: 0.40}),
        "VoP, before": (_before(_step(base, backbone)), {"plain": None}),
        BF16[0]: (_step(bf16, backbone), {"plain": 0.26, AUTHORS: 0.28}),
        BF16[1]: (_before(_step(bf16, backbone)), {"plain": None}),
        "VoP, visual prompts in the last 4 layers, reused": (reused[LAST_FOUR], {"plain": 0.25}),
        "VoP, visual prompts in the last layer, reused": (reused[LAST], {"plain": 0.05}),
        "VoP^F": (_step(_experiment(base, split), backbone), {"VoP": 1.04}),
        "VoP^C": (_step(_experiment(base, "video_prompt.name=context"), backbone), {"VoP": 1.08, AUTHORS: 0.45}),
        "LoRA": (_step(lora, backbone), {"plain": None}),
        "TempMe": (_step(tempme, backbone), {"LoRA": None}),
        "VoP, videos embedded alone": (_embedding(base, backbone), {"plain": None}),
        "LoRA, videos embedded alone": (_embedding(lora, backbone), {"plain": None}),
        "TempMe, videos embedded alone": (_embedding(tempme, backbone), {"LoRA, videos embedded alone": None}),
        "VoP, checkpointing": (_step(_experiment(base, "training.checkpointing=true"), backbone), {"VoP": None}),
        "VoP, one pair at a time": (_step(_experiment(base, "training.chunk_size=1"), backbone), {"VoP": None}),
    }
    for name in () if has_bf16() else BF16:
        del ways[name]
    # Embeddings are no loss.
    losses = {name: loss.item() if (loss := way()).numel() == 1 else None for name, (way, _) in ways.items()}
    memory = {name: peak_memory(way) for name, (way, _) in ways.items()}
    costs = interleaved({name: way for name, (way, _) in ways.items()}, rounds)
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
        for name, (_, compared) in ways.items()
        for against, target in compared.items()
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
    """The step as if no weight were frozen, with attention as torch has it."""

    def run() -> Tensor:
        with (
            patch.object(frozen, "is_frozen", _never),
            patch.object(block, "is_frozen", _never),
            patch.object(block, "scaled_dot_product_attention", F.scaled_dot_product_attention),
        ):
            return step()

    return run


def _never(weight: Tensor, bias: Tensor | None) -> bool:
    return False


def _cleared(model: RetrievalModel, step: Callable[[], Tensor]) -> Tensor:
    model.zero_grad(set_to_none=True)
    return step()


def _reference_step(walk: Walk, experiment: Experiment, backbone: Backbone) -> Callable[[], Tensor]:
    model = _model(experiment, backbone)
    batch = _batch(model)

    def step() -> Tensor:
        tokens_BT, pixels_BFHWC = model.tokenize(batch.captions), torch.from_numpy(batch.pixels_BFHWC)
        loss = loss_of(walk, model, *(x.to(model.mean_C.device) for x in (tokens_BT, pixels_BFHWC)))
        loss.backward()
        return loss.detach()

    return lambda: _cleared(model, step)


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
