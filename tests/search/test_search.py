"""A folder's videos ranked for a text: the same scores as the model's own, an index that is reused, bad files told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.search import search as searching
from pipelines.search.search import Found, search
from tests.support.recipe import recipe
from vop.benchmarks import BenchmarkError
from vop.config import ConfigError
from vop.errors import AdapterError
from vop.model.adapter import adapter_of, load_adapter, save_adapter
from vop.model.card import CARD
from vop.model.retrieval import build_model
from vop.video.frames import read_frames

TEXT = "a red ball grows"


@pytest.fixture(scope="module")
def adapter(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter with random prompts, of an experiment on other videos."""
    work = tmp_path_factory.mktemp("adapter")
    overrides = [
        "video_prompt.name=position",
        "video_prompt.specific_length=1",
        "benchmark.split_seed=3",
        "resources.num_workers=8",
    ]
    experiment = recipe(videos, work, *overrides)
    model = build_model(experiment)
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter.normal_(generator=torch.Generator().manual_seed(0))
    return save_adapter(adapter_of(model, experiment), work / "adapter")


@pytest.fixture
def gallery(videos: Path, tmp_path: Path) -> Path:
    """Six clips in two folders, a broken one, and a file that is no video."""
    folder = tmp_path / "my: gallery #1"
    (folder / "below here").mkdir(parents=True)
    for number in range(6):
        shutil.copy(videos / f"clip {number}.mp4", folder / ("below here" if number % 2 else "") / f"clip {number}.MP4")
    (folder / "broken.mp4").write_bytes(b"not a video")
    (folder / "notes.txt").write_text("not a video either")
    return folder


@pytest.fixture(autouse=True)
def home(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the default cache is: an adapter does not say it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def names(found: Found) -> list[str]:
    return [hit.video for hit in found.hits[TEXT]]


def test_videos_are_ranked_by_the_models_own_scores(adapter: Path, gallery: Path, ray_cluster: None) -> None:
    found = search(adapter, str(gallery), [TEXT, "rain"], top=10)
    model = searching.model_of(load_adapter(adapter))
    expected = {}
    for path in gallery.rglob("*.MP4"):
        frames = read_frames(str(path), 4, size=64)
        with torch.no_grad():
            video_BE = model.encode_video(torch.from_numpy(frames.pixels_FHWC)[None], torch.from_numpy(frames.mask_F)[None])
            expected[str(path.relative_to(gallery))] = float(video_BE @ model.encode_text(model.tokenize([TEXT]))[0])
    assert names(found) == sorted(expected, key=lambda name: -expected[name])
    assert [hit.score for hit in found.hits[TEXT]] == pytest.approx(sorted(expected.values(), reverse=True), abs=1e-5)
    assert len(found.hits["rain"]) == found.videos == 6
    assert [row["video_id"] for row in found.prepared.failed] == ["broken.mp4"], "told, and not in the way"


def test_a_second_search_embeds_only_what_is_new(
    adapter: Path, gallery: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: list[str] = []

    def spy(model: object, store: str, records: list[searching.Record]) -> torch.Tensor:
        embedded.extend(record.video_id for record in records)
        return embed_videos(model, store, records)

    embed_videos = searching.embed_videos
    monkeypatch.setattr(searching, "embed_videos", spy)
    monkeypatch.setattr(searching, "SAVED", 4)  # so that the index is written more than once
    first = search(adapter, str(gallery), [TEXT], top=10)
    assert len(embedded) == 6
    assert search(adapter, str(gallery), [TEXT], top=10).hits == first.hits
    assert len(embedded) == 6
    shutil.copy(gallery / "clip 0.MP4", gallery / "again.mp4")
    (gallery / "clip 2.MP4").unlink()
    found = search(adapter, str(gallery), [TEXT], top=10)
    assert embedded[6:] == ["again.mp4"]
    scores = {hit.video: hit.score for hit in found.hits[TEXT]}
    assert scores.pop("again.mp4") == scores["clip 0.MP4"]
    assert scores == {hit.video: hit.score for hit in first.hits[TEXT] if hit.video != "clip 2.MP4"}


def test_an_adapter_does_not_say_where_frames_go(adapter: Path, gallery: Path, ray_cluster: None, home: Path) -> None:
    """Neither this one's experiment, whose cache is beside it, nor an old one's card."""
    card = json.loads((adapter / CARD).read_text(encoding="utf-8"))
    model = card.pop("model")
    theirs = gallery.parent / "theirs"
    model |= {"data": {"cache": str(theirs)}, "tracking": {"output": str(theirs)}, "resources": {"num_workers": 99}}
    old = Path(shutil.copytree(adapter, gallery.parent / "old"))
    (old / CARD).write_text(json.dumps({**card, "format": 2, "experiment": model}), encoding="utf-8")
    found = [search(folder, str(gallery), [TEXT], top=10) for folder in (adapter, old)]
    assert found[0].hits == found[1].hits and not theirs.exists() and not (adapter.parent / "cache").exists()
    assert list(home.glob(".cache/vop/frames/gallery-*/index-*.parquet"))


def test_another_model_has_another_index(adapter: Path) -> None:
    one, other = load_adapter(adapter), load_adapter(adapter)
    assert one.fingerprint == other.fingerprint
    next(iter(other.tensors.values())).view(-1)[0] += 1
    assert one.fingerprint != other.fingerprint


def test_what_cannot_be_searched_is_said(adapter: Path, tmp_path: Path, ray_cluster: None) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(BenchmarkError, match=f"{tmp_path}.*extension"):
        search(adapter, str(tmp_path), [TEXT])
    with pytest.raises(BenchmarkError, match="nowhere is not a directory"):
        search(adapter, str(tmp_path / "nowhere"), [TEXT])
    with pytest.raises(AdapterError, match="is not an adapter"):
        search(tmp_path, str(tmp_path), [TEXT])
    with pytest.raises(ConfigError, match="texts to search for"):
        search(adapter, str(tmp_path), [" "])
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    with pytest.raises(ConfigError, match=r"none of the 1 videos .* can be read"):
        search(adapter, str(tmp_path), [TEXT])


def test_the_command_prints_every_text_and_takes_overrides(adapter: Path, gallery: Path, ray_cluster: None) -> None:
    cache = gallery.parent / "elsewhere"
    result = CliRunner().invoke(
        app, ["search", str(adapter), str(gallery), TEXT, "1 + 1 = 2", f"data.cache={cache}", "--top", "2"]
    )
    assert result.exit_code == 0, result.output
    assert TEXT in result.output and "1 + 1 = 2" in result.output and "6 videos searched, 1 cannot be read" in result.output
    assert list(cache.glob("frames/gallery-*/index-*.parquet"))
