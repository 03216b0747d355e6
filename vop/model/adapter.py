"""What is saved and shared of a tuned model: `adapter.safetensors` (the trained tensors) and `adapter.json` (all else).

With the backbone the two rebuild the model; the frozen weights are never written. They say what the model is and nothing of
where data, caches, runs and servers are: that is said by whoever uses them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from os import PathLike
from os.path import expanduser
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from vop.config import ConfigError, Experiment, HeadConfig, Tree, validated
from vop.errors import AdapterError
from vop.fingerprint import fingerprint
from vop.messages import one_line
from vop.model.architecture import FILE, RANDOM, tags_of
from vop.model.backbone import Backbone, hash_tensors, shared_backbone
from vop.model.card import CARD, FORMAT, PEFT_TENSORS, SHOWN, TENSORS, check_header, file_of, read_card
from vop.model.hub import fetched, is_hub
from vop.model.low_rank import check_config, from_peft, is_peft, peft_shapes
from vop.model.preprocess import OPENAI, preprocess_of
from vop.model.retrieval import RetrievalModel, build_model, shape_of_model
from vop.places import told
from vop.secrets import masked_tree

MODEL = ("name", "seed", "backbone", "frames", "text_prompt", "video_prompt", "video_encoder", "tuning", "head")
FRAMES = ("count", "sampling", "candidates", "fps")  # which frames; how files are read is this machine's business


@dataclass(frozen=True)
class Adapter:
    """A trained state: the identity of the backbone that it belongs to, the tensors by name, and an experiment.

    Of the experiment only the model comes from the adapter's files; the rest is what `load_adapter` was given.
    """

    experiment: Experiment
    backbone: dict[str, Any]
    tensors: dict[str, Tensor]
    notes: dict[str, Any] = field(default_factory=dict)  # metrics, epoch, what it was trained on: for people

    @property
    def fingerprint(self) -> str:
        """Another one where this model could give another embedding of the same frames or text."""
        # The seed is that of whatever a tuning protocol adds and leaves as it is.
        # The default head is left out: what was indexed before there were others stays so.
        head = {"head"} if self.experiment.head != HeadConfig() else set()
        sections = {"seed", "text_prompt", "video_prompt", "video_encoder", "tuning"} | head
        settings = self.experiment.model_dump(mode="json", include=sections)
        return fingerprint([self.backbone, self.experiment.frames.count, settings, hash_tensors(self.tensors)])


def adapter_of(model: RetrievalModel, experiment: Experiment, **notes: Any) -> Adapter:
    """A copy on the CPU of what is trained in a model; its experiment says whether CLIP ran with QuickGELU.

    A file of weights does not tell, so without that the same weights from another file could give other scores.
    """
    backbone = experiment.backbone.model_copy(update={"quick_gelu": model.backbone.quick_gelu})
    experiment = experiment.model_copy(update={"backbone": backbone})
    tensors = {name: p.detach().cpu().clone().contiguous() for name, p in model.trainable().items()}
    return Adapter(experiment, model.backbone.identity, tensors, {**notes, "trained_on": _trained_on(experiment)})


def _trained_on(experiment: Experiment) -> Tree:
    """For people: the benchmark, without its places, and how it was trained."""
    benchmark = experiment.benchmark.model_dump(mode="json", exclude={"videos", "annotations"})
    return {"benchmark": masked_tree(benchmark), "training": experiment.training.model_dump(mode="json")}


def settings_of(experiment: Experiment) -> Tree:
    """The model's part of an experiment. Weights that are neither a tag nor packaged are `file`, whose hash is known."""
    tree = experiment.model_dump(mode="json", include=set(MODEL))
    tree["frames"] = {key: tree["frames"][key] for key in FRAMES}
    backbone = tree["backbone"]
    if backbone["pretrained"] not in (RANDOM, *tags_of(backbone["name"])):
        backbone["pretrained"] = FILE
    return tree


def save_adapter(adapter: Adapter, folder: str | PathLike[str]) -> Path:
    """Write an adapter's two files into `folder`; returns the folder. Raises PlaceError where it cannot be written."""
    folder = Path(expanduser(folder))
    with told(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TENSORS).write_bytes(save(adapter.tensors))
    write_card(adapter, folder)
    return folder


