"""A stand-in for the Hugging Face hub: a few of its addresses on this machine, models in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

Files = dict[str, bytes]


class Hub(ThreadingHTTPServer):
    """models: {ORG/NAME: its files}. asked: which files were fetched. Each model has one commit, and a branch `main`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.models: dict[str, Files] = {}
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, name: str) -> str:
        return hashlib.sha1(json.dumps([name, *map(str, self.models[name].items())]).encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if found := re.match(r"/api/models/([^/]+/[^/]+)/revision/([^/?]+)", self.path):
            self._info(found[1], found[2])
        elif found := re.match(r"/api/models/([^/]+/[^/]+)/tree/", self.path):
            self._answer(200, [_entry(name, content) for name, content in self.server.models[found[1]].items()])
        elif found := re.match(r"/([^/]+/[^/]+)/resolve/([^/]+)/([^?]+)", self.path):
            self._file(found[1], found[3])
        else:
            self._answer(404, {"error": self.path})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/api/repos/create":
            said = json.loads(body)
            name = f"{said['organization']}/{said['name']}"
            self.server.models.setdefault(name, {})
            self._answer(200, {"url": f"{self.server.address}/{name}", "name": name})
        elif re.match(r"/api/models/([^/]+/[^/]+)/preupload/", self.path):
            files = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in json.loads(body)["files"]]
            self._answer(200, {"files": files})
        elif found := re.match(r"/api/models/([^/]+/[^/]+)/commit/", self.path):
            lines = [json.loads(line) for line in body.splitlines() if line.strip()]
            new = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"}
            self.server.models[found[1]] |= new
            commit = self.server.commit(found[1])
            url = f"{self.server.address}/{found[1]}/commit/{commit}"
            self._answer(200, {"success": True, "commitOid": commit, "commitUrl": url})
        else:
            self._answer(200, {})

    def _info(self, name: str, revision: str) -> None:
        if name not in self.server.models:
            return self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        commit = self.server.commit(name)
        if revision not in ("main", commit):
            return self._answer(404, {"error": "Revision not found"}, {"X-Error-Code": "RevisionNotFound"})
        files = [{"rfilename": file} for file in self.server.models[name]]
        return self._answer(200, {"id": name, "modelId": name, "sha": commit, "siblings": files, "private": False, "tags": []})

    def _file(self, name: str, file: str) -> None:
        content = self.server.models[name][file]
        self.server.asked += [file]
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": self.server.commit(name)}
        self._answer(200, content, headers)

    def _answer(self, code: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for key, value in {"Content-Length": str(len(body)), "Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _entry(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


@contextmanager
def hub() -> Iterator[Hub]:
    """A hub for the while."""
    with Hub() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
