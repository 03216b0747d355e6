"""`vop methods`: what each method trains, counted on models really built, and the paper's way of counting beside it.

The models are built on torch's meta device: all their shapes and no values, so that no weights are read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import nn

from vop.config import kind, load_experiment
from vop.model.backbone import shape_of_backbone
from vop.model.part import Part
from vop.model.retrieval import RetrievalModel, shape_of_model
from vop.model.walkers import visual_of
from vop.paper.methods import METHODS, overrides_of


@dataclasses.dataclass(frozen=True)
class Count:
    """A method's overrides, parameters trained, those that the paper counts, default learning rate."""

    overrides: dict[str, Any]
    trained: int
    paper_trained: int
    learning_rate: float


@dataclasses.dataclass(frozen=True)
class Counts:
    """All methods on one backbone; `total` and `paper_total`: the parameters of the whole CLIP, both ways."""

    total: int
    paper_total: int
    methods: dict[str, Count]


def count_methods(overrides: Sequence[str] = ()) -> Counts:
    """Build every method and count what it trains."""
    tree = {"backbone": {"pretrained": "random"}}
    backbone = shape_of_backbone(load_experiment(tree, overrides).backbone)
    counts = {}
    for name in METHODS:
        method = overrides_of(name, len(visual_of(backbone.clip).blocks))
        experiment = load_experiment(tree, [*overrides, *(f"{key}={value}" for key, value in method.items())])
        model = shape_of_model(experiment)
        rate = kind("tuning", experiment.tuning.name).LEARNING_RATE
        counts[name] = Count(method, model.count_trainable(), paper_count(model), rate)
    total = sum(parameter.numel() for parameter in backbone.clip.parameters())
    return Counts(total, total - sum(bare_parameters(backbone.clip).values()), counts)


def paper_count(model: RetrievalModel) -> int:
    """What the paper counts as trained (its table 1).

    It misses CLIP's bare parameters, such as the fused query, key and value weights, and the frame embedding of VoP^F; but it
    counts the projections, which are bare too, where they are all that is trained (Proj).
    """
    trained = {name: parameter.numel() for name, parameter in model.trainable().items()}
    missed = {f"clip.{name}" for name in bare_parameters(model.clip)} | {"video.frame_embedding"}
    return sum(count for name, count in trained.items() if name not in missed) or sum(trained.values())


def bare_parameters(clip: nn.Module) -> dict[str, int]:
    """CLIP's parameters that belong to no layer (linear, norm, convolution, embedding) but to a module made of layers.

    What a method has added to it is not CLIP's.
    """
    added = tuple(place for place, module in clip.named_modules() if isinstance(module, Part))
    return {
        f"{place}.{name}".lstrip("."): parameter.numel()
        for place, module in clip.named_modules()
        if any(True for _ in module.children()) and not place.startswith(added)
        for name, parameter in module.named_parameters(recurse=False)
    }
