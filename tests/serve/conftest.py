"""Two indexes of a few videos, and the application that serves them."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from pipelines.search import windows
from pipelines.search.build import index
from pipelines.serve.app import make_app
from tests.support.long import CLIPS, SECONDS, stream_here, write_long
from vop.index.search import Index

MARKUP = "<img src=x onerror=\"document.title='run'\">"
LONG = "a name that goes on and on " * 7
ORDER = {"kitchen/forward": [0, 1, 2, 3], "back/backward": [3, 2, 1, 0], "short": [3], MARKUP: [2, 1], LONG: [1, 3]}
HERE = "http://127.0.0.1:8000"


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `videos`, `ten.index` and `four.index`: windows of ten seconds and of four."""
    root = tmp_path_factory.mktemp("served")
    for name, order in ORDER.items():
        write_long(root / "videos" / f"{name}.mp4", [CLIPS[n] for n in order], 6 if name == "short" else SECONDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "stream", stream_here)
        index(str(root / "videos"), str(root / "ten.index"), "ViT-toy")
        index(str(root / "videos"), str(root / "four.index"), "ViT-toy", 4, 2)
    return root


@pytest.fixture(scope="session")
def indexes(served: Path) -> dict[str, Index]:
    return {name: Index.open(served / f"{name}.index", device="cpu") for name in ("ten", "four")}


@pytest.fixture
def client(indexes: dict[str, Index]) -> TestClient:
    return TestClient(make_app(indexes), base_url=HERE, raise_server_exceptions=False)
