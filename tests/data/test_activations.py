"""Reused activations: the gradients of pixels, computed once for all runs that can share them."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest

from pipelines.data.activations import Activations, activations_of
from pipelines.data.cache import size_of
from pipelines.data.store import read_manifest
from pipelines.data.streaming import training_batches
from pipelines.train.order import epoch_batches
from tests.support.recipe import recipe
from tests.support.steps import assert_same, gradient
from tests.support.stores import write_store
from vop.benchmarks import folder as folder_benchmark
from vop.model.retrieval import RetrievalModel, build_model


@pytest.fixture(scope="module")
def prepared(
    videos: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Path]:
    """A frame store of twelve clips, and the folder that it is in."""
    work = tmp_path_factory.mktemp("speed")
    experiment = recipe(videos, work)
    return write_store(experiment, folder_benchmark.records(experiment.benchmark)), work


def test_reused_activations_give_the_gradients_of_pixels(videos: Path, prepared: tuple[str, Path]) -> None:
    store, work = prepared
    experiment = recipe(videos, work, "video_prompt.depth=9-12")
    train = read_manifest(store, "train")
    model = build_model(experiment)
    steps = epoch_batches([len(record.captions) for record in train], 4, 0, 0)
    plain = [gradient(model, batch) for batch in training_batches(experiment, store, train, steps)]
    reused = activations_of(model, experiment, store, train)
    assert reused is not None
    reused.fill(model)
    batches = list(training_batches(experiment, store, train, steps, 0, reused))
    assert all(batch.pixels_BFHWC.size == 0 for batch in batches)
    for batch, expected in zip(batches, plain, strict=True):
        assert_same(gradient(model, batch), expected)
        assert_same(gradient(model, batch, chunk_size=2), expected)


def test_a_later_run_computes_none_of_them(videos: Path, prepared: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    store, work = prepared
    train = read_manifest(store, "train")

    def filled(*overrides: str) -> Activations:
        experiment = recipe(videos, work, "video_prompt.depth=11-12", *overrides)
        found = activations_of(build_model(experiment), experiment, store, train)
        assert found is not None
        return found

    first = filled()
    first.fill(build_model(recipe(videos, work, "video_prompt.depth=11-12")))
    again = filled("seed=1", "text_prompt.length=4", "video_prompt.name=position", "video_prompt.specific_length=1")
    assert again.sums_N.all() and np.array_equal(again.tokens_NFLD, first.tokens_NFLD)
    monkeypatch.setattr(RetrievalModel, "activations", None)
    again.fill(build_model(recipe(videos, work, "video_prompt.depth=11-12")))
    assert not filled("video_prompt.depth=10-12").sums_N.any(), "another layer, other activations"
    assert not filled("training.precision=bf16").sums_N.any()


def test_where_nothing_can_be_reused(videos: Path, prepared: tuple[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    store, work = prepared
    train = read_manifest(store, "train")
    for overrides in (
        [],
        ["video_prompt.depth=9-12", "frames.sampling=random"],
        ["data.activations_gb=0", "video_prompt.depth=9-12"],
    ):
        experiment = recipe(videos, work, *overrides)
        assert activations_of(build_model(experiment), experiment, store, train) is None
    assert not caplog.messages
    experiment = recipe(videos, work, "video_prompt.depth=9-12", "data.activations_gb=1e-6")
    assert activations_of(build_model(experiment), experiment, store, train) is None
    assert "data.activations_gb allows 1e-06" in caplog.text


def filled(videos: Path, prepared: tuple[str, Path], *overrides: str) -> Activations | None:
    store, work = prepared
    experiment = recipe(videos, work, "video_prompt.depth=11-12", *overrides)
    model = build_model(experiment)
    found = activations_of(model, experiment, store, read_manifest(store, "train"))
    if found is not None:
        found.fill(model)
    return found


@pytest.mark.parametrize("name", ["tokens", "mask", "sums"])
@pytest.mark.parametrize("how", ["cut", "longer", "a bit", "gone", "zeros", "empty"])
def test_damaged_activations_are_computed_again(
    videos: Path, prepared: tuple[str, Path], tmp_path: Path, name: str, how: str
) -> None:
    cache = f"data.cache={tmp_path}"
    first = filled(videos, prepared, cache)
    assert first is not None
    tokens, mask = (np.array(array) for array in (first.tokens_NFLD, first.mask_NF))
    path = first.folder.path / name
    del first
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    changed = {"cut": content[: len(content) // 3], "longer": content + bytes(99), "a bit": content, "empty": b""}
    path.unlink() if how == "gone" else path.write_bytes(changed.get(how, bytes(len(content))))
    again = filled(videos, prepared, cache)
    assert again is not None
    np.testing.assert_array_equal(again.tokens_NFLD, tokens)
    np.testing.assert_array_equal(again.mask_NF, mask)


def test_all_of_them_together_stay_within_the_limit_and_the_longest_unused_go(
    videos: Path, prepared: tuple[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    root = tmp_path / "activations"
    one = filled(videos, prepared, f"data.cache={tmp_path}")
    assert one is not None
    size = size_of(one.folder.path)
    limit = f"data.activations_gb={2.5 * size / 1e9}"
    other = filled(videos, prepared, f"data.cache={tmp_path}", limit, "frames.count=4", "training.precision=bf16")
    assert other is not None and len(list(root.iterdir())) == 2
    third = ["video_prompt.depth=10-12", f"data.cache={tmp_path}", limit]
    assert filled(videos, prepared, *third) is None, "both are in use"
    assert "data.activations_gb allows" in caplog.text and "are in use" in caplog.text and len(list(root.iterdir())) == 2
    paths = [one.folder.path, other.folder.path]
    os.utime(paths[0], (2e9, 2e9))
    del one, other
    gc.collect()
    new = filled(videos, prepared, *third)
    assert new is not None and set(root.iterdir()) == {paths[0], new.folder.path}, "the other was used longer ago"


def test_a_full_disk_is_said_before_the_map_is_written(
    videos: Path, prepared: tuple[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of a sparse file that has no room when it is written kills the process; training goes on without."""
    monkeypatch.setattr("pipelines.data.cache.free_bytes", lambda place: 1000)
    assert filled(videos, prepared, f"data.cache={tmp_path}") is None
    assert "computed anew in each epoch" in caplog.text and "no room" in caplog.text
    assert not list((tmp_path / "activations").iterdir())
    monkeypatch.undo()
    found = filled(videos, prepared, f"data.cache={tmp_path}")
    assert found is not None
    tokens = found.folder.path / "tokens"
    assert tokens.stat().st_blocks * 512 >= tokens.stat().st_size, "its room is taken"
