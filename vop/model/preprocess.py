"""How a frame becomes the pixels that a CLIP was trained on: a property of its weights, not of its architecture.

open_clip keeps it by the tag of the weights; a model that is built without its tag has OpenAI's, whatever it was trained on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from vop.config import BackboneConfig, ConfigError
from vop.model.architecture import FILE, PACKAGED, RANDOM, tags_of

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Preprocess:
    """mean, std: RGB, of values in 0..1. The defaults are OpenAI's (Radford et al., ICML 2021).

    resize: "shortest" shrinks the short side to the model's size and takes the central square, "squash" shrinks both sides to
    it, whatever becomes of the aspect. interpolation: "bicubic" or "bilinear".
    """

    mean: Colour = (0.48145466, 0.4578275, 0.40821073)
    std: Colour = (0.26862954, 0.26130258, 0.27577711)
    interpolation: str = "bicubic"
    resize: str = "shortest"

    @property
    def unusual(self) -> dict[str, str]:
        """How frames are resized, where not as OpenAI's are: what was made before there were others does not speak of it."""
        default = Preprocess()
        return {key: value for key, value in asdict(self).items() if key in RESIZING and value != getattr(default, key)}


RESIZING = ("interpolation", "resize")
OPENAI = "openai"


def preprocess_of(config: BackboneConfig) -> Preprocess:
    """What belongs to the weights that `config` names: of their tag, or of `backbone.preprocess`.

    Of a file: what all tags of its architecture agree on. Raises ConfigError where they do not, or for an unknown tag.
    """
    if config.preprocess is not None:
        return _named(config)
    if (PACKAGED / f"{config.name}.json").is_file():  # without importing open_clip, which takes seconds
        return Preprocess()
    tags = tags_of(config.name)
    if config.pretrained in tags:
        return _of_tag(config.name, config.pretrained)
    known = {tag: _of_tag(config.name, tag) for tag in tags}
    distinct = list(dict.fromkeys(known.values()))
    if len(distinct) < 2 or config.pretrained in (RANDOM, FILE):
        return distinct[0] if len(distinct) == 1 else Preprocess()
    alike = [", ".join(tag for tag in tags if known[tag] == one) for one in distinct]
    raise ConfigError(
        f"backbone.preprocess: {config.pretrained} does not tell how the frames that its weights were trained on were resized "
        f"and normalized, and {config.name} exists in {len(distinct)} ways: say the tag that it is like, backbone.preprocess="
        f"{next(iter(tags))} or another ({'; '.join(alike)})"
    )


def _named(config: BackboneConfig) -> Preprocess:
    """Of `backbone.preprocess`: TAG of the same architecture, NAME/TAG of another, or `openai`."""
    name, _, tag = (config.preprocess or "").rpartition("/")
    if (name, tag) == ("", OPENAI):
        return Preprocess()
    if tag in (tags := tags_of(name or config.name)):
        return _of_tag(name or config.name, tag)
    raise ConfigError(
        f"backbone.preprocess: {config.preprocess!r} is no tag of {name or config.name}; valid: {OPENAI}, NAME/TAG of another "
        f"model, and its own: {', '.join(tags) or 'none'}"
    )


def _of_tag(name: str, tag: str) -> Preprocess:
    import open_clip

    said: dict[str, Any] = open_clip.get_pretrained_cfg(name, tag)
    default = Preprocess()
    return Preprocess(
        mean=tuple(said.get("mean") or default.mean),
        std=tuple(said.get("std") or default.std),
        interpolation=said.get("interpolation") or default.interpolation,
        resize=said.get("resize_mode") or default.resize,
    )
