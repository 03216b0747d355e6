"""A large index: approximate search names nearly what an exact one finds, scores are exact, graphs only grow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vop.index import cosines, near, search
from vop.index.search import Index
from vop.index.table import Manifest, Table, append, read_table, write_manifest

WIDTH, WINDOWS = 32, 20  # of a video


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything above 500 windows is large."""
    for module in (near, cosines):
        monkeypatch.setattr(module, "EXACT", 500)
    monkeypatch.setattr(search, "CANDIDATES", 60)
    monkeypatch.setattr(near, "FEW", 100)
    monkeypatch.setattr(cosines, "SAMPLE", 50)
    monkeypatch.setattr(cosines, "BESIDE", 2)
    monkeypatch.setattr(search, "MORE", 200)


def add(table: Table, videos: range) -> None:
    """A part of videos with random windows, each like the one before it."""
    rows = []
    for video in videos:
        rng = np.random.default_rng(video)
        vectors = rng.standard_normal(WIDTH) + 0.7 * rng.standard_normal((WINDOWS, WIDTH))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        start = np.arange(WINDOWS) * 5.0
        rows.append(
            {
                **{"path": f"/v/{video}.mp4", "size": 1, "mtime_ns": 1, "content": f"{video:064}"},
                **{"start": start.tolist(), "end": (start + 10).tolist()},
                "vectors": [vector.tobytes() for vector in vectors.astype(np.float16)],
            }
        )
    append(table, rows)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """60 videos."""
    write_manifest(str(tmp_path), Manifest("none", 10, 5, WIDTH))
    made = read_table(str(tmp_path))
    add(made, range(60))
    return made


def query(number: int) -> np.ndarray:
    vector = np.random.default_rng(10**6 + number).standard_normal(WIDTH).astype(np.float32)
    return vector / np.linalg.norm(vector)


def answers(folder: str, monkeypatch: pytest.MonkeyPatch, count: int = 20, **filters: object) -> list[list[search.Hit]]:
    index = Index(read_table(folder))
    monkeypatch.setattr(Index, "_of_text", lambda self, text: (query(int(text)), None))
    return [index.search(str(number), top=3, **filters) for number in range(count)]  # type: ignore[arg-type]


def test_exact_is_brute_force(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float16 in chunks, as a large index without usearch is searched, and in float32."""
    monkeypatch.setattr(near, "library", lambda: None)
    large = answers(table.folder, monkeypatch)
    monkeypatch.setattr(cosines, "EXACT", 10**6)
    small = answers(table.folder, monkeypatch)
    index = Index(read_table(table.folder))
    vectors = index.cosines.vectors.astype(np.float64)
    for number, (one, other) in enumerate(zip(large, small, strict=True)):
        best = vectors @ query(number)
        assert one[0].score == pytest.approx(best.max(), abs=1e-6) == other[0].score
        assert one[0].video == other[0].video == f"/v/{index.line.video_N[best.argmax()]}.mp4"


def test_without_the_library_search_is_exact_and_says_so(table: Table, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.MonkeyPatch.context() as patch, caplog.at_level("INFO"):
        patch.setattr(near, "library", lambda: None)
        near.extend(table)
    assert "pip install 'vop[index]'" in caplog.text and not (Path(table.folder) / near.NEAR).exists()


def test_approximate_search_finds_what_an_exact_one_does(
    table: Table, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("usearch")
    exact = answers(table.folder, monkeypatch)
    with caplog.at_level("INFO"):
        near.extend(table)
    assert any("% of the ten best that an exact one finds" in message for message in caplog.messages)
    index = Index(read_table(table.folder))
    scored = np.isfinite(index.cosines.of(query(0), np.ones(len(index), bool)))
    assert scored.sum() < len(index) * 0.6, "else it would be exact"
    found = answers(table.folder, monkeypatch)
    same = [
        one[0].video == other[0].video and one[0].score == pytest.approx(other[0].score, abs=1e-6)
        for one, other in zip(exact, found, strict=True)
    ]
    assert np.mean(same) >= 0.95


def test_recall_is_that_of_brute_force(table: Table) -> None:
    pytest.importorskip("usearch")
    near.extend(table)
    index = Index(read_table(table.folder))
    graph, vectors = index.cosines.graphs[0], index.cosines.vectors.astype(np.float32)
    keys = index.cosines._keys
    assert near.recall(graph, keys, vectors, count=len(index)) >= 0.9  # threads build it: to some windows no edge may lead
    assert 0.9 <= near.recall(graph, keys, vectors, count=60) <= 1
    assert near.recall(graph, keys, vectors, count=1) <= 0.1


def test_graphs_only_grow(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("usearch")
    near.extend(table)
    first = {path: path.stat().st_mtime_ns for path in (Path(table.folder) / near.NEAR).iterdir()}
    add(table, range(60, 62))
    near.extend(table)
    assert {path: path.stat().st_mtime_ns for path in (Path(table.folder) / near.NEAR).iterdir()} == first, "too few"
    assert Index(read_table(table.folder)).cosines._uncovered.tolist() == list(range(60 * WINDOWS, 62 * WINDOWS))
    hits = answers(table.folder, monkeypatch, count=1, path="/v/61.mp4")
    assert {hit.video for hit in hits[0]} == {"/v/61.mp4"}
    add(table, range(62, 70))
    near.extend(table)
    after = {path: path.stat().st_mtime_ns for path in (Path(table.folder) / near.NEAR).iterdir()}
    assert len(after) == len(first) + 1 and first.items() <= after.items()
    assert not len(Index(read_table(table.folder)).cosines._uncovered)


def test_a_damaged_graph_is_named_and_made_anew(
    table: Table, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("usearch")
    exact = answers(table.folder, monkeypatch)
    near.extend(table)
    (path,) = (Path(table.folder) / near.NEAR).iterdir()
    right = path.read_bytes()
    path.write_bytes(bytes([right[0] ^ 16]) + right[1:])
    assert answers(table.folder, monkeypatch) == exact
    assert any(path.name in message and "search is exact" in message for message in caplog.messages)
    near.extend(table)
    (mended,) = (Path(table.folder) / near.NEAR).iterdir()
    assert Index(read_table(table.folder)).cosines.graphs and mended.stat().st_size == len(right)
