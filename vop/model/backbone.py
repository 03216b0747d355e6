"""The frozen CLIP: any ViT CLIP of open_clip, its tokenizer, its image constants, the hash of its weights."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from vop.config import BackboneConfig, ConfigError
from vop.fingerprint import fingerprint
from vop.messages import one_line
from vop.model.architecture import FILE, PACKAGED, RANDOM, context_length, image_size, model_config, quick_gelu_of
from vop.model.check import check_walk
from vop.model.loading import check_tag, file_of, quick_gelu_of_file, quiet, shape_of, state_of, with_weights
from vop.model.preprocess import Preprocess, preprocess_of
from vop.model.walkers import is_openai_like, text_of, visual_of

PROBE = "A man's 2 DOGS &amp; a café: jump-ing, 3.5 m high! [naïve] 犬 🐕"  # two tokenizers that differ read it differently
LETTERS = 32  # of a text for each token that it may have: none has more, and a tokenizer's time grows with their square


def register_packaged_configs() -> None:
    """Make the model configurations in `vop/backbones/` known to open_clip by their file names."""
    open_clip.add_model_config(PACKAGED)


register_packaged_configs()


@dataclass(frozen=True)
class Backbone:
    """A frozen CLIP and what belongs to it, all read from open_clip.

    size: pixels of the square input; context_length: tokens of a text, both ends included; weights: SHA-256 of the weights
    (names, shapes and values); towers: a hash of the configuration of a CLIP that is not built like OpenAI's, else "".
    """

    clip: open_clip.CLIP
    tokenizer: Any
    size: int
    preprocess: Preprocess
    context_length: int
    weights: str
    towers: str = ""

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that an embedding depends on of the backbone, as it is in use, JSON-ready: no names, no places.

        Adapters record it and caches are named after it. What is added to it later, an older adapter does not ask for.
        """
        blocks = [(tower, block) for tower in (text_of(self.clip), visual_of(self.clip)) for block in tower.blocks]
        return {
            "weights": self.weights,
            "activation": "+".join(dict.fromkeys(type(tower.activation(block)).__name__ for tower, block in blocks)),
            "heads": list(dict.fromkeys(block.attn.num_heads for _, block in blocks)),
            "size": self.size,
            "mean": list(self.preprocess.mean),
            "std": list(self.preprocess.std),
            "tokenizer": f"{type(self.tokenizer).__name__} {fingerprint(self.tokenize([PROBE], 77).tolist())}",
            "context_length": self.context_length,
            **self.preprocess.unusual,
            **({"towers": self.towers} if self.towers else {}),
        }

    @property
    def quick_gelu(self) -> bool:
        """Whether it has OpenAI's activation."""
        return "QuickGELU" in self.identity["activation"].split("+")

    def of_its_own(self) -> Backbone:
        """The same backbone in modules and parameters of its own, for a tuning protocol to change; their values are shared."""
        shared = {id(p): nn.Parameter(p.data, p.requires_grad) for p in self.clip.parameters()}
        shared |= {id(buffer): buffer for buffer in self.clip.buffers()}
        return dataclasses.replace(self, clip=copy.deepcopy(self.clip, shared))

    def tokenize(self, captions: list[str], context_length: int) -> Tensor:
        """Token ids [M, context_length], int64, padding after the end token; a caption that is too long keeps its end token."""
        most = LETTERS * context_length
        short = [text if len(text) <= most else " ".join(text.split())[:most] for text in captions]
        tokens: Tensor = self.tokenizer(short, context_length=context_length)
        text_of(self.clip).check(tokens)
        return tokens


def load_tokenizer(config: BackboneConfig) -> tuple[Any, int]:
    """The tokenizer and the context length of a model, without its weights.

    Raises ConfigError for an unknown name, and for a tokenizer of Transformers that is not on this machine.
    """
    length = context_length(config)
    source = (model_config(config.name).get("text_cfg") or {}).get("hf_tokenizer_name")
    try:
        with quiet():
            tokenizer = open_clip.get_tokenizer(config.name)
    except ImportError as error:
        raise ConfigError(
            f"backbone.name: {config.name} reads texts with a tokenizer of Transformers: pip install 'vop[transformers]' "
            f"({one_line(error)})"
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"backbone.name: the tokenizer of {config.name}, {source}, could not be downloaded: bring it into Hugging Face's "
            f"cache of this machine ({one_line(error)})"
        ) from error
    return tokenizer, length


def load_backbone(config: BackboneConfig) -> Backbone:
    """Build the CLIP that `config` names with its weights, frozen, in eval mode, fp32, on the CPU.

    `pretrained` is an open_clip tag, a weights file (looked for as given, then among the packaged ones), or `random`
    (reproducible random weights). QuickGELU: `quick_gelu`, or else on for a tag that was trained with it and for OpenAI's own
    archive; a bare file of an architecture that exists both ways does not tell. Raises ConfigError for that, for an unknown
    name, for weights that are unknown, do not fit or cannot be downloaded, and for a CLIP that is not walked: before
    anything is downloaded if its structure shows it, else as soon as its own encoders give other embeddings.
    """
    _shape(config)
    preprocess_of(config)
    tokenizer = load_tokenizer(config)[0]
    clip = with_weights(config).eval()
    check_walk(config.name, clip, image_size(config))
    return _backbone(config, clip, hash_weights(clip), tokenizer)


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
    file = file_of(config)
    stamp = (file.stat().st_size, file.stat().st_mtime_ns) if file else ()
    said = [config.name, config.pretrained, config.preprocess, model_config(config.name)]
    return fingerprint([*said, str(file), *stamp, quick_gelu])


def shape_of_backbone(config: BackboneConfig) -> Backbone:
    """The CLIP that `config` names on torch's meta device: it has shapes but no values, no hash and no tokenizer.

    Nothing is downloaded. Raises ConfigError as `load_backbone`, but for the weights themselves.
    """
    clip, file = _shape(config), file_of(config)
    if file and quick_gelu_of(config) is None:
        quick_gelu_of_file(config, file, state_of(file))
    with torch.device("meta"):
        return _backbone(config, clip, weights="", tokenizer=None)


def _shape(config: BackboneConfig) -> nn.Module:
    clip = shape_of(config)
    if config.pretrained not in (RANDOM, FILE) and not file_of(config):
        check_tag(config)
    return clip


def _backbone(config: BackboneConfig, clip: nn.Module, weights: str, tokenizer: Any) -> Backbone:
    return Backbone(
        clip=clip.requires_grad_(False).eval(),
        tokenizer=tokenizer,
        size=image_size(config),
        preprocess=preprocess_of(config),
        context_length=context_length(config),
        weights=weights,
        towers="" if is_openai_like(clip) else fingerprint(model_config(config.name)),
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
