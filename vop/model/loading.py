"""An open_clip model by its configuration, with its weights: of a tag, of a file, or random."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from os.path import expanduser
from pathlib import Path

import open_clip
import torch
from torch import Tensor, nn

from vop.config import BackboneConfig, ConfigError
from vop.fingerprint import fingerprint
from vop.messages import one_line
from vop.model.architecture import FILE, NOT_A_VIT, PACKAGED, RANDOM, model_config, quick_gelu_of, refusal_of, tags_of
from vop.model.walkers import refusal
from vop.model.weights import read_state

OPENAI_ONLY = ("input_resolution", "context_length", "vocab_size")  # entries that only OpenAI's own archives carry
TRANSFORMERS = ("vision_model.", "text_model.", "model.vision_model.", "model.text_model.")  # so begin its tensors' names
FROM_TRANSFORMERS = (
    "backbone.pretrained: {0} is a checkpoint of Transformers, whose tensors have other names: give open_clip's file of the "
    "same weights (open_clip_model.safetensors, open_clip_pytorch_model.bin) or a tag of {1}"
)


def shape_of(config: BackboneConfig) -> nn.Module:
    """The model on torch's meta device, not to be changed. Raises ConfigError where prompts cannot enter it; nothing is
    downloaded.
    """
    known = model_config(config.name)
    quick_gelu_of(config)
    if reason := refusal_of(known):
        raise ConfigError(NOT_A_VIT.format(config.name, reason))
    try:
        clip = _shape(config.name, bool(config.quick_gelu), fingerprint(known))
    except (TypeError, ValueError, KeyError, AttributeError, AssertionError, RuntimeError) as error:
        raise ConfigError(f"backbone.name: open_clip cannot build {config.name}: {one_line(error)}") from error
    if reason := refusal(clip):
        raise ConfigError(NOT_A_VIT.format(config.name, reason))
    return clip


def with_weights(config: BackboneConfig) -> nn.Module:
    """The model on the CPU. Raises ConfigError for weights that are unknown, do not fit or cannot be downloaded."""
    if config.pretrained == RANDOM:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return _build(config.name, bool(quick_gelu_of(config)))
    file = file_of(config)
    return _from_file(config, file) if file else _from_tag(config)


def file_of(config: BackboneConfig) -> Path | None:
    """The file of weights that `pretrained` names, if it names one."""
    if config.pretrained in (RANDOM, FILE):
        return None
    with suppress(OSError, RuntimeError):  # a name too long, or of a home that is not there
        files = (Path(expanduser(config.pretrained)), PACKAGED / config.pretrained)
        return next((file for file in files if file.is_file()), None)
    return None


@lru_cache(maxsize=8)
def _shape(name: str, quick_gelu: bool, _architecture: str) -> nn.Module:
    with torch.device("meta"):
        return _build(name, quick_gelu, device="meta")


def _build(name: str, quick_gelu: bool, pretrained: str | None = None, device: str = "cpu") -> nn.Module:
    with quiet():
        clip: nn.Module = open_clip.create_model(name, pretrained, device=device, force_quick_gelu=quick_gelu)
    return clip


@contextmanager
def quiet() -> Iterator[None]:
    """open_clip logs each step, and warns about random weights, which are asked for here."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)


def check_tag(config: BackboneConfig) -> None:
    tags = tags_of(config.name)
    if (Path(expanduser(config.pretrained)) / "config.json").is_file():
        raise ConfigError(FROM_TRANSFORMERS.format(config.pretrained, config.name))
    if config.pretrained not in tags:
        raise ConfigError(
            f"backbone.pretrained: {config.pretrained!r} is neither a file nor a tag of {config.name}; "
            f"tags: {', '.join(tags) or 'none'}"
        )


def _from_tag(config: BackboneConfig) -> nn.Module:
    check_tag(config)
    needed = open_clip.get_pretrained_cfg(config.name, config.pretrained).get("quick_gelu", False)
    try:
        return _build(config.name, needed if config.quick_gelu is None else config.quick_gelu, config.pretrained)
    except (RuntimeError, OSError) as error:
        raise ConfigError(
            f"backbone.pretrained: the weights {config.pretrained!r} of {config.name} could not be downloaded: put their "
            f"file on this machine and give its path, backbone.pretrained=/path/to/{config.name}.safetensors "
            f"({one_line(error)})"
        ) from error


def _from_file(config: BackboneConfig, file: Path) -> nn.Module:
    state = state_of(file)
    if any(key.startswith(TRANSFORMERS) for key in state):
        raise ConfigError(FROM_TRANSFORMERS.format(file, config.name))
    clip = _build(config.name, quick_gelu_of_file(config, file, state))
    state = {key: value for key, value in state.items() if key not in (*OPENAI_ONLY, "attn_mask")}
    try:
        clip.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"backbone.pretrained: {file} does not hold the weights of {config.name}: {one_line(error)}"
        ) from error
    return clip


def state_of(file: Path) -> dict[str, Tensor]:
    try:
        return read_state(file)
    except Exception as error:  # torch and safetensors raise a dozen kinds for a file that is not theirs
        raise ConfigError(
            f"backbone.pretrained: {file} is not a file of weights that can be read without running code: {one_line(error)}"
        ) from error


def quick_gelu_of_file(config: BackboneConfig, file: Path, state: Mapping[str, Tensor]) -> bool:
    """Whether the weights of a file have OpenAI's activation. Raises ConfigError where nothing tells."""
    if config.quick_gelu is None and all(key in state for key in OPENAI_ONLY):
        return True
    if (known := quick_gelu_of(config)) is not None:
        return known
    raise ConfigError(
        f"backbone.quick_gelu: {file} does not tell which activation its weights were trained with, and {config.name} exists "
        "with both: say backbone.quick_gelu=true (OpenAI's weights, and others with `quickgelu` in their name) or "
        "backbone.quick_gelu=false (most of LAION's and DataComp's)"
    )
