"""Faults of a cluster while it trains: of three nodes, a head without CPUs, one that decodes and one that trains.

A node that is killed is replaced, as a cluster's manager does. Where the training cannot go on by itself, the next command goes
on with it, on a Ray of its own.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import psutil

from pipelines.cluster.connect import ROLE
from tests.chaos.commands import EVENTS, MORE, a_training, ends_right, right
from tests.chaos.kind import Kind
from tests.support.commands import command, wait_for
from tests.support.nodes import growing, nodes

STOPPED = 60.0  # seconds that a worker does not move
TRAINS = "RayTrainWorker"

Nodes = dict[str, Any]  # Ray's, by role
Harm = Callable[[Any, Nodes, psutil.Popen], None]


def disturbed(rng: Random, work: Path, harm: Harm, survives: bool, events: tuple[str, ...] = EVENTS[2:]) -> None:
    """A training on three nodes suffers a harm at a random moment; it ends right, by itself where it survives that."""
    right()
    (experiment, words), log = a_training(work), work / "log"
    event, more = rng.choice(events), rng.uniform(0, MORE)
    with nodes(0) as cluster:
        by_role = {role: _node(cluster, role) for role in ("decode", "train")}
        cluster.wait_for_nodes()
        where = {"RAY_ADDRESS": cluster.address, "RAY_TMPDIR": os.environ["RAY_TMPDIR"]}
        with command(words, log, **where) as process:
            wait_for(lambda: list(work.glob(event)), process, log)
            time.sleep(more)
            harm(cluster, by_role, process)
            code = process.wait(600)
            assert code == 0 or not survives, log.read_text()
        ends_right(experiment, work)


def _node(cluster: Any, role: str) -> Any:
    return cluster.add_node(num_cpus=1, labels={ROLE: role})


def replaced(role: str) -> Harm:
    """The node of a role is killed, and another one comes."""

    def harm(cluster: Any, by_role: Nodes, process: psutil.Popen) -> None:
        cluster.remove_node(by_role[role], allow_graceful=False)
        _node(cluster, role)

    return harm


def stop_worker(cluster: Any, by_role: Nodes, process: psutil.Popen) -> None:
    """The worker that trains does not move for STOPPED seconds."""
    found = [one for one in psutil.process_iter(["cmdline", "environ"]) if _is_worker(one, cluster.address)]
    for one in found:
        one.send_signal(signal.SIGSTOP)
    time.sleep(STOPPED)
    for one in found:
        one.send_signal(signal.SIGCONT)
    assert found


def _is_worker(process: psutil.Process, address: str) -> bool:
    named = " ".join(process.info["cmdline"] or [])
    return TRAINS in named and (process.info["environ"] or {}).get("RAY_ADDRESS") == address


def kill_driver(cluster: Any, by_role: Nodes, process: psutil.Popen) -> None:
    """SIGKILL."""
    process.kill()


def head_dies(rng: Random, work: Path) -> None:
    """The head's GCS is killed, of a cluster that grows from it; without it all that is left ends too.

    Not Ray's `Cluster`: the process that made one ends a minute after its GCS.
    """
    right()
    (experiment, words), log = a_training(work), work / "log"
    event, more = rng.choice(EVENTS[2:]), rng.uniform(0, MORE)
    with growing({"CPU": 0}, {"CPU": 1}, most=2) as address, command(words, log, RAY_ADDRESS=address) as process:
        wait_for(lambda: list(work.glob(event)), process, log)
        time.sleep(more)
        port = address.rpartition(":")[2]
        servers = [one for one in psutil.Process().children(recursive=True) if one.name() == "gcs_server"]
        (server,) = (one for one in servers if f"--gcs_server_port={port}" in one.cmdline())
        server.kill()
        process.wait(600)
        ends_right(experiment, work)


STORING, TRAINING = EVENTS[2:5], EVENTS[6:8]
KINDS: list[Kind] = [
    ("a training on three nodes: the decode node dies", lambda *a: disturbed(*a, replaced("decode"), True, STORING)),
    ("a training on three nodes: the train node dies", lambda *a: disturbed(*a, replaced("train"), True, TRAINING)),
    ("a training on three nodes: its worker stopped for a minute", lambda *a: disturbed(*a, stop_worker, True, TRAINING[1:])),
    ("a training on three nodes: its driver dies", lambda *a: disturbed(*a, kill_driver, False)),
    ("a training on a cluster: its head dies", head_dies),
]
