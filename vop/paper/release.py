"""The authors' published basic VoP -> an adapter.

Source: `VoP_msrvtt9k.pth` of ModelScope's `damo/cv_vit-b32_retrieval_vop`: {"state_dict": ...}, which holds text prompts
[layers, P, D] (the prefix first, then the suffix), visual prompts [layers, 1, P, D], and a frozen CLIP, whole and once
more in parts under other names. The file does not say how many of the text prompts are prefix and how many suffix.

The release puts the suffix prompts before the last place of the context and reads the text embedding `suffix` places after
the end token (`vop/model/text_encoder.py`, `text_prompt.suffix`); its frames are basic VoP's. One step is not taken over: it
scores with the average of a video's unit frame embeddings, this project normalizes the average. So v2t rankings are the
release's, and t2v rankings those of its scores divided by each video's length.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from vop.config import load_experiment
from vop.model.adapter import Adapter, AdapterError, adapter_of, load_tensors
from vop.model.backbone import Backbone, shared_backbone
from vop.model.retrieval import build_model
from vop.model.walkers import text_of, visual_of

TEXT, VISUAL = "text_prompt_learner.text_prompts", "visual_prompt_learner.visual_prompts"


class ReleaseError(AdapterError):
    """A checkpoint that is not a basic VoP of the release's format, or does not fit the backbone; the message says why."""


def convert(checkpoint: Path, prefix: int = 4, suffix: int = 4, overrides: Iterable[str] = ()) -> Adapter:
    """The adapter that a checkpoint of the release holds: its prompts alone.

    `overrides` name the backbone (`backbone.pretrained=...`), whose weights must be the checkpoint's, and set anything else of
    the adapter's experiment. Raises ReleaseError for a checkpoint that does not fit, ConfigError for a bad override.
    """
    state = read_checkpoint(checkpoint)
    missing = [key for key in (TEXT, VISUAL) if key not in state]
    if missing:
        raise ReleaseError(f"{checkpoint} is not the release's basic VoP: it has no {' and no '.join(missing)}")
    text, visual = state.pop(TEXT), state.pop(VISUAL)
    if text.dim() != 3 or visual.dim() != 4 or visual.shape[1] != 1:
        raise ReleaseError(
            f"{checkpoint}: expected {TEXT} of shape [layers, P, width] and {VISUAL} of shape [layers, 1, P, width], "
            f"found {list(text.shape)} and {list(visual.shape)}"
        )
    if min(prefix, suffix) < 0 or prefix + suffix != text.shape[1]:
        raise ReleaseError(
            f"{checkpoint} has {text.shape[1]} text prompts a layer: prefix and suffix must add up to that, "
            f"given {prefix} and {suffix}"
        )
    tree = {
        "name": "vop-release",
        "text_prompt": {"length": prefix + suffix, "suffix": suffix},
        "video_prompt": {"length": visual.shape[2]},
    }
    experiment = load_experiment(tree, overrides)
    backbone = shared_backbone(experiment.backbone)
    named = f"backbone {experiment.backbone.name} ({experiment.backbone.pretrained})"
    _check_layers(checkpoint, backbone, named, text, visual)
    _check_clip(checkpoint, backbone, named, state)
    model = build_model(experiment, backbone)
    load_tensors(model, {"text.prompts": text, "video.prompts.generic": visual[:, 0]})
    return adapter_of(model, experiment, source=checkpoint.name)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The `state_dict` of a checkpoint, without running any code that the file might hold."""
    if not path.is_file():
        raise ReleaseError(f"checkpoint {path} does not exist")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise ReleaseError(f"{path} is not a checkpoint of tensors: {str(error).splitlines()[0]}") from error
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ReleaseError(f"{path}: expected a dictionary whose `state_dict` holds tensors by name")
    return {key.removeprefix("module."): value for key, value in state.items()}


def _check_layers(checkpoint: Path, backbone: Backbone, named: str, text: Tensor, visual: Tensor) -> None:
    towers = {TEXT: (text, text_of(backbone.clip)), VISUAL: (visual, visual_of(backbone.clip))}
    for key, (prompts, tower) in towers.items():
        expected = len(tower.blocks), tower.width
        found = prompts.shape[0], prompts.shape[-1]
        if found != expected:
            raise ReleaseError(
                f"{checkpoint}: {key} has {found[0]} layers of width {found[1]}, "
                f"but {named} has {expected[0]} of width {expected[1]}"
            )


def _check_clip(checkpoint: Path, backbone: Backbone, named: str, state: dict[str, Tensor]) -> None:
    """Every copy of every weight must be the backbone's: then the checkpoint's CLIP has the backbone's hash."""
    if not backbone.quick_gelu:
        raise ReleaseError(f"the release's CLIP has QuickGELU, {named} has not: add backbone.quick_gelu=true")
    clip: dict[str, Tensor] = backbone.clip.state_dict()
    names = {key: clip_names(key, clip) for key in state}
    unknown = [key for key in state if "prompt_learner" in key or not names[key]]
    if unknown:
        raise ReleaseError(f"{checkpoint} has {len(unknown)} tensors that basic VoP has not: {', '.join(unknown[:5])}")
    found: set[str] = set()
    differing = []
    for key, value in state.items():
        same = [name for name in names[key] if clip[name].shape == value.shape and torch.equal(clip[name], value.float())]
        found.update(same)
        if not same:
            shapes = " or ".join(str(list(clip[name].shape)) for name in names[key])
            differing.append(f"{key} {list(value.shape)}, expected the values of {' or '.join(names[key])} {shapes}")
    if differing:
        raise ReleaseError(
            f"{checkpoint} belongs to other weights than {named}, {backbone.weights[:12]}: "
            f"{len(differing)} of its {len(state)} CLIP tensors differ, first {differing[0]}"
        )
    missing = sorted(clip.keys() - found)
    if missing:
        raise ReleaseError(
            f"{checkpoint} lacks {len(missing)} of the {len(clip)} CLIP tensors of {named}: {', '.join(missing[:5])}"
        )


def clip_names(key: str, clip: Iterable[str]) -> list[str]:
    """Which weights of CLIP a key may stand for: those that its longest fitting tail names.

    The whole model is below `clip.`; the release's text encoder and image encoder hold its parts again, the latter without
    CLIP's own `visual.`.
    """
    parts = key.split(".")
    for start in range(len(parts)):
        tail = ".".join(parts[start:])
        names = [name for name in (tail, f"visual.{tail}") if name in clip]
        if names:
            return names
    return []
