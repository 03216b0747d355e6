"""Which caches each field of an experiment renames: what can change their content must, what cannot must not.

A field that is not in the table fails: whoever adds one says here which caches depend on it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import open_clip
import pytest
from pydantic import BaseModel

from pipelines.data.activations import activations_of
from pipelines.data.options import store_options
from pipelines.data.store import read_manifest
from pipelines.search.search import index
from pipelines.sweep.record import key_of
from pipelines.sweep.space import FIXED
from tests.support.stores import write_store
from vop.benchmarks import Record
from vop.config import Experiment, Section, kind, kinds, load_experiment
from vop.fingerprint import fingerprint
from vop.model.adapter import adapter_of
from vop.model.retrieval import build_model
from vop.toy.videos import frames_of, plan, write_video

FRAMES, ACTIVATIONS, INDEX = "frame store", "activations", "search index"  # the index is kept in the frame store
STORED, TUNED, ALL = {FRAMES, INDEX}, {INDEX}, {FRAMES, ACTIVATIONS, INDEX}
VISUAL = {ACTIVATIONS, INDEX}
NONE: set[str] = set()

# Which caches a field renames. The benchmark does not rename activations: the files of its videos do.
RENAMES: dict[str, set[str]] = {
    "name": NONE,
    "seed": TUNED,
    "backbone.name": VISUAL,
    "backbone.pretrained": VISUAL,
    "backbone.quick_gelu": VISUAL,
    "backbone.preprocess": ALL,
    "benchmark.name": STORED,
    "benchmark.videos": STORED,
    "benchmark.annotations": STORED,
    "benchmark.encoding": STORED,
    "benchmark.shared_videos": NONE,
    "frames.count": ALL,
    "frames.sampling": ALL,
    "frames.candidates": STORED,
    "frames.fps": ALL,
    "frames.decoder": ALL,
    "frames.incomplete": ALL,
    "text_prompt.length": TUNED,
    "text_prompt.depth": TUNED,
    "text_prompt.suffix": TUNED,
    "video_prompt.name": TUNED,
    "video_prompt.length": TUNED,
    "video_prompt.depth": VISUAL,
    "video_encoder.split_layer": VISUAL,
    "tuning.name": VISUAL,
    "head.name": TUNED,
    "training.epochs": NONE,
    "training.batch_size": NONE,
    "training.captions_per_video": NONE,
    "training.learning_rate": NONE,
    "training.head_learning_rate": NONE,
    "training.weight_decay": NONE,
    "training.warmup": NONE,
    "training.loss": NONE,
    "training.precision": {ACTIVATIONS},
    "training.checkpointing": NONE,
    "training.chunk_size": NONE,
    "training.select": NONE,
    "data.cache": NONE,
    "data.store": ALL,
    "data.codec": ALL,
    "data.jpeg_quality": ALL,
    "data.ahead": NONE,
    "data.readers": NONE,
    "data.local_gb": NONE,
    "data.activations_gb": NONE,
    "data.max_failed_fraction": NONE,
    "resources.num_workers": NONE,
    "resources.cpus_per_worker": NONE,
    "resources.use_gpu": NONE,
    "resources.gpus_per_worker": NONE,
    "resources.max_failures": NONE,
    "tracking.experiment": NONE,
    "tracking.uri": NONE,
    "tracking.output": NONE,
}
OWN = {"benchmark": STORED, "video_prompt": TUNED, "tuning": TUNED, "head": TUNED}  # fields that a kind adds to its section

# What stands beside a field for it to have an effect, and a value of it that is not the default, where one must be chosen.
BESIDE = {
    "frames.candidates": ["frames.sampling=random"],
    "frames.fps": ["frames.sampling=fps"],
    "data.jpeg_quality": ["data.codec=jpeg"],
    "tuning.name": ["tuning.name=proj"],
    "training.loss": ["backbone.name=ViT-toy-with-a-bias", "backbone.pretrained=random"],
}
VALUES = {
    "backbone.name": "ViT-toy-of-other-heads",
    "backbone.pretrained": "random",
    "backbone.quick_gelu": "true",
    "backbone.preprocess": "ViT-B-16-SigLIP/webli",
    "benchmark.name": "gallery",
    "benchmark.encoding": "latin-1",
    "benchmark.shared_videos": "allow",
    "frames.sampling": "fps",
    "frames.decoder": "pyav",
    "frames.incomplete": "take",
    "text_prompt.depth": "2-12",
    "text_prompt.suffix": "2",
    "video_prompt.name": "position",
    "video_prompt.depth": "8-12",
    "video_encoder.split_layer": "7",
    "tuning.name": "partial",
    "head.name": "xpool",
    "data.codec": "jpeg",
    "resources.num_workers": "2-8",
    "resources.use_gpu": "false",
    "resources.gpus_per_worker": "0.5",
}


def leaves(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of an experiment by dotted key, with their types."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from leaves(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field.annotation


def own_fields() -> Iterator[tuple[str, str, Any]]:
    """Section, kind and type of every field that a kind adds; the other kinds' fields are those of its section."""
    for section in OWN:
        common = type(Experiment.model_fields[section].default).model_fields
        for name in kinds(section):
            config = getattr(kind(section, name), "Config", None)
            for field in config.model_fields if config else ():
                if field not in common:
                    yield section, name, field


def other(value: Any, annotation: Any) -> str:
    """Another value than this one, of its type, as an override has it."""
    types = [t for t in get_args(annotation) if t is not NoneType] if NoneType in get_args(annotation) else [annotation]
    if get_origin(types[0]) is Literal:
        return str(next(choice for choice in get_args(types[0]) if choice != value))
    if types[0] is bool:
        return str(not value).lower()
    if types[0] is int:
        return str((value or 0) + 1)
    return str((value or 1.0) / 2) if types[0] is float else f"{value}x"


