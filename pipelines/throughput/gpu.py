"""`vop throughput gpu`: videos a second that one GPU trains on and embeds, and how long it scores. Its name is the first row.

ViT-B/32 with random weights and OpenAI's activation unless the overrides say otherwise. Training is `vop train`'s own loop, fed
from a few batches in host memory: the frame store is not read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import cycle

import numpy as np
import torch

from pipelines.data.reader import Batch, batch_of
from pipelines.throughput.data import Measurement
from pipelines.throughput.scores import embeddings, now
from pipelines.train.copies import on_device
from pipelines.train.training import training_of
from pipelines.train.worker import Worker, train_epoch
from vop.benchmarks import Record
from vop.config import ConfigError, Experiment, load_experiment
from vop.model.backbone import load_backbone
from vop.model.precision import computing
from vop.model.retrieval import RetrievalModel, build_model

CAPTION = "a person in a red shirt is riding a bicycle along the beach"
PRECISIONS, VARIANTS = ("fp32", "tf32", "bf16"), {"VoP^P": "video_prompt.name=position", "VoP^C": "video_prompt.name=context"}
BATCHES = 3  # in host memory, taken in turn


def measure(overrides: Iterable[str], pairs: int, steps: int, items: int) -> list[Measurement]:
    """Steps of so many pairs, so many of them timed after as many others; `items` texts and videos scored.

    Raises ConfigError without a GPU.
    """
    if not torch.cuda.is_available():
        raise ConfigError("vop throughput gpu: torch sees no GPU here")
    device = torch.device("cuda")
    base = load_experiment({"backbone": {"pretrained": "random", "quick_gelu": True}}, overrides)
    rows = [Measurement("card", f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}")]
    ways = {f"VoP, {precision}": [f"training.precision={precision}"] for precision in PRECISIONS}
    ways |= {f"{name}, bf16": [override, "training.precision=bf16"] for name, override in VARIANTS.items()}
    backbone = load_backbone(base.backbone)
    for name, more in ways.items():
        experiment = load_experiment(base.tree(), more)
        model = build_model(experiment, backbone).to(device)
        torch.cuda.reset_peak_memory_stats()
        rate = _training_rate(experiment, model, pairs, steps)
        memory = torch.cuda.max_memory_allocated() / 2**30
        rows.append(Measurement(f"{name}: trained, {pairs} pairs a step", f"{rate:,.0f} videos/s, {memory:.1f} GiB"))
        rows.append(Measurement(f"{name}: embedded", f"{_embedding_rate(experiment, model, pairs, steps):,.0f} videos/s"))
    text_NE, video_NE, bank_BE = embeddings(items)
    now(text_NE[:1000], video_NE[:1000], bank_BE)
    seconds = _seconds(lambda: now(text_NE, video_NE, bank_BE))
    what = f"both directions, top ten and both rescorings of {items:,} x {items:,}"
    return [*rows, Measurement(what, f"{seconds:.1f} s")]


def _training_rate(experiment: Experiment, model: RetrievalModel, pairs: int, steps: int) -> float:
    """Videos a second of the second of two epochs."""
    device = model.mean_C.device
    training = training_of(experiment, model, 2 * steps, "")
    worker = Worker(0, 1, device, lambda metrics: None, trial=True)
    batches, epoch = on_device(cycle(_batches(model, pairs)), device), [[(0, 0)] * pairs] * steps
    train_epoch(training, batches, epoch, worker, ["noise"])
    return train_epoch(training, batches, epoch, worker, ["noise"])["train/pairs_per_second"]


@torch.inference_mode()
def _embedding_rate(experiment: Experiment, model: RetrievalModel, pairs: int, steps: int) -> float:
    device = model.mean_C.device
    (batch,) = on_device(iter(_batches(model, pairs)[:1]), device)

    def embed() -> None:
        with computing(device, experiment.training.precision):
            for _ in range(steps):
                model.encode_video(torch.as_tensor(batch.pixels_BFHWC), torch.as_tensor(batch.mask_BF))

    embed()
    return pairs * steps / _seconds(embed)


def _seconds(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    began = time.monotonic()
    work()
    torch.cuda.synchronize()
    return time.monotonic() - began


def _batches(model: RetrievalModel, pairs: int) -> list[Batch]:
    size, rng = model.backbone.size, np.random.default_rng(0)
    record = Record("noise", "noise.mp4", (CAPTION,), "train")

    def batch(step: int) -> Batch:
        pixels = rng.integers(0, 256, (pairs, model.frames, size, size, 3), dtype=np.uint8)
        return batch_of([record], [(0, 0)] * pairs, step, pixels, np.ones((pairs, model.frames), dtype=np.bool_))

    return [batch(step) for step in range(BATCHES)]
