"""Faults of data on disk: damaged shards, activations and indexes, full disks. No Ray: a store is decoded in this process."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from pipelines.data.activations import activations_of
from pipelines.data.examine import examine
from pipelines.data.options import store_folder
from pipelines.data.prepare import prepare
from pipelines.data.store import read_manifest, read_videos
from tests.chaos.kind import Kind, Skipped
from tests.support.recipe import recipe
from tests.support.stores import DAMAGE, decode_here
from tests.support.videos import write_clips
from vop.config import Experiment
from vop.errors import AdapterError
from vop.model.adapter import adapter_of, load_adapter, save_adapter
from vop.model.retrieval import RetrievalModel, build_model
from vop.places import PlaceError

SIZE = 64
REUSED = "video_prompt.depth=9-12"  # the layers below are the same in every epoch


@cache
def videos() -> Path:
    """The clips, written once."""
    return write_clips(Path(mkdtemp(prefix="vop-chaos-videos-")))


def numbers(experiment: Experiment) -> list[str]:
    """What a training gets to see, as hashes: pixels of every video, and what frozen layers make of those it trains on."""
    with patch("pipelines.data.decode.decode", decode_here):
        folder = prepare(experiment, SIZE).folder
    pixels, mask = read_videos(folder, [record.video_id for record in read_manifest(folder)])
    return [_hash(pixels), _hash(mask)]


def with_reuse(experiment: Experiment) -> list[str]:
    """The same, with what frozen layers make of the training videos, from their cache where there is room for it."""
    found, folder = numbers(experiment), store_folder(experiment, SIZE)
    train = [record.video_id for record in read_manifest(folder, "train")]
    reused = activations_of(model(), experiment, folder, read_manifest(folder, "train"))
    if reused is None:
        with torch.no_grad():
            tokens = model().activations(torch.from_numpy(read_videos(folder, train)[0])).numpy()
        return [*found, _hash(tokens.round(3))]
    reused.fill(model())
    return [*found, _hash(reused.read(train)[0].round(3))]


def _hash(array: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(array + 0).tobytes()).hexdigest()[:16]


@cache
def model() -> RetrievalModel:
    """A model most of whose layers are frozen."""
    torch.set_num_threads(1)
    return build_model(recipe(videos(), Path(), REUSED))


@cache
def right() -> list[str]:
    """The undisturbed numbers."""
    return with_reuse(recipe(videos(), Path(mkdtemp(prefix="vop-chaos-right-")), REUSED))


def damaged_shard(how: Callable[[Path, Random], None], rng: Random, work: Path) -> None:
    """Damaged between two commands: the second computes the same; nothing partial is left, and then the store is whole."""
    experiment = recipe(videos(), work)
    numbers(experiment)
    (frames,) = work.glob("cache/frames/*/frames")
    how(rng.choice(sorted(frames.glob("*.parquet"))), rng)
    assert numbers(experiment) == right()[:2]
    examine(experiment, SIZE)  # what only who reads every byte sees
    assert numbers(experiment) == right()[:2]
    assert not list(work.rglob("*.partial"))
    assert not examine(experiment, SIZE).faults


def damaged_file(pattern: str, rng: Random, work: Path) -> None:
    """A run of bytes of any file that matches is zeroed or cut off."""
    experiment = recipe(videos(), work, REUSED)
    assert with_reuse(experiment) == right()
    path = rng.choice(sorted(path for path in work.glob(pattern) if path.is_file()))
    data = bytearray(path.read_bytes())
    place = rng.randrange(max(1, len(data)))
    if rng.random() < 0.5:
        data[place : place + 64] = bytes(min(64, len(data) - place))
    else:
        del data[place:]
    path.write_bytes(data)
    assert with_reuse(experiment) == right() and not list(work.rglob("*.partial"))


@contextmanager
def full_disk(place: Path, kilobytes: int) -> Iterator[Path]:
    """A small filesystem at a place."""
    place.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "vop-chaos", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        raise Skipped(f"no small filesystem can be mounted ({done.stderr.strip()})")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path, spare: int = 0) -> Path:
    """A file that takes all the room of a disk but so many bytes."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    os.truncate(filler, max(0, filler.stat().st_size - spare))
    return filler


def told(do: Callable[[], object]) -> str:
    """The one sentence that is said."""
    with pytest.raises(PlaceError) as caught:
        do()
    assert "\n" not in str(caught.value) and "no room" in str(caught.value), str(caught.value)
    return str(caught.value)


def full_at_the_store(rng: Random, work: Path) -> None:
    experiment = recipe(videos(), work)
    with full_disk(work / "cache", rng.randrange(100, 500)) as disk, patch("pipelines.data.prepare.check_room"):
        assert str(disk) in told(lambda: numbers(experiment))
        assert not list(disk.rglob("*.partial"))
    assert numbers(experiment) == right()[:2]


def full_at_the_activations(rng: Random, work: Path) -> None:
    experiment = recipe(videos(), work, REUSED)
    with full_disk(work / "cache" / "activations", rng.randrange(8, 200)) as disk:
        assert with_reuse(experiment) == right(), "without them"
        assert not list(disk.iterdir())
    assert with_reuse(experiment) == right()


def full_at_the_adapter(rng: Random, work: Path) -> None:
    experiment = recipe(videos(), work, "tuning.name=bias", "text_prompt.length=0", "video_prompt.length=0")
    adapter = adapter_of(build_model(experiment), experiment)
    with full_disk(work / "runs", 4 * rng.randrange(1, 10)) as disk:
        assert str(disk) in told(lambda: save_adapter(adapter, disk / "adapter"))
        with pytest.raises(AdapterError):
            load_adapter(disk / "adapter")
    load_adapter(save_adapter(adapter, work / "runs" / "adapter"))


KINDS: list[Kind] = [
    *((f"a shard: {name}", partial(damaged_shard, how)) for name, how in DAMAGE.items()),
    ("the manifest: cut or zeroed", partial(damaged_file, "cache/frames/*/manifest.parquet")),
    ("activations: cut or zeroed", partial(damaged_file, "cache/activations/*/*")),
    ("a full disk at the store", full_at_the_store),
    ("a full disk at the activations", full_at_the_activations),
    ("a full disk at the adapter", full_at_the_adapter),
]
