"""Pictures of the page of `vop serve` for the docs, on videos of toy scenes.

python -m tests.screenshots        writes docs/serve.png and docs/serve-small.png
"""

from __future__ import annotations

import io
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from PIL import Image

from pipelines.search import windows
from pipelines.search.build import index
from pipelines.serve.app import make_app
from pipelines.serve.run import listening
from tests.support.browser import browser
from tests.support.long import CLIPS, stream_here, write_long
from vop.index.search import Index

DOCS = Path(__file__).parents[1] / "docs"
QUERY = "q=a+golden+box+on+a+wavy+background"
VIDEOS = {"garden/monday": [0, 1, 2, 3], "garden/tuesday": [3, 2, 1, 0], "kitchen/pan": [5, 2, 4], "kitchen/tea": [4, 5, 1]}
SHOTS = {  # file: width, height, dark, what is shown
    "serve.png": (1280, 720, False, QUERY),
    "serve-small.png": (400, 780, True, f"{QUERY}&m=ten"),
}
LOADED = "[...document.querySelectorAll('.film')].filter(f => f.getBoundingClientRect().y < innerHeight)"


@contextmanager
def running(indexes: dict[str, Index]) -> Iterator[str]:
    """A server in a thread, for the while; its address."""
    with listening("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(make_app(indexes), lifespan="off", log_config=None, timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(30)


def made(folder: Path) -> dict[str, Index]:
    """Indexes of the same videos by windows of ten seconds and of four."""
    for name, order in VIDEOS.items():
        write_long(folder / "videos" / f"{name}.mp4", [CLIPS[n] for n in order])
    windows.stream = stream_here
    for name, size in (("ten", 10), ("four", 4)):
        index(str(folder / "videos"), str(folder / f"{name}.index"), "ViT-toy", size, size / 2)
    return {name: Index.open(folder / f"{name}.index", device="cpu") for name in ("ten", "four")}


def main(folder: Path) -> int:
    """Write the pictures."""
    with running(made(folder)) as address, browser(folder) as page:
        for name, (width, height, dark, shown) in SHOTS.items():
            page.look(width, height, dark)
            page.go(f"{address}#{shown}")
            page.wait(f"{LOADED}.length && {LOADED}.every(film => film.querySelector('img').naturalWidth)")
            picture = Image.open(io.BytesIO(page.picture())).convert("P", palette=Image.Palette.ADAPTIVE, colors=128)
            picture.save(DOCS / name, optimize=True)
            print(f"written: docs/{name}")
    return 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="vop-", ignore_cleanup_errors=True) as scratch:
        sys.exit(main(Path(scratch)))
