"""How this program meets Ray: one place that connects, and that says what the cluster has."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

from pipelines.cluster.noise import NOISE, without_noise

# Piped output would drown in redrawn bars; ours is printed by the driver.
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", NOISE)  # of workers
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # an epoch lasts as long at least; by default 2 s
os.environ.setdefault("RAY_DISABLE_WORKER_LOG_PREFIX", "1")  # our lines say what they are about
if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # else Ray sends no token to the cluster of RAY_ADDRESS
# Of a sweep MLflow has the logs and the driver prints a line a trial; Ctrl-C shall unwind it, not only stop its trials.
os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_DISABLE_SIGINT_HANDLER": "1", "RAY_AIR_NEW_OUTPUT": "0"}

import ray
from ray._private import ray_constants, ray_logging
from ray._private import state as ray_state
from ray._private import utils as ray_utils

from pipelines.cluster import scratch
from pipelines.cluster.scratch import ResourceError as ResourceError
from pipelines.cluster.stop import stoppable, take_signals
from vop.config import ResourcesConfig
from vop.messages import show

logger = logging.getLogger(__name__)
LOG_LEVEL = "VOP_LOG_LEVEL"  # of the workers of this program, as in the driver
TOKEN = secrets.token_hex(32)  # of the clusters that this process starts; Ray keeps the first that it sees
ENDING = 5.0  # seconds at most for threads to end
ROLE = "vop-role"  # the label of nodes: decode or train; `ray start --labels`, or `labels` in cluster.yaml


@contextmanager
def connected() -> Iterator[None]:
    """Connect to the cluster of RAY_ADDRESS (a Ray job has it set), else start one on this machine for the while.

    A cluster started here listens on 127.0.0.1 alone and asks for a token that only this process and its own have. SIGTERM is
    made to unwind like Ctrl-C, so that it is always ended here. Raises ResourceError, within seconds, if nothing answers at
    RAY_ADDRESS, and for a machine on which Ray cannot start.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS", "")
    with nullcontext() if address else closed():
        yield from _initialized(address)


def _initialized(address: str) -> Iterator[None]:
    _check_answers(address)
    os.environ["RAY_OVERRIDE_JOB_RUNTIME_ENV"] = "1"  # a job's environment and ours may have the same MLFLOW_ variables
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    if os.environ.get("RAY_COLOR_PREFIX") == "0":
        ray_logging._color = str  # of "[repeated 2x across cluster]", which Ray colours nevertheless
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # else it warns of bars that we switched off
    with stoppable(), without_noise():
        try:
            _init(address)
            take_signals()
            with nullcontext() if address else scratch.with_room():
                yield
        finally:
            _end()


def _end() -> None:
    """ray.shutdown, after the threads of Ray Data: what one asks of Ray later ends this process at once, with code 1."""
    until = time.monotonic() + ENDING
    try:
        for thread in threading.enumerate():  # what executes a dataset, and what reads ahead in its rows
            if type(thread).__module__.startswith("ray.data") or thread.name == "iter_threaded":
                thread.join(max(0.0, until - time.monotonic()))
    finally:  # a second Ctrl-C too
        ray.shutdown()


def _init(address: str) -> None:
    """ray.init, with one sentence for what the system refuses."""
    if not address:
        scratch.check_room()
        logger.info("starting Ray on this machine")
        os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # on a busy machine 30 are too few
    # Ray's own switch for machines that are no part of a cluster: every process that is started binds to 127.0.0.1.
    # For the start alone: with it this process would look for other clusters there, too.
    alone = nullcontext() if address else mock.patch.object(ray_constants, "ENABLE_RAY_CLUSTER", False, create=True)
    try:
        # its handler of SIGTERM would exit from wherever it is, be it where Python drops exceptions
        with alone, mock.patch.object(ray_utils, "set_sigterm_handler", create=True):
            # not without its dashboard, which Ray Train asks whether a training's controller lives
            ray.init(address=address or "local", logging_level="warning", runtime_env=_runtime(address or _free_address()))
    except Exception as error:  # Ray raises many kinds, and the bare one where a machine is too busy to start it
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if address:
            token = "if it wants a token, that is RAY_AUTH_TOKEN, or the file ~/.ray/auth_token with RAY_AUTH_MODE=token"
            raise ResourceError(f"RAY_ADDRESS={address}: no connection to this cluster: {first[:500]}; {token}") from error
        logs = f"its log files are in {scratch.folder()}/ray/session_latest/logs"
        raise ResourceError(f"Ray did not start on this machine: {first[:500]}; {logs}") from error
    finally:
        os.environ.pop("RAY_GCS_SERVER_PORT", None)  # of this cluster alone


def _check_answers(address: str) -> None:
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():  # none, or "auto"
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise ResourceError(f"RAY_ADDRESS: no Ray cluster answers at {address} ({error})") from error


