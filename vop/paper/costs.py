"""What each method costs to use: multiplications and additions of a video and of a text, counted, and bytes in an index.

They are counted on torch's meta device, as the model runs: no weights are read and nothing is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from vop.config import Experiment, Tree, load_experiment
from vop.model.backbone import shape_of_backbone
from vop.model.retrieval import RetrievalModel, shape_of_model
from vop.model.walkers import text_of, visual_of
from vop.paper.methods import METHODS, overrides_of

WORDS = 32  # tokens of the text, both ends included, as the field's protocols cut theirs
HALF, SINGLE = 2, 4  # bytes of a number: of a unit embedding in an index, of the rows of a head with a score of its own


@dataclass(frozen=True)
class Cost:
    """trained: parameters; video_flops, text_flops: of one more item in a batch, a multiplication with its addition is two;
    index_bytes: of a video.

    What a batch needs once, such as the product of LoRA's matrices or the prompts that DGL's transformer makes, is left out.
    """

    trained: int
    video_flops: int
    text_flops: int
    index_bytes: int


def cost_of(experiment: Experiment) -> Cost:
    """The cost of an experiment's model; of its backbone only the architecture matters. Raises what `shape_of_model` raises."""
    model = shape_of_model(experiment)
    trained = model.count_trainable()
    model.requires_grad_(False)
    rows = 0 if model.head.dot else SINGLE * model.video_width
    video, text = (_flops(run, 2) - _flops(run, 1) for run in (_video(model), _text(model)))
    return Cost(trained, video, text, HALF * model.embedding_width + rows)


def cost_of_method(name: str, tree: Tree, overrides: Sequence[str] = ()) -> Cost:
    """Of one of METHODS over a tree of settings, such as backbone and frames, with further overrides."""
    layers = len(visual_of(shape_of_backbone(load_experiment(tree, overrides).backbone).clip).blocks)
    way = [f"{key}={value}" for key, value in overrides_of(name, layers).items()]
    return cost_of(load_experiment(tree, [*overrides, *way]))


def count_costs(overrides: Sequence[str] = ()) -> dict[str, Cost]:
    """The cost of every method, with further overrides."""
    return {name: cost_of_method(name, {"backbone": {"pretrained": "random"}}, overrides) for name in METHODS}


def _flops(run: Callable[[int], object], items: int) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run(items)
    return int(counter.get_total_flops())


def _video(model: RetrievalModel) -> Callable[[int], object]:
    frames, size = model.frames, model.backbone.size

    def run(items: int) -> object:
        pixels_BFHWC = torch.empty(items, frames, size, size, 3, dtype=torch.uint8, device="meta")
        return model.encode_video(pixels_BFHWC, torch.ones(items, frames, dtype=torch.bool, device="meta"))

    return run


def _text(model: RetrievalModel) -> Callable[[int], object]:
    text, most = text_of(model.clip), model.backbone.context_length - model.text.shift
    end = text.eos if text.pool == "eos" else text.tower.token_embedding.num_embeddings - 1

    def run(items: int) -> object:
        tokens_BT = torch.ones(items, min(WORDS, most), dtype=torch.int64)
        tokens_BT[:, -1] = end
        return model.encode_text(tokens_BT)

    return run
