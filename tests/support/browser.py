"""Chromium without a window, driven over its DevTools: a page at a size and in a scheme, what it asks for, keys, pictures."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from websockets.sync.client import ClientConnection, connect

from tests.support.commands import kill_all

CHROMIUM = shutil.which("chromium") or ""
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--autoplay-policy=no-user-gesture-required")
KEYS = {"Enter": 13, "Escape": 27, "ArrowUp": 38, "ArrowDown": 40, "ArrowLeft": 37, "ArrowRight": 39}


class Page:
    """An open page. asked: the addresses that it has asked for; said: errors and what it has written to its console."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket, self.number = socket, 0
        self.asked, self.said = list[str](), list[str]()
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What a method of the DevTools protocol returns."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(60))
            if message.get("id") == self.number:
                assert "error" not in message, message
                return dict(message["result"])
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        told = message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.asked.append(told["request"]["url"])
            case "Runtime.exceptionThrown":
                self.said.append(json.dumps(told["exceptionDetails"]))
            case "Runtime.consoleAPICalled" | "Log.entryAdded":
                self.said.append(json.dumps(told))

    def look(self, width: int, height: int, dark: bool = False) -> None:
        """Become a screen of a size, in a light or a dark scheme."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def go(self, address: str) -> None:
        """Open an address, from nothing."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=address)

    def value(self, expression: str) -> Any:
        """Of an expression of JavaScript; one that is a promise is awaited."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression: str, seconds: float = 60) -> Any:
        """The value of an expression, once it is true."""
        deadline = time.monotonic() + seconds
        while not (found := self.value(expression)):
            assert time.monotonic() < deadline, f"{expression}: {found!r} {self.said}"
            time.sleep(0.05)
        return found

    def press(self, key: str) -> None:
        """A key, down and up."""
        code = {"key": key, "windowsVirtualKeyCode": KEYS.get(key, ord(key[0]))}
        text = "\r" if key == "Enter" else key if len(key) == 1 else ""
        self.call(
            "Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **code, **({"text": text} if text else {})
        )
        self.call("Input.dispatchKeyEvent", type="keyUp", **code)

    def write(self, text: str) -> None:
        """Text, where the focus is."""
        self.call("Input.insertText", text=text)

    def picture(self) -> bytes:
        """A PNG of what the screen shows."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """A page of a browser of its own, which keeps its files in a folder."""
    profile = folder / "browser"
    command = [CHROMIUM, *OPTIONS, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        with connect(_address(profile, process), max_size=None, compression=None) as socket:
            yield Page(socket)
    finally:
        kill_all(process)


def _address(profile: Path, process: psutil.Popen) -> str:
    """Of the socket of the first page."""
    from urllib.request import urlopen

    file, deadline = profile / "DevToolsActivePort", time.monotonic() + 120
    while True:
        assert process.poll() is None and time.monotonic() < deadline, "chromium did not start"
        if file.is_file() and (lines := file.read_text().split()):
            with urlopen(f"http://127.0.0.1:{lines[0]}/json/list", timeout=60) as answer:
                if pages := [each for each in json.load(answer) if each["type"] == "page"]:
                    return str(pages[0]["webSocketDebuggerUrl"])
        time.sleep(0.05)