@contextmanager
def closed() -> Iterator[None]:
    """For the while, a Ray that is started here is closed to strangers, unless the environment says otherwise.

    Ray turns its token authentication on by itself; the token would be that of ~/.ray, which every cluster of a user shares.
    """
    names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")
    before = {name: os.environ.get(name) for name in names}
    os.environ.setdefault("RAY_AUTH_TOKEN", TOKEN)
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # it warns of what is meant to be so
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _free_address() -> str:
    """Choose the address of the cluster that is about to be started on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        os.environ["RAY_GCS_SERVER_PORT"] = str(probe.getsockname()[1])
    return f"127.0.0.1:{os.environ['RAY_GCS_SERVER_PORT']}"


def _runtime(address: str) -> dict[str, Any]:
    """What every worker of this program gets."""
    return {
        "worker_process_setup_hook": "pipelines.cluster.connect.quiet",
        "env_vars": {
            "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # it prints each line of a worker twice
            "RAY_ADDRESS": address,  # else Ray Train's own helpers take any cluster that they find on the machine
            "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same in a trial
            "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # for a trial that is stopped early to say so to MLflow
            # It warns of each address that has no name, as those of many clusters have none.
            "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),
            LOG_LEVEL: "INFO" if logging.getLogger("pipelines").isEnabledFor(logging.INFO) else "WARNING",
            **{name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")},
        },
    }


def quiet() -> None:
    """Runs first in every worker: its stdout, which Ray forwards to the driver's, gets our log lines if the driver shows such.

    Of the log lines of libraries only warnings get there.
    """
    for name in ("", "ray", "ray.data", "ray.train", "ray.tune"):  # Ray Train logs to the root logger too
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # else it warns of bars that we switched off
    if level := os.environ.get(LOG_LEVEL):
        show(logging.StreamHandler(sys.stdout), logging.getLevelNamesMapping()[level])


def uses_gpu(resources: ResourcesConfig) -> bool:
    """Whether each worker gets a GPU or its share of one: what the recipe says, else whether the cluster has it for each."""
    wanted = resources.fewest * resources.gpus_per_worker
    return cluster_has("GPU", "train") >= wanted if resources.use_gpu is None else resources.use_gpu


def needs_of(resources: ResourcesConfig) -> dict[str, float]:
    """What each worker takes of the cluster: "CPU" and, where it gets one, "GPU"."""
    return {"CPU": resources.cpus_per_worker, **({"GPU": resources.gpus_per_worker} if uses_gpu(resources) else {})}


def workers_that_fit(needs: dict[str, float], spare_cpus: float = 0) -> int:
    """How many workers with such needs the nodes for training have room for, beside CPUs for others; a share is of one GPU."""
    cpus = (cluster_has("CPU", "train") - spare_cpus) / needs["CPU"]
    gpus = cluster_has("GPU", "train") * int(1 / needs["GPU"] + 1e-9) if "GPU" in needs else cpus
    return int(min(cpus, gpus))


def free_workers(needs: dict[str, float], role: str, spare_cpus: float = 0) -> int:
    """How many workers with such needs have room now on nodes of a role ("": any), where one node keeps CPUs for others."""
    free = ray_state.available_resources_per_node()
    nodes = [free.get(node["NodeID"], {}) for node in _nodes(role)]
    fit = sum(_fitting(node, needs) for node in nodes)
    if not spare_cpus:
        return fit
    spared = [
        _fitting(node, needs) - _fitting(node | {"CPU": node["CPU"] - spare_cpus}, needs)
        for node in nodes
        if node.get("CPU", 0) >= spare_cpus  # what is used up is not there
    ]
    return fit - min(spared, default=fit)


def _fitting(has: dict[str, float], needs: dict[str, float]) -> int:
    """How many workers fit a node; a share of 0.1 fits ten times into 1, whatever floats say."""
    return max(0, min(int(has.get(name, 0) / amount + 1e-9) for name, amount in needs.items()))


def cluster_has(resource: str, role: str = "") -> float:
    """How much of a resource ("CPU", "GPU") the whole cluster has, or those of its nodes that work of a role may go to."""
    return float(sum(node["Resources"].get(resource, 0) for node in (_nodes(role) or _nodes())))


def labelled(role: str) -> dict[str, Any]:
    """What sends Ray's tasks and train workers to nodes labelled `vop-role=ROLE`; nothing where there are none."""
    return {"label_selector": {ROLE: role}} if _nodes(role) else {}


def staying() -> set[str]:
    """The ids of the nodes that work may go to."""
    return {node["NodeID"] for node in _nodes()}


def _nodes(role: str = "") -> list[dict[str, Any]]:
    """The living nodes, or those of a role, but for those that are about to be taken away: nothing new begins there."""
    leaving = ray_state.state.get_draining_nodes()
    living = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]
    return [node for node in living if not role or node["Labels"].get(ROLE) == role]
