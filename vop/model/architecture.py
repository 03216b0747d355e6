"""What a CLIP of open_clip is like, from its configuration alone: read without importing torch, which takes seconds."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vop.config import BackboneConfig, ConfigError, Experiment, layers_of

PACKAGED = Path(__file__).parents[1] / "backbones"
FEW = 16  # tokens of a caption: a sentence of a dozen words; below that much is cut off
NOT_A_VIT = "backbone.name: {} is not a ViT CLIP that prompts can enter: {} (docs/backbones.md lists those that are)"
RANDOM, FILE = "random", "file"  # what `backbone.pretrained` may be beside a tag and a path; FILE: of an adapter alone


@lru_cache(maxsize=16)
def layers_of_backbone(name: str) -> tuple[int, int]:
    """Layers of the text and of the visual encoder of an open_clip model. ConfigError if there is none of that name."""
    found = model_config(name)
    if reason := refusal_of(found):
        raise ConfigError(NOT_A_VIT.format(name, reason))
    text, visual = found["text_cfg"], found["vision_cfg"]
    layers = _blocks_of_timm(visual) if "timm_model_name" in visual else visual.get("layers", 12)
    return int(text.get("layers", 12)), int(layers)


def _blocks_of_timm(visual: dict[str, Any]) -> int:
    """Only a tower of timm itself tells how many blocks it has; 0 for one that is not made of them."""
    import timm

    return len(getattr(timm.create_model(visual["timm_model_name"], pretrained=False, device="meta"), "blocks", ()))


def refusal_of(config: dict[str, Any]) -> str:
    """Why prompts cannot enter a CLIP, as far as its configuration tells, as half a sentence; "" if nothing is against it."""
    text, visual = config.get("text_cfg") or {}, config.get("vision_cfg") or {}
    if not text or not visual or "multimodal_cfg" in config:
        return "it has other parts than a text tower and a visual one"
    if "hf_model_name" in text:
        return f"its text tower is {text['hf_model_name']} of Transformers"
    return "its visual tower is a ResNet" if isinstance(visual.get("layers"), list | tuple) else ""


def image_size(config: BackboneConfig) -> int:
    """Pixels of the model's square input. Raises ConfigError for an unknown name."""
    size = (model_config(config.name).get("vision_cfg") or {}).get("image_size", 224)
    return int(size[0] if isinstance(size, list | tuple) else size)


def context_length(config: BackboneConfig) -> int:
    """Tokens that a text may have, both ends included. Raises ConfigError for an unknown name."""
    return int((model_config(config.name).get("text_cfg") or {}).get("context_length", 77))


def is_causal(config: BackboneConfig) -> bool:
    """Whether a token of a text sees none after it, so that prompts take places. Raises ConfigError for an unknown name."""
    return not (model_config(config.name).get("text_cfg") or {}).get("no_causal_mask", False)


def caption_tokens(experiment: Experiment) -> int:
    """Tokens that text prompts leave for a caption, its two ends not counted. Raises ConfigError where none is left."""
    config, context = experiment.text_prompt, context_length(experiment.backbone)
    layers = layers_of(config.depth, layers_of_backbone(experiment.backbone.name)[0], "text_prompt.depth")
    taken = 0 in layers and is_causal(experiment.backbone)  # only in the first layer do they take a caption's places
    left = context - 2 - (config.length if taken else 0)
    if left < 1:
        raise ConfigError(
            f"text_prompt.length: {config.length} prompts leave {max(left, 0)} of the {context} tokens of a text for a caption "
            f"beside its start and end: all captions would be the same; at most {context - 3}, better {context - 2 - FEW}"
        )
    return left


def model_config(name: str) -> dict[str, Any]:
    """A model's configuration as open_clip has it, or as `vop/backbones/` has. Raises ConfigError for an unknown name.

    Addresses (`hf-hub:...`, `local-dir:...`) are unknown: open_clip would follow them and run code that they bring.
    """
    if name in _files():
        found: dict[str, Any] = json.loads(_files()[name].read_text(encoding="utf-8"))
        return found
    import open_clip  # to which a program may have added its own

    if name not in open_clip.list_models():
        raise ConfigError(
            f"backbone.name: open_clip has no model {name!r} in its list; for example ViT-B-32, ViT-B-16, ViT-L-14 (for other "
            "weights of one of them give their file: backbone.pretrained=/path/to/weights)"
        )
    return dict(open_clip.get_model_config(name))


@lru_cache
def _files() -> dict[str, Path]:
    """The configurations that lie in files, by name."""
    spec = find_spec("open_clip")
    places = [Path(place) / "model_configs" for place in (spec and spec.submodule_search_locations) or ()]
    return {file.stem: file for folder in (*places, PACKAGED) for file in folder.glob("*.json")}


def tags_of(name: str) -> list[str]:
    """The weights that need no path: of a model of open_clip its tags, of a packaged one its file."""
    import open_clip

    packaged = [file.name for file in PACKAGED.glob("*.safetensors") if file.stem == name]
    return [*packaged, *open_clip.list_pretrained_tags_by_model(name)]


def quick_gelu_of(config: BackboneConfig) -> bool | None:
    """Whether bare weights have OpenAI's activation; None where the architecture exists both ways and nothing tells which.

    Raises ConfigError for a choice that a model does not leave.
    """
    always = bool(model_config(config.name).get("quick_gelu"))
    if always and config.quick_gelu is False:
        raise ConfigError(f"backbone.quick_gelu: {config.name} always has OpenAI's activation; leave it out")
    if config.quick_gelu is not None or always:
        return always or config.quick_gelu
    return None if f"{config.name}-quickgelu" in _files() else False
