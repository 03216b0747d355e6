"""Runs the application: in this process by uvicorn, or as replicas by Ray Serve, until it is stopped."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.cluster.ui import HOST, PortError, free_port
from pipelines.serve.guard import AT_ONCE, Guard, is_loopback
from vop.config import ConfigError
from vop.index.search import Index
from vop.index.table import read_manifest

TOKEN = "VOP_SERVE_TOKEN"  # of the environment; without it each server makes its own
SHORTEST = 16  # characters of a token
MOST_INDEXES = 2
QUIET = {"log_level": "WARNING", "enable_access_log": False}  # of Ray Serve


@dataclass(frozen=True)
class Service:
    """What is served, where and to whom. places: folders of indexes; overrides: of their models; rate: as in `make_app`."""

    places: Sequence[str]
    overrides: Sequence[str] = ()
    host: str = HOST
    port: int = 8000
    rate: float = 20
    token: str = ""

    @property
    def address(self) -> str:
        """What a browser is to open. It brings the token, where one is needed."""
        host = socket.gethostname() if self.host in ("0.0.0.0", "::") else self.host
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self.port}/" + (f"?token={self.token}" if self.token else "")

    def opened(self) -> Guard:
        """The application, ready: the models and what they search are in memory."""
        from pipelines.serve.app import make_app

        indexes = dict(
            zip(names(self.places), (Index.open(place, overrides=self.overrides) for place in self.places), strict=True)
        )
        for index in indexes.values():
            index.search("warm")
        return make_app(indexes, token=self.token, rate=self.rate)


def make_service(places: Sequence[str], overrides: Sequence[str], host: str, port: int, rate: float) -> Service:
    """A service with a token where others than this machine can reach it.

    Raises VideoIndexError for no index, ConfigError for too many or a token that is too short.
    """
    if not 1 <= len(places) <= MOST_INDEXES:
        raise ConfigError(f"give an index, or two that are shown side by side (given: {len(places)})")
    for place in places:
        read_manifest(place)
    token = os.environ.get(TOKEN, "")
    if token and (len(token) < SHORTEST or not token.isascii() or not token.replace("-", "").replace("_", "").isalnum()):
        raise ConfigError(f"{TOKEN}: a token has at least {SHORTEST} letters, digits, - or _")
    if not token and not is_loopback(host):
        token = secrets.token_urlsafe(32)
    return Service(places, overrides, host, port or free_port(), rate, token)


def names(places: Sequence[str]) -> list[str]:
    """How indexes are called: as their folders, numbered where two folders are called alike."""
    bare = [Path(place).resolve().name.removesuffix(".index") or "index" for place in places]
    return [name if bare.count(name) == 1 else f"{name} {number}" for number, name in enumerate(bare, start=1)]


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises PortError."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=1024)
    except OSError as error:
        raise PortError(f"port {port} of {host} cannot be used ({error}); a free one: --port {free_port()}") from error


def serve_here(service: Service, ready: Callable[[], None]) -> None:
    """Serve from this process until Ctrl-C or SIGTERM; `ready` is called once it answers."""
    import uvicorn

    with listening(service.host, service.port) as listener:
        config = uvicorn.Config(
            service.opened(),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            limit_concurrency=4 * AT_ONCE,  # connections; the guard counts requests, and says more of them
            timeout_graceful_shutdown=2,
        )
        ready()
        uvicorn.Server(config).run(sockets=[listener])


def serve_on_ray(service: Service, replicas: int, ready: Callable[[], None]) -> None:
    """Serve by replicas of Ray Serve, each on a GPU or a share of one where the cluster has some, until Ctrl-C or SIGTERM.

    Raises ConfigError where Ray Serve is not installed, ResourceError for a cluster without room for them.
    """
    from pipelines.cluster.connect import ResourceError, cluster_has, connected, labelled

    try:
        from ray import serve
        from ray.serve.config import HTTPOptions
    except ImportError as error:
        raise ConfigError(f"--replicas {replicas} needs Ray Serve: pip install 'vop[serve]' ({error})") from error
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    listening(service.host, service.port).close()
    with connected():
        if (cpus := cluster_has("CPU")) < replicas:
            raise ResourceError(f"--replicas {replicas}: the cluster has {cpus:g} CPUs, and each replica takes one")
        options: dict[str, Any] = {"num_cpus": 1, **labelled("serve")}
        if gpus := cluster_has("GPU"):
            options["num_gpus"] = min(1.0, gpus / replicas)
        try:
            where = HTTPOptions(host=service.host, port=service.port)
            serve.start(proxy_location="HeadOnly", http_options=where, logging_config=QUIET)
            deployment = serve.deployment(
                serve.ingress(_builder(service))(),
                name="vop",
                num_replicas=replicas,
                ray_actor_options=options,
                max_ongoing_requests=AT_ONCE,
                logging_config=QUIET,
            )
            serve.run(deployment.bind(), route_prefix="/", name="vop")
            ready()
            while True:
                time.sleep(1)
        finally:
            serve.shutdown()


def _builder(service: Service) -> Callable[[], Guard]:
    """A function, as Ray Serve wants one, that opens the application where a replica is."""
    opened = partial(Service.opened, service)

    def build() -> Guard:
        _close_replica()
        return opened()

    return build


def _close_replica() -> None:
    """Leave a replica without the port on which Ray Serve's would unpickle what anybody sends, on every address.

    Other deployments would call it there. Ours has no others, and the proxy calls it as Ray's actors are called.
    """
    from ray.serve._private import replica

    replica.add_port_to_grpc_server = lambda server, address: 0