def write_card(adapter: Adapter, folder: Path) -> None:
    """Write an adapter's `adapter.json`. Raises PlaceError where it cannot be written."""
    card = {
        "format": FORMAT,
        "backbone": adapter.backbone,
        "tensors": {name: list(tensor.shape) for name, tensor in adapter.tensors.items()},
        "model": settings_of(adapter.experiment),
        "notes": masked_tree(adapter.notes),
    }
    with told(str(folder)):
        (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def load_adapter(folder: str | PathLike[str], rest: Experiment | None = None) -> Adapter:
    """Read an adapter, which may be a stranger's: its files decide the model, and are checked against it before it is built.

    folder: or a model of the Hugging Face hub, `hf://ORG/NAME[@REVISION]`. Where it has no `adapter.safetensors`, its tensors
    may be in PEFT's layout (`vop/model/low_rank.py`).
    rest: the experiment that says all else, and where the weights are if they are a file; by default this program's defaults.
    Raises AdapterError, which names the file and what is wrong with it.
    """
    folder = fetched(str(folder)) if is_hub(folder) else Path(expanduser(folder))
    peft = is_peft(folder)
    for name in (PEFT_TENSORS if peft else TENSORS, CARD):
        file_of(folder, name)
    card = read_card(folder)
    try:
        settings = _settings(card.model, card.format == FORMAT)
        experiment = with_model(rest or Experiment(), settings)
        model = shape_of_model(experiment)
        expected = {name: list(p.shape) for name, p in model.trainable().items()}
    except (ConfigError, RuntimeError, TypeError, ValueError, OverflowError, MemoryError, RecursionError, OSError) as error:
        raise AdapterError(f"{folder / CARD}: {one_line(error)[:SHOWN]}") from None
    if peft:
        check_config(folder, experiment, expected)
    file = check_header(folder, peft_shapes(expected), PEFT_TENSORS) if peft else check_header(folder, expected)
    try:
        tensors = load_file(file) if expected else {}
    except (SafetensorError, OSError, ValueError) as error:
        raise AdapterError(f"{file} is not a whole file of safetensors: {one_line(error)[:SHOWN]}") from None
    if broken := next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None):
        raise AdapterError(f"{file}: tensor {broken} has values that are not finite")
    tensors = from_peft(tensors, expected) if peft else tensors
    backbone = card.backbone if card.format > 1 else {**card.backbone, **_activation(experiment)}
    return Adapter(experiment, backbone, tensors, card.notes)


def _settings(said: Tree, strict: bool) -> Tree:
    """What a card says of its model, with every default. strict: it may hold nothing else; older ones hold an experiment."""
    if strict and (unknown := sorted(said.keys() - set(MODEL))):
        raise ConfigError(f"model.{unknown[0]}: this version has no such part of a model")
    settings = {key: said[key] for key in MODEL if key in said}
    if isinstance(settings.get("frames"), dict):
        settings["frames"] = {key: value for key, value in settings["frames"].items() if key in FRAMES}
    experiment = validated(settings)
    tree, backbone = settings_of(experiment), experiment.backbone
    told = "preprocess" in (settings.get("backbone") or {})
    if not told and (tree["backbone"]["pretrained"] == FILE or preprocess_of(backbone).unusual):
        tree["backbone"]["preprocess"] = OPENAI  # it is of before there was another
    return tree


def with_model(rest: Experiment, settings: Tree) -> Experiment:
    """An experiment with another model; the weights of one that belongs to a file stay where `rest` has theirs."""
    tree = rest.tree()
    backbone = dict(settings["backbone"])
    own = settings_of(rest)["backbone"]
    if backbone["pretrained"] == own["pretrained"] == FILE:
        backbone["pretrained"] = rest.backbone.pretrained
    return validated({**tree, **settings, "backbone": backbone, "frames": {**tree["frames"], **settings["frames"]}})


def _activation(experiment: Experiment) -> dict[str, str]:
    """What a card of format 1 tells of its backbone beside the hash."""
    quick = experiment.backbone.quick_gelu
    return {} if quick is None else {"activation": "QuickGELU" if quick else "GELU"}


def model_of(adapter: Adapter, backbone: Backbone | None = None) -> RetrievalModel:
    """Rebuild the tuned model on the CPU. Raises AdapterError where backbone, tensor names or shapes do not match."""
    config = adapter.experiment.backbone
    if backbone is None and config.pretrained == FILE:
        raise AdapterError(
            f"the adapter belongs to weights of {config.name} that open_clip does not have (SHA-256 of the tensors "
            f"{_short(adapter.backbone.get('weights'))}): give their file, backbone.pretrained=/path/to/weights"
        )
    backbone = backbone or shared_backbone(config)
    _refuse_another(adapter, backbone.identity)
    model = build_model(adapter.experiment, backbone)
    load_tensors(model, adapter.tensors)
    return model


def _refuse_another(adapter: Adapter, found: dict[str, Any]) -> None:
    """Raise AdapterError for a backbone that is not the adapter's, as far as its card tells."""
    differing = {name: value for name, value in adapter.backbone.items() if found.get(name) != value}
    if differing:
        config = adapter.experiment.backbone
        expected = [_short(value) if name == "activation" else f"{name} {_short(value)}" for name, value in differing.items()]
        raise AdapterError(
            f"the adapter belongs to backbone {config.name} ({config.pretrained}) with {', '.join(expected)}, "
            f"found {', '.join(_short(found.get(name)) for name in differing)}"
        )


def _short(value: Any) -> str:
    """A value of an identity for a message; of a hash the start."""
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)[:SHOWN]


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
