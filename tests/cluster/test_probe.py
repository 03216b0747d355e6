"""Places that are not the same on all machines are named before work; a probe leaves nothing behind. No Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray

from pipelines.cluster import probe
from pipelines.cluster.probe import check_shared
from vop.places import PlaceError

CPU = {"CPU": 2.0}


def node(number: int, resources: dict[str, float] | None = None) -> dict[str, Any]:
    about = {"NodeID": str(number), "NodeManagerHostname": f"host{number}", "NodeManagerAddress": f"10.0.0.{number}"}
    return {**about, "Resources": CPU if resources is None else resources, "Labels": {}, "Alive": True}


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The nodes of a cluster, this machine's first; a task on one sees what is in this process."""
    found = [node(0), node(1), node(2), node(3, {})]
    monkeypatch.setattr(ray, "nodes", lambda: found)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: type("Context", (), {"get_node_id": lambda self: "0"})())
    monkeypatch.setattr(probe, "_on_each", lambda nodes, task, *given: [(node, task(*given)) for node in nodes])
    monkeypatch.setattr(probe, "SECONDS", 0)
    return found


def test_places_that_all_share_are_left_as_they_were(tmp_path: Path, nodes: list[dict[str, Any]]) -> None:
    (tmp_path / "video.mp4").write_bytes(b"frames")
    places = {"data.cache": tmp_path / "not" / "there", "tracking.output": tmp_path, "a video": tmp_path / "video.mp4"}
    check_shared({**{name: str(place) for name, place in places.items()}, "far": "s3://bucket/x"})
    assert [path.name for path in tmp_path.rglob("*")] == ["video.mp4"]


def test_a_place_of_one_machine_is_one_sentence(
    tmp_path: Path, nodes: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_each(nodes: list[dict[str, Any]], task: Any, marks: probe.Marks) -> Any:
        others = {what: (file.replace(str(tmp_path / "home"), "/elsewhere"), size) for what, (file, size) in marks.items()}
        return [(node, task(marks if node["NodeID"] == "0" else others)) for node in nodes]

    monkeypatch.setattr(probe, "_on_each", on_each)
    places = {"data.cache=~/x": str(tmp_path / "home" / "x"), "tracking.output=/all": str(tmp_path / "all")}
    with pytest.raises(PlaceError) as error:
        check_shared(places)
    said = str(error.value)
    assert "data.cache=~/x: not the same place on host1 (10.0.0.1), host2 (10.0.0.2) as on this machine" in said
    assert "tracking.output" not in said and "host3" not in said, "where no work goes, nothing is needed"
    assert not list(tmp_path.iterdir())


def test_a_file_of_another_size_is_another_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"123")
    assert probe._missing({"a": (str(tmp_path / "a"), 3)}) == []


def test_a_cluster_of_this_machine_alone_is_not_looked_at(tmp_path: Path, nodes: list[dict[str, Any]]) -> None:
    del nodes[1:3]
    check_shared({"data.cache": "/proc/nothing can be made here"})


def test_a_node_that_does_not_fit_says_why() -> None:
    own = {"Python": "3.11.7", "Ray": "2.60.0"}
    fit = probe._looked_at({**node(1), "Labels": {"vop-role": "train"}}, (own, [], ""), own)
    assert fit.found == "2 CPU, 0 GPU, vop-role=train, Python 3.11.7, Ray 2.60.0" and not fit.wrong
    other = probe._looked_at(node(2), ({**own, "Ray": "2.59.0"}, ["data.cache=~/x"], "no MLflow server answers"), own)
    assert other.wrong == "Ray 2.59.0 there, 2.60.0 here; data.cache=~/x is another place there; no MLflow server answers"
    assert probe._looked_at(node(3), None, own).wrong == "no answer in 60 s"
