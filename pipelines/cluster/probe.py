"""Is a place the same on all machines of a cluster, and are they alike? A task on each node of it looks."""

from __future__ import annotations

import logging
import os
import platform
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.cluster.connect import ROLE, connected
from pipelines.locations import check_server
from vop import __version__
from vop.config import Experiment, TrackingConfig
from vop.errors import VopError
from vop.places import PlaceError, is_remote, told

logger = logging.getLogger(__name__)
SECONDS = 5  # until a file that another machine wrote must be seen
ANSWER = 60  # seconds that a node has to start a task
Marks = dict[str, tuple[str, int]]  # {a place as the user knows it: a file in it, its size}


@dataclass(frozen=True)
class Node:
    """A node of a cluster as a task on it sees it: wrong says in which ways it does not fit."""

    name: str
    found: str
    wrong: str


def check_shared(places: Mapping[str, str]) -> None:
    """Raise PlaceError for places that work is to be done with and that are not the same on every node for it.

    places: {as the user knows it, such as `data.cache=/scratch`: a folder or a file}. A folder gets a file for the while, and
    is made for it if need be. URIs and folders that can only be read are not looked at, nor is a cluster of this machine alone.
    """
    nodes = [node for node in _nodes() if node["Resources"].get("CPU")]
    if all(node["NodeID"] == ray.get_runtime_context().get_node_id() for node in nodes):
        return
    with _marked(places) as marks:
        elsewhere: dict[str, list[str]] = {}
        for node, missing in _on_each(nodes, _missing, marks):
            for place in missing or ():
                elsewhere.setdefault(place, []).append(_name(node))
    if elsewhere:
        lines = [f"{place}: not the same place on {', '.join(names)} as on this machine" for place, names in elsewhere.items()]
        raise PlaceError(*lines, "give a folder that all machines of the cluster share, or a URI (s3://, ...)")


def look_at_nodes(experiment: Experiment, address: str) -> list[Node]:
    """Every node of the cluster at an address (host:port of its head, or `auto` on one of its machines)."""
    os.environ["RAY_ADDRESS"] = address
    tracking, data = experiment.tracking, experiment.data
    places = {f"{key}={place}": place for key, place in (("data.cache", data.cache), ("tracking.output", tracking.output))}
    with connected(), _marked(places) as marks:
        nodes, own = _nodes(), _versions()
        return [_looked_at(node, answer, own) for node, answer in _on_each(nodes, _look, marks, tracking)]


def _looked_at(node: dict[str, Any], answer: tuple[dict[str, str], list[str], str] | None, own: dict[str, str]) -> Node:
    has = ", ".join(f"{node['Resources'].get(name, 0):g} {name}" for name in ("CPU", "GPU"))
    label = f", {ROLE}={role}" if (role := node["Labels"].get(ROLE)) else ""
    if answer is None:
        return Node(_name(node), f"{has}{label}", f"no answer in {ANSWER} s")
    versions, missing, server = answer
    wrong = [f"{name} {found} there, {own[name]} here" for name, found in versions.items() if found != own[name]]
    wrong += [f"{place} is another place there" for place in missing] + ([server] if server else [])
    return Node(_name(node), f"{has}{label}, {', '.join(f'{n} {v}' for n, v in versions.items())}", "; ".join(wrong))


def _look(marks: Marks, tracking: TrackingConfig) -> tuple[dict[str, str], list[str], str]:
    """Versions on this node, places that are others here, and what is wrong with MLflow as it is called here."""
    server = ""
    try:
        check_server(tracking)
    except VopError as error:
        server = str(error)
    return _versions(), _missing(marks), server


def _versions() -> dict[str, str]:
    return {"Python": platform.python_version(), "Ray": ray.__version__, "vop": __version__}


def _missing(marks: Marks) -> list[str]:
    """Places whose file is not here; a shared filesystem may take a while to show it."""
    until = time.monotonic() + SECONDS
    while True:
        gone = [place for place, (file, size) in marks.items() if not os.path.isfile(file) or os.path.getsize(file) != size]
        if not gone or time.monotonic() > until:
            return gone
        time.sleep(0.2)


@contextmanager
def _marked(places: Mapping[str, str]) -> Iterator[Marks]:
    """For the while, a file in each place that is a path."""
    marks, made = Marks(), list[Path]()
    try:
        for what, place in places.items():
            file = Path(place).expanduser().resolve()
            if is_remote(place) or (file.is_dir() and not os.access(file, os.W_OK)):
                continue
            if not file.is_file():
                with told(place):
                    made += [path for path in (file, *file.parents) if not path.exists()]
                    file.mkdir(parents=True, exist_ok=True)
                    file = file / f".vop-{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
                    file.touch()
                made.insert(0, file)
            marks[what] = str(file), file.stat().st_size
        yield marks
    finally:
        for path in made:
            with suppress(OSError):  # a folder that holds something by now
                path.rmdir() if path.is_dir() else path.unlink()


def _on_each(nodes: list[dict[str, Any]], function: Any, *arguments: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """A function's answer on each node, None from one that does not answer."""
    task = ray.remote(function)
    asked = [
        task.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            *arguments
        )
        for node in nodes
    ]
    ready, _ = ray.wait(asked, num_returns=len(asked), timeout=ANSWER)
    for node, answer in zip(nodes, asked, strict=True):
        if answer not in ready:
            logger.warning("%s does not answer: whether it can work is not known", _name(node))
        yield node, ray.get(answer) if answer in ready else None


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _name(node: dict[str, Any]) -> str:
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
