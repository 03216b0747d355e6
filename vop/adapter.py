"""What is saved and shared of a tuned model: `adapter.safetensors` (the trained tensors) and `adapter.json` (all else).

With the backbone the two rebuild the model; the frozen weights are never written.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from open_clip import CLIP
from open_clip.transformer import QuickGELU
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vop.backbone import Backbone, load_backbone
from vop.config import ConfigError, Experiment, validated
from vop.model import RetrievalModel, build_model

FORMAT = 1
TENSORS, CARD = "adapter.safetensors", "adapter.json"


class AdapterError(ValueError):
    """An adapter that is incomplete or does not fit its model; the message says what was expected and what was found."""


@dataclass(frozen=True)
class Adapter:
    """A trained state: the experiment that made it, the hash of the backbone's weights, the tensors by name."""

    experiment: Experiment
    backbone_weights: str
    tensors: dict[str, Tensor]
    notes: dict[str, Any] = field(default_factory=dict)  # commit, metrics, epoch: for people, not read by the program


def adapter_of(model: RetrievalModel, experiment: Experiment, **notes: Any) -> Adapter:
    """A copy on the CPU of what is trained in a model; its experiment says whether CLIP ran with QuickGELU.

    A file of weights does not tell, so without that the same weights from another file could give other scores.
    """
    backbone = experiment.backbone.model_copy(update={"quick_gelu": uses_quick_gelu(model.clip)})
    experiment = experiment.model_copy(update={"backbone": backbone})
    tensors = {name: p.detach().cpu().clone().contiguous() for name, p in model.trainable().items()}
    return Adapter(experiment, model.backbone.weights, tensors, notes)


def save_adapter(adapter: Adapter, folder: Path) -> Path:
    """Write an adapter's two files into `folder`; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(adapter.tensors, folder / TENSORS)
    card = {
        "format": FORMAT,
        "backbone_weights": adapter.backbone_weights,
        "tensors": {name: list(tensor.shape) for name, tensor in adapter.tensors.items()},
        "experiment": adapter.experiment.tree(),
        "notes": adapter.notes,
    }
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return folder


def load_adapter(folder: Path) -> Adapter:
    """Read an adapter. Raises AdapterError for a missing file or another format, ConfigError for a bad experiment."""
    for name in (TENSORS, CARD):
        if not (folder / name).is_file():
            raise AdapterError(f"{folder} is not an adapter: it has no {name}")
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        if card["format"] != FORMAT:
            raise AdapterError(f"format {card['format']}, this version reads {FORMAT}")
        tensors = load_file(folder / TENSORS) if card["tensors"] else {}
        return Adapter(validated(card["experiment"]), card["backbone_weights"], tensors, card["notes"])
    except (AdapterError, ConfigError) as error:
        raise type(error)(f"{folder / CARD}: {error}") from None
    except (ValueError, KeyError, SafetensorError) as error:
        raise AdapterError(f"{folder} is not a whole adapter: {error!r}") from error


def model_of(adapter: Adapter, backbone: Backbone | None = None) -> RetrievalModel:
    """Rebuild the tuned model on the CPU. Raises AdapterError where backbone, tensor names or shapes do not match."""
    config = adapter.experiment.backbone
    backbone = backbone or load_backbone(config)
    named = f"backbone {config.name} ({config.pretrained})"
    if backbone.weights != adapter.backbone_weights:
        raise AdapterError(
            f"the adapter belongs to {named} with weights {adapter.backbone_weights[:12]}, found {backbone.weights[:12]}"
        )
    if config.quick_gelu not in (None, uses_quick_gelu(backbone.clip)):
        expected, found = ("QuickGELU", "GELU") if config.quick_gelu else ("GELU", "QuickGELU")
        raise AdapterError(f"the adapter belongs to {named} with {expected}, found {found}")
    model = build_model(adapter.experiment, backbone)
    load_tensors(model, adapter.tensors)
    return model


def uses_quick_gelu(clip: CLIP) -> bool:
    """Whether CLIP's blocks have OpenAI's activation."""
    return isinstance(clip.transformer.resblocks[0].mlp.gelu, QuickGELU)


def load_tensors(model: RetrievalModel, tensors: dict[str, Tensor]) -> None:
    """Copy an adapter's tensors into a model, strictly."""
    expected = model.trainable()
    if expected.keys() != tensors.keys():
        missing, extra = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
        raise AdapterError(f"tensor names differ: missing {missing[:5] or 'none'}, not expected {extra[:5] or 'none'}")
    for name, parameter in expected.items():
        if parameter.shape != tensors[name].shape:
            raise AdapterError(f"tensor {name}: expected shape {list(parameter.shape)}, found {list(tensors[name].shape)}")
        parameter.data.copy_(tensors[name])
