"""The frozen CLIP: any ViT CLIP of open_clip, its tokenizer, its image constants, the hash of its weights."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vop.config import BackboneConfig, ConfigError

PACKAGED = Path(__file__).parent / "backbones"
OPENAI_ONLY = ("input_resolution", "context_length", "vocab_size")  # entries that only OpenAI's own archives carry


def register_packaged_configs() -> None:
    """Make the model configurations in `vop/backbones/` known to open_clip by their file names."""
    open_clip.add_model_config(PACKAGED)


@lru_cache(maxsize=16)
def layers_of_backbone(name: str) -> tuple[int, int]:
    """Layers of the text and of the visual encoder of an open_clip model; nothing is loaded. ConfigError if there is none."""
    register_packaged_configs()
    found = open_clip.get_model_config(name)
    if found is None:
        raise ConfigError(f"backbone.name: open_clip has no model {name!r}")
    layers = found["vision_cfg"]["layers"]
    return int(found["text_cfg"]["layers"]), int(layers if isinstance(layers, int) else sum(layers))


@dataclass(frozen=True)
class Backbone:
    """A frozen CLIP and what belongs to it, all read from open_clip.

    size: pixels of the square input; mean, std: RGB, of values in 0..1; context_length: tokens of a text, both ends
    included; weights: SHA-256 of the weights (names, shapes and values).
    """

    clip: open_clip.CLIP
    tokenizer: Any
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    context_length: int
    weights: str

    def tokenize(self, captions: list[str], context_length: int) -> Tensor:
        """Token ids [M, context_length], int64, zero after the end token; a caption that is too long keeps its end token."""
        tokens: Tensor = self.tokenizer(captions, context_length=context_length)
        return tokens


def image_size(config: BackboneConfig) -> int:
    """Pixels of the model's square input, from its configuration alone. Raises ConfigError for an unknown name."""
    register_packaged_configs()
    found = open_clip.get_model_config(config.name)
    if found is None:
        raise ConfigError(f"backbone.name: open_clip has no model {config.name!r}; for example ViT-B-32, ViT-B-16, ViT-L-14")
    size = found["vision_cfg"].get("image_size", 224)
    return int(size[0] if isinstance(size, list | tuple) else size)


def load_tokenizer(config: BackboneConfig) -> tuple[Any, int]:
    """The tokenizer and the context length of a model, without its weights. Raises ConfigError for an unknown name."""
    image_size(config)
    with _quiet():
        tokenizer = open_clip.get_tokenizer(config.name)
    return tokenizer, open_clip.get_model_config(config.name)["text_cfg"].get("context_length", 77)


def load_backbone(config: BackboneConfig) -> Backbone:
    """Build the CLIP that `config` names with its weights, frozen, in eval mode, fp32, on the CPU.

    `pretrained` is an open_clip tag, a weights file (looked for as given, then among the packaged ones), or `random`
    (reproducible random weights). QuickGELU: `quick_gelu`, or else on for a tag that was trained with it and for a file of
    OpenAI's (its own archive, or "openai" in its path: a converted file does not tell). Raises ConfigError for an unknown
    name, for weights that are unknown, do not fit or cannot be downloaded, and for towers that are not a ViT and a causal
    text transformer.
    """
    size = image_size(config)
    clip = _with_weights(config)
    _check_towers(config.name, clip)
    clip.requires_grad_(False).eval()
    preprocess = open_clip.get_model_preprocess_cfg(clip)
    tokenizer, context_length = load_tokenizer(config)
    return Backbone(
        clip=clip,
        tokenizer=tokenizer,
        size=size,
        mean=tuple(preprocess["mean"]),
        std=tuple(preprocess["std"]),
        context_length=context_length,
        weights=hash_weights(clip),
    )


def hash_weights(module: nn.Module) -> str:
    """SHA-256 over the names, shapes and fp32 bytes of a module's state."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _with_weights(config: BackboneConfig) -> nn.Module:
    if config.pretrained == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return _build(config.name, bool(config.quick_gelu))
    for path in (Path(config.pretrained).expanduser(), PACKAGED / config.pretrained):
        if path.is_file():
            return _from_file(config, path)
    return _from_tag(config)


def _build(name: str, quick_gelu: bool, pretrained: str | None = None) -> nn.Module:
    with _quiet():
        clip: nn.Module = open_clip.create_model(name, pretrained, force_quick_gelu=quick_gelu)
    return clip


@contextmanager
def _quiet() -> Iterator[None]:
    """open_clip logs each step, and warns about random weights, which are asked for here."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)


def _from_tag(config: BackboneConfig) -> nn.Module:
    tags = open_clip.list_pretrained_tags_by_model(config.name)
    if config.pretrained not in tags:
        raise ConfigError(
            f"backbone.pretrained: {config.pretrained!r} is neither a file nor a tag of {config.name}; "
            f"tags: {', '.join(tags) or 'none'}"
        )
    needed = open_clip.get_pretrained_cfg(config.name, config.pretrained).get("quick_gelu", False)
    try:
        return _build(config.name, _first_not_none(config.quick_gelu, needed), config.pretrained)
    except (RuntimeError, OSError) as error:
        raise ConfigError(
            f"backbone.pretrained: the weights {config.pretrained!r} of {config.name} could not be downloaded: put their "
            f"file on this machine and give its path, backbone.pretrained=/path/to/{config.name}.safetensors ({error})"
        ) from error


def _from_file(config: BackboneConfig, file: Path) -> nn.Module:
    try:
        state = _read_state(file)
    except Exception as error:  # torch and safetensors raise a dozen kinds for a file that is not theirs
        raise ConfigError(f"backbone.pretrained: {file} is not a file of weights that torch can read: {error}") from error
    is_openai = all(key in state for key in OPENAI_ONLY) or "openai" in str(file).lower()
    clip = _build(config.name, _first_not_none(config.quick_gelu, is_openai))
    state = {key: value for key, value in state.items() if key not in (*OPENAI_ONLY, "attn_mask")}
    try:
        clip.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(f"backbone.pretrained: {file} does not hold the weights of {config.name}: {error}") from error
    return clip


def _read_state(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        return load_file(file)
    try:
        archive = torch.jit.load(file, map_location="cpu")  # OpenAI's own .pt files are TorchScript
    except RuntimeError:
        state = torch.load(file, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        return {key.removeprefix("module."): value for key, value in state.items()}
    return dict(archive.state_dict())


def _first_not_none(choice: bool | None, otherwise: bool) -> bool:
    return otherwise if choice is None else choice


def _check_towers(name: str, clip: nn.Module) -> None:
    visual = getattr(clip, "visual", None)
    causal = getattr(clip, "attn_mask", None) is not None and getattr(clip, "text_pool_type", "") == "argmax"
    plain = getattr(visual, "pool_type", "") == "tok" and getattr(visual, "attn_pool", None) is None
    if not isinstance(clip, open_clip.CLIP) or not isinstance(visual, open_clip.transformer.VisionTransformer):
        raise ConfigError(f"backbone.name: {name} is not a ViT CLIP; prompts need one (ViT-B-32, ViT-B-16, ViT-L-14, ...)")
    if not (causal and plain):
        raise ConfigError(f"backbone.name: {name} does not read its class token and its end-of-text token as CLIP does")
