"""The index of a search: nothing damaged in it is believed, and a store that can only be read is searched. No Ray."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.search import search as searching
from pipelines.search.search import index
from tests.support.recipe import recipe
from tests.support.stores import write_store
from vop.benchmarks import Record
from vop.benchmarks import folder as folder_benchmark
from vop.model.adapter import Adapter, adapter_of
from vop.model.retrieval import RetrievalModel, build_model

Searched = tuple[RetrievalModel, Adapter, str, list[Record]]


@pytest.fixture(scope="module")
def searched(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """A model, its adapter, a store and its records."""
    experiment = recipe(videos, tmp_path_factory.mktemp("index"))
    model = build_model(experiment)
    records = folder_benchmark.records(experiment.benchmark)
    return model, adapter_of(model, experiment), write_store(experiment, records), records


@pytest.fixture
def copy(searched: Searched, tmp_path: Path) -> Searched:
    model, adapter, store, records = searched
    return model, adapter, str(shutil.copytree(store, tmp_path / "store")), records


def damaged(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "a bit":
        content[len(content) // 2] ^= 16
    new = {"cut": content[: len(content) // 2], "a bit": content, "zeros": bytes(len(content)), "empty": b""}.get(how)
    if new is not None:
        path.write_bytes(new)
    elif how == "a folder":
        path.unlink()
        path.mkdir()
    else:
        table = pa.table({"key": ["a"]}) if how == "other columns" else pq.read_table(path)
        if how == "other numbers":
            doubled = [[2 * x for x in row] for row in table["embedding"].to_pylist()]
            table = table.set_column(1, "embedding", pa.array(doubled, pa.list_(pa.float32())))
        pq.write_table(table, path)


@pytest.mark.parametrize("how", ["cut", "a bit", "zeros", "empty", "a folder", "other columns", "other numbers"])
def test_a_damaged_index_is_made_anew(copy: Searched, how: str, caplog: pytest.LogCaptureFixture) -> None:
    right = index(*copy)
    (path,) = Path(copy[2]).glob("index-*.parquet")
    content = path.read_bytes()
    damaged(path, how)
    np.testing.assert_array_equal(index(*copy), right)
    (line,) = caplog.messages
    assert f"{path} is damaged" in line and "\n" not in line
    assert path.read_bytes() == content and not list(path.parent.glob("*.partial"))


def test_a_store_that_cannot_be_written_is_searched(
    copy: Searched, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*arguments: object) -> None:
        raise searching.PlaceError("no room")

    right = index(*copy)
    (path,) = Path(copy[2]).glob("index-*.parquet")
    path.unlink()
    monkeypatch.setattr(searching, "write_whole", full)
    np.testing.assert_array_equal(index(*copy), right)
    assert caplog.messages == ["the index is not kept, and made anew by the next search: no room"]
    assert not list(Path(copy[2]).glob("index-*"))


def test_an_index_that_lacks_nothing_is_only_read(copy: Searched, monkeypatch: pytest.MonkeyPatch) -> None:
    right = index(*copy)
    monkeypatch.setattr(searching, "claimed", None)
    monkeypatch.setattr(searching, "embed_videos", None)
    np.testing.assert_array_equal(index(*copy), right)
