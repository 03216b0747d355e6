"""How this program meets Ray: one place that connects, and that says what the cluster has."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Piped output would drown in redrawn bars; ours is printed by the driver.
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
# Of a sweep MLflow has the logs and the driver prints a line a trial; Ctrl-C shall unwind it, not only stop its trials.
os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_DISABLE_SIGINT_HANDLER": "1", "RAY_AIR_NEW_OUTPUT": "0"}

import ray

from vop.config import ResourcesConfig

ROLE = "vop-role"  # the label of nodes: decode or train; `ray start --labels`, or `labels` in cluster.yaml


class ResourceError(RuntimeError):
    """The cluster is short of something; the message says what is asked for and what there is."""


@contextmanager
def connected() -> Iterator[None]:
    """Connect to the cluster of RAY_ADDRESS (a Ray job has it set), else start one on this machine for the while.

    SIGTERM is made to unwind like Ctrl-C, so that a cluster started here is always ended here. Raises ResourceError, within
    seconds, if nothing answers at RAY_ADDRESS.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    _check_answers(address)
    previous = signal.signal(signal.SIGTERM, _interrupt)
    os.environ["RAY_OVERRIDE_JOB_RUNTIME_ENV"] = "1"  # a job's environment and ours may have the same MLFLOW_ variables
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    try:
        ray.init(address=address or "local", logging_level="warning", runtime_env=_runtime(address or _new_address()))
        os.environ.pop("RAY_GCS_SERVER_PORT", None)  # of this cluster alone
        yield
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, previous)


def _check_answers(address: str | None) -> None:
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():  # none, or "auto"
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise ResourceError(f"RAY_ADDRESS: no Ray cluster answers at {address} ({error})") from error


def _new_address() -> str:
    """Choose the address of the cluster that is about to be started on this machine."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    with socket.socket() as probe:
        probe.bind(("", 0))
        os.environ["RAY_GCS_SERVER_PORT"] = str(probe.getsockname()[1])
    return f"{ray.util.get_node_ip_address()}:{os.environ['RAY_GCS_SERVER_PORT']}"


def _runtime(address: str) -> dict[str, Any]:
    """What every worker of this program gets."""
    return {
        "worker_process_setup_hook": "pipelines.cluster.quiet",
        "env_vars": {
            "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # it prints each line of a worker twice
            "RAY_ADDRESS": address,  # else Ray Train's own helpers take any cluster that they find on the machine
            "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same in a trial
            "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # for a trial that is stopped early to say so to MLflow
            **{name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")},
        },
    }


def quiet() -> None:
    """Runs first in every worker: of the log lines of libraries only warnings reach the terminal."""
    for name in ("", "ray", "ray.data", "ray.train", "ray.tune"):  # Ray Train logs to the root logger too
        logging.getLogger(name).setLevel(logging.WARNING)


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


def uses_gpu(resources: ResourcesConfig) -> bool:
    """Whether each worker gets a GPU: what the recipe says, else whether the cluster has one for each."""
    return cluster_has("GPU") >= resources.num_workers if resources.use_gpu is None else resources.use_gpu


def cluster_has(resource: str, role: str = "") -> float:
    """How much of a resource ("CPU", "GPU") the whole cluster has, or those of its nodes that work of a role may go to."""
    return float(sum(node["Resources"].get(resource, 0) for node in (_nodes(role) or _nodes())))


def labelled(role: str) -> dict[str, Any]:
    """What sends Ray's tasks and train workers to nodes labelled `vop-role=ROLE`; nothing where there are none."""
    return {"label_selector": {ROLE: role}} if _nodes(role) else {}


def _nodes(role: str = "") -> list[dict[str, Any]]:
    """The living nodes, or those of a role."""
    return [node for node in ray.nodes() if node["Alive"] and (not role or node["Labels"].get(ROLE) == role)]
