"""What every request passes before the application: who asks, by which name, how much at once; and what answers say."""

from __future__ import annotations

import hashlib
import json
import secrets
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
COOKIE = "vop-token-"  # and the port: cookies of one host go to all its ports
HEALTH = "/api/health"  # which anybody may ask for
AT_ONCE = 256  # requests under way, be they videos that somebody watches
LONGEST = 8192  # bytes of an address
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
WITHOUT_TOKEN = "no token: open the address that vop serve printed, or send the header Authorization: Bearer TOKEN"


def policy(inline: Iterable[str] = ()) -> str:
    """A content security policy for a page that only asks its own server, and runs and wears only its own `inline` parts."""
    hashes = " ".join(f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in inline)
    own = (
        f"script-src {hashes}; style-src {hashes}; img-src 'self' data: blob:; media-src 'self'; connect-src 'self'; "
        if hashes
        else ""
    )
    return f"default-src 'none'; {own}base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


class Guard:
    """An ASGI application in front of another. token: what a client must know; "": any client that asks for this machine."""

    def __init__(self, app: App, token: str = "") -> None:
        self.app, self.token, self.under_way = app, token, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                more = {**HEADERS, "content-security-policy": policy(), "cache-control": "no-store"}
                own = [(name.encode(), value.encode()) for name, value in more.items() if name.encode() not in given]
                message["headers"] = [*message["headers"], *own]
            await send(message)

        status, headers, error = self._refusal(scope)
        if status:
            await _answer(with_headers, status, headers, error)
            return
        self.under_way += 1
        try:
            await self.app(scope, receive, with_headers)
        finally:
            self.under_way -= 1

    def _refusal(self, scope: Scope) -> tuple[int, dict[str, str], str]:
        """Status, headers and sentence for a request that is not handed on; status 0 for one that is."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if len(scope["path"]) + len(scope["query_string"]) > LONGEST:
            return 414, {}, f"an address of more than {LONGEST} bytes"
        if not self.token and not is_loopback(headers.get("host", "")):
            return 403, {}, "this server answers at 127.0.0.1 and localhost alone"
        if scope["path"].startswith("/api/") and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return 403, {}, "a page of another site asks"
        if self.under_way >= AT_ONCE:
            return 503, {"retry-after": "1"}, f"overloaded: {AT_ONCE} requests are under way; ask again in a second"
        if self.token and scope["path"] != HEALTH:
            return self._stranger(scope, headers)
        return 0, {}, ""

    def _stranger(self, scope: Scope, headers: dict[str, str]) -> tuple[int, dict[str, str], str]:
        """A refusal of who does not know the token. Who brings it in the address gets it as a cookie, out of sight."""
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0] if scope["path"] == "/" else ""
        if self._is_token(given):
            cookie = f"{_cookie_name(headers)}={self.token}; Path=/; HttpOnly; SameSite=Lax"
            return 303, {"location": "/", "set-cookie": cookie}, ""
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if self._is_token(bearer if kind.lower() == "bearer" else "") or self._is_token(_cookie(headers)):
            return 0, {}, ""
        return 401, {"www-authenticate": "Bearer"}, WITHOUT_TOKEN

    def _is_token(self, given: str) -> bool:
        """In a time that tells nothing of the token."""
        return secrets.compare_digest(given.encode("utf-8", "replace"), self.token.encode())


def is_loopback(host: str) -> bool:
    """Whether a host, with or without a port, is this machine's name for itself."""
    try:
        return urlsplit(f"//{host}").hostname in LOOPBACK
    except ValueError:
        return False


def _cookie_name(headers: dict[str, str]) -> str:
    _, _, port = headers.get("host", "").rpartition(":")
    return COOKIE + (port if port.isdigit() else "")


def _cookie(headers: dict[str, str]) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(_cookie_name(headers))
    except CookieError:
        return ""
    return found.value if found else ""


async def _answer(send: Send, status: int, headers: dict[str, str], error: str) -> None:
    body = json.dumps({"error": error}).encode()
    every = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    named = [(name.encode(), value.encode("latin-1")) for name, value in every.items()]
    await send({"type": "http.response.start", "status": status, "headers": named})
    await send({"type": "http.response.body", "body": body})
