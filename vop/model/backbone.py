"""The frozen CLIP: any ViT CLIP of open_clip, its tokenizer, its image constants, the hash of its weights."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from os.path import expanduser
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from vop.config import BackboneConfig, ConfigError
from vop.fingerprint import fingerprint
from vop.messages import one_line
from vop.model.architecture import FILE, PACKAGED, RANDOM, context_length, image_size, model_config, quick_gelu_of, tags_of
from vop.model.weights import read_state

PROBE = "A man's 2 DOGS &amp; a café: jump-ing, 3.5 m high! [naïve] 犬 🐕"  # two tokenizers that differ read it differently
LETTERS = 32  # of a text for each token that it may have: none has more, and a tokenizer's time grows with their square
NOT_A_VIT = "backbone.name: {} is not a ViT CLIP; prompts need one (ViT-B-32, ViT-B-16, ViT-L-14, ...)"
OPENAI_ONLY = ("input_resolution", "context_length", "vocab_size")  # entries that only OpenAI's own archives carry


def register_packaged_configs() -> None:
    """Make the model configurations in `vop/backbones/` known to open_clip by their file names."""
    open_clip.add_model_config(PACKAGED)


register_packaged_configs()


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

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that an embedding depends on of the backbone, as it is in use, JSON-ready: no names, no places.

        Adapters record it and caches are named after it. What is added to it later, an older adapter does not ask for.
        """
        blocks = [*self.clip.transformer.resblocks, *self.clip.visual.transformer.resblocks]
        return {
            "weights": self.weights,
            "activation": "+".join(dict.fromkeys(type(block.mlp.gelu).__name__ for block in blocks)),
            "heads": list(dict.fromkeys(block.attn.num_heads for block in blocks)),
            "size": self.size,
            "mean": list(self.mean),
            "std": list(self.std),
            "tokenizer": f"{type(self.tokenizer).__name__} {fingerprint(self.tokenize([PROBE], 77).tolist())}",
            "context_length": self.context_length,
        }

    @property
    def quick_gelu(self) -> bool:
        """Whether it has OpenAI's activation."""
        return bool(self.identity["activation"] == "QuickGELU")

    def of_its_own(self) -> Backbone:
        """The same backbone in modules and parameters of its own, for a tuning protocol to change; their values are shared."""
        shared = {id(p): nn.Parameter(p.data, p.requires_grad) for p in self.clip.parameters()}
        shared |= {id(buffer): buffer for buffer in self.clip.buffers()}
        return dataclasses.replace(self, clip=copy.deepcopy(self.clip, shared))

    def tokenize(self, captions: list[str], context_length: int) -> Tensor:
        """Token ids [M, context_length], int64, zero after the end token; a caption that is too long keeps its end token."""
        most = LETTERS * context_length
        short = [text if len(text) <= most else " ".join(text.split())[:most] for text in captions]
        tokens: Tensor = self.tokenizer(short, context_length=context_length)
        return tokens


def load_tokenizer(config: BackboneConfig) -> tuple[Any, int]:
    """The tokenizer and the context length of a model, without its weights. Raises ConfigError for an unknown name."""
    length = context_length(config)
    with _quiet():
        tokenizer = open_clip.get_tokenizer(config.name)
    return tokenizer, length


def load_backbone(config: BackboneConfig) -> Backbone:
    """Build the CLIP that `config` names with its weights, frozen, in eval mode, fp32, on the CPU.

    `pretrained` is an open_clip tag, a weights file (looked for as given, then among the packaged ones), or `random`
    (reproducible random weights). QuickGELU: `quick_gelu`, or else on for a tag that was trained with it and for OpenAI's own
    archive; a bare file of an architecture that exists both ways does not tell. Raises ConfigError for that, for an unknown
    name, for weights that are unknown, do not fit or cannot be downloaded, and for towers that are not a ViT and a causal
    text transformer.
    """
    _check_config(config)
    clip = _with_weights(config)
    return _backbone(config, clip, hash_weights(clip), load_tokenizer(config)[0])


def shared_backbone(config: BackboneConfig) -> Backbone:
    """`load_backbone`, once a process: what all models on the same weights share (`of_its_own`). Not to be changed.

    It is loaded again where another backbone was asked for in between (a CLIP may take gigabytes), or its file has changed.
    """
    wanted = _version(config, config.quick_gelu)
    if wanted not in _SHARED:
        _SHARED.clear()
        found = load_backbone(config)
        _SHARED.update({wanted: found, _version(config, found.quick_gelu): found})  # by its activation too: adapters give it
    return _SHARED[wanted]


_SHARED: dict[str, Backbone] = {}


