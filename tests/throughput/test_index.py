"""The measurement of a growing index, and what counts as a moment that was found."""

from __future__ import annotations

import pytest

from pipelines.throughput import folder
from pipelines.throughput.index import measure
from pipelines.throughput.moments import LONG, Scene
from vop.index import cosines, near
from vop.index.search import Hit
from vop.toy.videos import plan


def test_an_index_with_graphs_is_grown_and_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("usearch")
    for module in (cosines, near):
        monkeypatch.setattr(module, "EXACT", 800)
    monkeypatch.setattr(near, "FEW", 200)
    rows = {row.what: row for row in measure(2000)}
    assert rows["windows"].value.startswith("2,000 of 512")
    assert rows["of the 10 best windows of an exact search, found"].met


@pytest.mark.usefixtures("own_ray")
def test_a_folder_of_clips_is_indexed_whole_and_after_a_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found, _, kept, resumed = folder.measure(60)
    assert found.value.startswith("60 in") and found.met and resumed.value == "yes"
    assert kept.value.endswith("its 12 frames as pixels 147,456")


@pytest.mark.parametrize(
    ("start", "end", "file", "overlap"),
    [(25, 35, "a.mp4", 1), (30, 40, "a.mp4", 1 / 3), (20, 40, "a.mp4", 0.5), (35, 45, "a.mp4", 0), (25, 35, "b.mp4", 0)],
)
def test_the_overlap_is_intersection_over_union(start: float, end: float, file: str, overlap: float) -> None:
    assert LONG == 10
    scene = Scene(plan()[1][0], "a.mp4", 25.0)
    assert scene.overlap(Hit(file, start, end, 1.0)) == pytest.approx(overlap)
