"""A copy of a video in another split is a leak, whatever it is called."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipelines.data.tasks import find_tasks
from tests.support.recipe import recipe
from vop.annotations.copies import END_BYTES, equal_files, hash_all, hash_ends, refuse_shared, shared_by_splits
from vop.benchmarks import BenchmarkError, Record, Split


def record(path: str, split: Split, window: tuple[float, float] | None = None) -> Record:
    return Record(Path(path).name, path, ("a",), split, window=window)


def test_only_files_of_equal_size_in_two_splits_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {"a": b"one", "b": b"two", "c": b"four", "d": b"five", "e": b"seven"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    splits: dict[str, Split] = {"a": "train", "b": "train", "c": "train", "d": "test", "e": "test"}
    records = [record(str(tmp_path / name), split) for name, split in splits.items()]
    read: list[str] = []
    monkeypatch.setattr("vop.annotations.copies.hash_ends", lambda path: read.append(Path(path).name) or hash_ends(path))
    refuse_shared(records, {r.path: Path(r.path).stat().st_size for r in records})
    assert sorted(read) == ["c", "d"]


@pytest.mark.parametrize("split", ["test", "val"])
def test_a_copy_in_another_split_is_refused_unless_it_is_allowed(videos: Path, tmp_path: Path, split: str) -> None:
    folder = shutil.copytree(videos, tmp_path / "videos")
    name = "clip 6.mp4" if split == "val" else "clip 11.mp4"
    shutil.copyfile(folder / "clip 3.mp4", folder / name)
    with pytest.raises(BenchmarkError, match=rf"clip 3\.mp4 \(train\) and {name} \({split}\).*benchmark\.shared_videos=allow"):
        find_tasks(recipe(folder, tmp_path), 64)
    allowed = find_tasks(recipe(folder, tmp_path, "benchmark.shared_videos=allow"), 64)
    (folder / name).write_bytes((folder / name).read_bytes() + b"\0")
    assert find_tasks(recipe(folder, tmp_path), 64).folder == allowed.folder, "another word, not another store"


def test_copies_within_a_split_are_no_leak(videos: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(videos, tmp_path / "videos")
    shutil.copyfile(folder / "clip 3.mp4", folder / "clip 4.mp4")
    assert len(find_tasks(recipe(folder, tmp_path), 64).records) == 12


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [(None, None, True), ((0, 5), None, True), ((0, 5), (4, 9), True), ((0, 5), (5, 9), False), ((6, 9), (0, 5), False)],
)
def test_windows_of_one_film_are_shared_where_they_overlap(
    one: tuple[float, float] | None, other: tuple[float, float] | None, shared: bool
) -> None:
    records = [record("film", "train", one), record("film", "test", other)]
    assert bool(shared_by_splits(records, {})) == shared
    assert bool(shared_by_splits([record("a", "train", one), record("b", "test", other)], {"b": "a"})) == shared
    assert not shared_by_splits([record("a", "train"), record("b", "test")], {})


def test_equal_ends_are_not_enough(tmp_path: Path) -> None:
    for name, middle in (("a", b"1"), ("b", b"2"), ("c", b"1")):
        (tmp_path / name).write_bytes(bytes(END_BYTES) + middle + bytes(END_BYTES))
    paths = [str(tmp_path / name) for name in "abc"]
    assert hash_ends(paths[0])["digest"] == hash_ends(paths[1])["digest"] and hash_all(paths[0]) != hash_all(paths[1])
    equal = equal_files({path: 2 * END_BYTES + 1 for path in paths}, lambda some, function, _: map(function, some))
    assert equal == {paths[2]: paths[0]}


def test_what_cannot_be_read_equals_nothing_and_order_does_not_matter(tmp_path: Path) -> None:
    for name in "dcba":
        (tmp_path / name).write_bytes(b"the same")
    sizes = {str(tmp_path / name): 8 for name in ("d", "gone", "a", "lost", "c", "b")}
    equal = equal_files(sizes, lambda some, function, _: map(function, reversed(some)))
    assert {Path(path).name: Path(first).name for path, first in equal.items()} == {"b": "a", "c": "a", "d": "a"}
    assert equal_files(dict.fromkeys(sizes, 0), lambda some, function, _: map(function, some)) == {}
