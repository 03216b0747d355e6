"""The command that serves indexes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from pipelines.cli.say import say
from vop.config import is_override


def serve(
    indexes: Annotated[list[str], typer.Argument(help="one index, or two side by side; also key=value, as in vop search")],
    host: Annotated[str, typer.Option(help="where to listen; any other than this machine asks for a token")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one")] = 8000,
    replicas: Annotated[int, typer.Option(min=1, help="more than one: by Ray Serve, each on a GPU where there are some")] = 1,
    rate: Annotated[float, typer.Option(min=0, help="queries a second of one client and replica; 0: any number")] = 20,
) -> None:
    """A page and an API that search an index and play the moments, until Ctrl-C."""
    from pipelines.serve.run import make_service, serve_here, serve_on_ray

    overrides = [word for word in indexes if is_override(word)]
    service = make_service([word for word in indexes if word not in overrides], overrides, host, port, rate)

    def ready() -> None:
        say(f"{service.address}  Ctrl-C ends it")  # no name: the token of an address would be masked
        sys.stdout.flush()

    if replicas == 1:
        serve_here(service, ready)
    else:
        serve_on_ray(service, replicas, ready)
