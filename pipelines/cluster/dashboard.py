"""Ray's dashboard, which jobs are sent to: its address, whether it answers, the token that it wants."""

from __future__ import annotations

import http.client
import json
import os
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from vop.errors import VopError
from vop.places import is_remote

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

PORT = 8265  # of the first dashboard on a machine; Ray gives the next one the next port
PORTS = range(PORT, PORT + 8)


class SubmitError(VopError, RuntimeError):
    """A job that cannot be submitted, or was lost sight of; the message says what to do."""


def client_of(address: str, headers: dict[str, str]) -> JobSubmissionClient:
    """Ray's own client for the jobs of a dashboard that `reach` has found."""
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray prefers this variable to what its client is given
    from ray.job_submission import JobSubmissionClient

    return JobSubmissionClient(address, headers=headers)


def dashboard(address: str = "") -> str:
    """The address of Ray's dashboard. RAY_ADDRESS counts if it is one; it may also be the cluster's own, or `auto`.

    Where nothing is said: that of this machine. Raises SubmitError if several answer there, for a job is not sent to a guess.
    """
    cluster = os.environ.get("RAY_ADDRESS", "")
    cluster = cluster if cluster.startswith(("http://", "https://")) else ""
    address = address or os.environ.get("RAY_API_SERVER_ADDRESS", "") or cluster or _on_this_machine()
    address = (address if is_remote(address) else f"http://{address}").rstrip("/")
    try:
        parts = urlsplit(address)
        is_one = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # brackets that do not close, a port that is no number
        is_one = False
    if not is_one:
        raise SubmitError(f"address {address}: give that of Ray's dashboard, such as http://127.0.0.1:{PORT}")
    return address


def _on_this_machine() -> str:
    """The one dashboard here that lets us in. A training's own Ray, which has a token that nobody knows, does not."""
    addresses = [f"http://127.0.0.1:{port}" for port in PORTS]
    found = [address for address in addresses if _is_open(address)]
    if len(found) > 1:
        raise SubmitError(f"several clusters answer on this machine ({', '.join(found)}): choose one with --address")
    return found[0] if found else addresses[0]


def _is_open(address: str) -> bool:
    try:
        reach(address)
    except SubmitError:
        return False
    return True


def reach(address: str) -> dict[str, str]:
    """The headers that a dashboard wants to see: none, or a token. Raises SubmitError within seconds if it has no answer."""
    parts = urlsplit(address)
    try:
        socket.create_connection((parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)), 3).close()
        code = status(address, {})
        if code in (401, 403):
            token, source = find_token()
            if not token:
                raise SubmitError(
                    f"{address} asks for a token and there is none: set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to its file, "
                    "or copy the head's ~/.ray/auth_token to this machine"
                )
            headers = {"Authorization": f"Bearer {token}"}
            code = status(address, headers)
            if code in (401, 403):
                raise SubmitError(
                    f"{address} does not take the token of {source}: it must be the one that the head was started with"
                )
        else:
            headers = {}
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise SubmitError(
            f"no Ray dashboard answers at {address} ({error}): start a head (ray start --head), or give its address with "
            "--address or RAY_API_SERVER_ADDRESS"
        ) from None
    if code != 200:
        raise SubmitError(f"{address} answers, but not as Ray's dashboard does (HTTP status {code}): is the port right?")
    return headers


def status(address: str, headers: dict[str, str]) -> int:
    """The HTTP status of an address for these headers; 404 if it is no Ray dashboard."""
    request = urllib.request.Request(f"{address}/api/version", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status) if "ray_version" in json.loads(answer.read()) else 404
    except urllib.error.HTTPError as error:
        return error.code


def find_token() -> tuple[str, str]:
    """Ray's token on this machine and where it was found, in Ray's order; empty if there is none."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token, "RAY_AUTH_TOKEN"
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    return (path.read_text(encoding="utf-8").strip(), str(path)) if path.is_file() else ("", "")