def _version(config: BackboneConfig, quick_gelu: bool | None) -> str:
    file = _file_of(config)
    stamp = (file.stat().st_size, file.stat().st_mtime_ns) if file else ()
    return fingerprint([config.name, config.pretrained, model_config(config.name), str(file), *stamp, quick_gelu])


def shape_of_backbone(config: BackboneConfig) -> Backbone:
    """The CLIP that `config` names on torch's meta device: it has shapes but no values, no hash and no tokenizer.

    Nothing is downloaded. Raises ConfigError as `load_backbone`, but for the weights themselves.
    """
    _check_config(config)
    file = _file_of(config)
    if config.pretrained not in (RANDOM, FILE) and not file:
        _check_tag(config)
    if file and quick_gelu_of(config) is None:
        _quick_gelu(config, file, _state_of(file))
    with torch.device("meta"):
        return _backbone(config, _build(config.name, bool(config.quick_gelu), device="meta"), weights="", tokenizer=None)


def _backbone(config: BackboneConfig, clip: nn.Module, weights: str, tokenizer: Any) -> Backbone:
    _check_towers(config.name, clip)
    clip.requires_grad_(False).eval()
    preprocess = open_clip.get_model_preprocess_cfg(clip)
    return Backbone(
        clip=clip,
        tokenizer=tokenizer,
        size=image_size(config),
        mean=tuple(preprocess["mean"]),
        std=tuple(preprocess["std"]),
        context_length=context_length(config),
        weights=weights,
    )


def hash_weights(module: nn.Module) -> str:
    """SHA-256 over the names, shapes and fp32 bytes of a module's state."""
    return hash_tensors(module.state_dict())


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, shapes and fp32 bytes of tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _with_weights(config: BackboneConfig) -> nn.Module:
    if config.pretrained == RANDOM:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return _build(config.name, bool(quick_gelu_of(config)))
    file = _file_of(config)
    return _from_file(config, file) if file else _from_tag(config)


def _file_of(config: BackboneConfig) -> Path | None:
    """The file of weights that `pretrained` names, if it names one."""
    if config.pretrained in (RANDOM, FILE):
        return None
    with suppress(OSError, RuntimeError):  # a name too long, or of a home that is not there
        files = (Path(expanduser(config.pretrained)), PACKAGED / config.pretrained)
        return next((file for file in files if file.is_file()), None)
    return None


def _build(name: str, quick_gelu: bool, pretrained: str | None = None, device: str = "cpu") -> nn.Module:
    with _quiet():
        clip: nn.Module = open_clip.create_model(name, pretrained, device=device, force_quick_gelu=quick_gelu)
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


def _check_tag(config: BackboneConfig) -> None:
    tags = tags_of(config.name)
    if config.pretrained not in tags:
        raise ConfigError(
            f"backbone.pretrained: {config.pretrained!r} is neither a file nor a tag of {config.name}; "
            f"tags: {', '.join(tags) or 'none'}"
        )


def _from_tag(config: BackboneConfig) -> nn.Module:
    _check_tag(config)
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
    state = _state_of(file)
    clip = _build(config.name, _quick_gelu(config, file, state))
    state = {key: value for key, value in state.items() if key not in (*OPENAI_ONLY, "attn_mask")}
    try:
        clip.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"backbone.pretrained: {file} does not hold the weights of {config.name}: {one_line(error)}"
        ) from error
    return clip


def _state_of(file: Path) -> dict[str, Tensor]:
    try:
        return read_state(file)
    except Exception as error:  # torch and safetensors raise a dozen kinds for a file that is not theirs
        raise ConfigError(
            f"backbone.pretrained: {file} is not a file of weights that can be read without running code: {one_line(error)}"
        ) from error


def _quick_gelu(config: BackboneConfig, file: Path, state: Mapping[str, Tensor]) -> bool:
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


def _check_config(config: BackboneConfig) -> None:
    """Raise ConfigError for a name without a ViT CLIP behind it, before a library is asked to build or fetch anything."""
    known = model_config(config.name)
    if "timm_model_name" in known["vision_cfg"] or "hf_model_name" in known["text_cfg"]:
        raise ConfigError(NOT_A_VIT.format(config.name))
    quick_gelu_of(config)


def _check_towers(name: str, clip: nn.Module) -> None:
    visual = getattr(clip, "visual", None)
    causal = getattr(clip, "attn_mask", None) is not None and getattr(clip, "text_pool_type", "") == "argmax"
    plain = getattr(visual, "pool_type", "") == "tok" and getattr(visual, "attn_pool", None) is None
    if not isinstance(clip, open_clip.CLIP) or not isinstance(visual, open_clip.transformer.VisionTransformer):
        raise ConfigError(NOT_A_VIT.format(name))
    if not (causal and plain):
        raise ConfigError(f"backbone.name: {name} does not read its class token and its end-of-text token as CLIP does")