FLIPS = {key: (BESIDE.get(key, []), key, VALUES.get(key), RENAMES.get(key)) for key, _ in leaves(Experiment)} | {
    f"{section}.{field} of {name}": ([f"{section}.name={name}"], f"{section}.{field}", None, OWN[section])
    for section, name, field in own_fields()
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the experiments of all fields keep their caches."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def known() -> dict[str, dict[str, str]]:
    """The caches of the experiments that many fields are compared with."""
    return {}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """Two videos; the model of another backbone name, with the toy's own weights in heads of another width."""
    folder = tmp_path_factory.mktemp("videos")
    toy = json.loads((Path(__file__).parents[1] / "vop" / "backbones" / "ViT-toy.json").read_text())
    config = {**toy, "vision_cfg": {**toy["vision_cfg"], "head_width": 32}}
    (folder / f"{VALUES['backbone.name']}.json").write_text(json.dumps(config))
    (folder / "ViT-toy-with-a-bias.json").write_text(json.dumps({**toy, "init_logit_bias": -10}))
    open_clip.add_model_config(folder)
    found = []
    for number, clip in enumerate(plan()[0][:2]):
        path = folder / f"{number}.mp4"
        write_video(path, [picture[:64, :64] for picture in frames_of(clip)[::6]], rate=8)
        found.append(Record(path.name, str(path), ("a clip",), "test"))
    return found


def experiment_of(work: Path, *overrides: str) -> Experiment:
    tree = {
        "backbone": {"name": "ViT-toy", "pretrained": "ViT-toy.safetensors"},
        "benchmark": {"name": "folder", "videos": str(work)},
        "frames": {"count": 4},
        "data": {"cache": str(work / "cache")},
    }
    untuned = any(override.startswith("tuning.name=") and override != "tuning.name=prompts" for override in overrides)
    return load_experiment(tree if untuned else {**tree, "video_prompt": {"depth": "9-12"}}, overrides)


def caches_of(experiment: Experiment, records: list[Record]) -> dict[str, str]:
    """The names of an experiment's caches, all of them really written; "" for one that it does not use."""
    store, model = write_store(experiment, records), build_model(experiment)
    reused = activations_of(model, experiment, store, records)
    for file in Path(store).glob("index-*"):
        file.unlink()
    index(model, adapter_of(model, experiment), store, read_manifest(store))
    (file,) = Path(store).glob("index-*")
    name = Path(store).name
    return {
        FRAMES: name,
        ACTIVATIONS: Path(reused.tokens_NFLD.filename).parent.name if reused else "",
        INDEX: f"{name}/{file.name}",
    }


def test_every_field_is_in_the_table() -> None:
    fields = dict(leaves(Experiment))
    assert fields.keys() == RENAMES.keys(), "say which caches a new field renames"
    assert BESIDE.keys() | VALUES.keys() <= fields.keys()
    assert any(key.endswith("of lora") for key in FLIPS) and any(key.endswith("of position") for key in FLIPS)


@pytest.mark.parametrize("flip", FLIPS)
def test_a_field_renames_the_caches_that_depend_on_it_and_no_other(
    flip: str, records: list[Record], work: Path, known: dict[str, dict[str, str]]
) -> None:
    beside, key, value, renamed = FLIPS[flip]
    before = experiment_of(work, *beside)
    section, _, field = key.rpartition(".")
    holder = getattr(before, section) if section else before
    value = value or other(getattr(holder, field), type(holder).model_fields[field].annotation)
    without = [override for override in beside if not override.startswith(f"{key}=")]
    after = experiment_of(work, *without, f"{key}={value}")
    assert before.flat()[key] != after.flat()[key]
    old = known.setdefault(str(beside), known.get(str(beside)) or caches_of(before, records))
    new = caches_of(after, records)
    assert {cache for cache in old if old[cache] != new[cache]} == renamed
    if not key.startswith(FIXED):  # a sweep may search it
        assert key_of({key: before.flat()[key]}, 0) != key_of({key: after.flat()[key]}, 0)


def test_activations_and_frames_follow_the_files(records: list[Record], tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path)
    moved = [Record(record.video_id, record.path, record.captions, "test", window=(0.0, 0.5)) for record in records]
    one, other = (caches_of(experiment_of(tmp_path / name), records) for name in ("one", "two"))
    assert one[ACTIVATIONS] == other[ACTIVATIONS] != caches_of(experiment, moved)[ACTIVATIONS]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [([], "0c4f9d470ac80aa5"), (["frames.sampling=fps", "data.codec=jpeg"], "a98616fa21d6cf62")],
)
def test_stores_of_earlier_versions_are_used(overrides: list[str], expected: str) -> None:
    assert fingerprint(store_options(load_experiment("", overrides), 224).identity) == expected


def test_what_was_indexed_by_earlier_versions_is_used() -> None:
    toy = load_experiment({"backbone": {"name": "ViT-toy", "pretrained": "ViT-toy.safetensors"}})
    assert fingerprint(build_model(toy).backbone.identity) == "96a5d0c2160f26aa"


def test_a_sweep_tells_its_points_and_seeds_apart() -> None:
    keys = [key_of(point, seed) for point in ({"method": "VoP"}, {"method": "VoP^F"}) for seed in (0, 1)]
    assert len(set(keys)) == 4
    assert key_of({"a": 1, "b": 2}, 0) == key_of({"b": 2, "a": 1}, 0)
    assert key_of({"method": "VoP"}, 0) == "74ac24047575ada9"  # sweeps of earlier versions go on
