"""Searching an index: moments with sensible times, filters, JSON, exact scores, pictures as queries. No Ray."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from pipelines.cli import app
from pipelines.search import windows
from pipelines.search.build import index
from tests.support.long import CLIPS, SECONDS, stream_here, write_long
from vop.config import load_experiment
from vop.errors import VopError
from vop.index import search
from vop.index.search import Hit, Index
from vop.index.spans import Timeline, spans
from vop.model.adapter import adapter_of, save_adapter
from vop.model.retrieval import build_model
from vop.retriever import Retriever
from vop.toy.videos import frames_of
from vop.video.windows import WindowRule, read_windows

BOX = "a golden box on a wavy background"
STAR = "an orange star on a dark background"
ORDER = {"forward": [0, 1, 2, 3], "back/backward": [3, 2, 1, 0], "short": [3]}  # the scenes of each video


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of two videos of four scenes and of one of a single scene, shorter than a window."""
    root = tmp_path_factory.mktemp("moments")
    for name, order in ORDER.items():
        write_long(root / "videos" / f"{name}.mp4", [CLIPS[n] for n in order], 6 if name == "short" else SECONDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "stream", stream_here)
        index(str(root / "videos"), str(root / "index"), "ViT-toy")
    return root


@pytest.fixture(scope="module")
def opened(folder: Path) -> Index:
    return Index.open(folder / "index", device="cpu")


def named(hits: list[Hit]) -> list[str]:
    return [Path(hit.video).stem for hit in hits]


@pytest.mark.parametrize(("text", "scene"), [(BOX, 2), (STAR, 3)])
def test_a_scene_is_found_where_it_is(opened: Index, text: str, scene: int) -> None:
    hits = opened.search(text, top=3)
    for video in ("forward", "backward"):
        hit = next(hit for hit in hits if Path(hit.video).stem == video)
        start = SECONDS * ORDER[{"backward": "back/backward"}.get(video, video)].index(scene)
        assert start - SECONDS / 2 <= hit.start <= start < start + SECONDS <= hit.end <= start + 1.5 * SECONDS
        assert -1 <= hit.score <= 1


def test_scores_are_those_of_the_windows_themselves(opened: Index, folder: Path) -> None:
    """Brute force, in single precision: what half precision loses is below 1e-3."""
    retriever = Retriever.load("ViT-toy", device="cpu")
    expected, rule = [], WindowRule(10, 5, 12, 64)
    for path in sorted((folder / "videos").rglob("*.mp4")):
        for part in read_windows(str(path), rule):
            with torch.inference_mode():
                rows = retriever.model.encode_video(torch.from_numpy(part.frames()), torch.from_numpy(part.mask_WF))
            scores = rows.numpy() @ retriever.embed_texts([BOX])[0]
            expected += [(str(path), *times) for times in zip(part.start_W, part.end_W, scores, strict=True)]
    best = max(expected, key=lambda each: each[3])
    hit = opened.search(BOX, top=1)[0]
    assert hit.score == pytest.approx(best[3], abs=1e-3)
    assert len(expected) == len(opened)
    assert sorted(opened.cosines.vectors @ retriever.embed_texts([BOX])[0]) == pytest.approx(
        sorted(e[3] for e in expected), abs=1e-3
    )


def test_a_video_no_longer_than_a_window_scores_as_the_retriever_says(opened: Index, folder: Path) -> None:
    short = folder / "videos/short.mp4"
    (hit,) = opened.search(STAR, path="*/short.mp4")
    assert (hit.start, hit.end) == (0, 6)
    assert hit.score == pytest.approx(float(Retriever.load("ViT-toy").similarity([STAR], [short])[0, 0]), abs=1e-3)


def test_filters(opened: Index) -> None:
    every = opened.search(BOX, top=100)
    assert set(named(every)) == {"forward", "backward", "short"} and len(every) > 3
    assert set(named(opened.search(BOX, path="*/back/*"))) == {"backward"}
    assert named(opened.search(BOX, duration=(0, 10))) == ["short"]
    assert set(named(opened.search(BOX, duration=(10, 100)))) == {"forward", "backward"}
    assert all(hit.start >= 10 and hit.end <= 25 for hit in opened.search(BOX, time=(10, 25)))
    assert len(opened.search(BOX, top=2)) == 2
    assert {hit.score for hit in opened.search(BOX, top=100, threshold=0.3)} == {h.score for h in every if h.score >= 0.3}
    assert opened.search(BOX, path="nothing") == opened.search(BOX, threshold=1.1) == []


def test_moments_of_a_video_do_not_overlap(opened: Index) -> None:
    hits = opened.search(BOX, top=100)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    for one in hits:
        for other in hits:
            assert one is other or one.video != other.video or one.end <= other.start or other.end <= one.start


def test_spans_of_known_scores() -> None:
    line = Timeline(np.array([0] * 6 + [1]), np.array([*range(0, 30, 5), 0.0]), np.array([*range(10, 40, 5), 10.0]))
    score_N = np.array([0, 0.1, 0.9, 1, 0.2, 0, 0.5], np.float32)
    found = [(s.video, s.start, s.end, round(s.score, 3)) for s in spans(score_N, line, 9, -np.inf, 0.1)]
    assert found == [(0, 10, 25, 1), (1, 0, 10, 0.5), (0, 0, 10, 0), (0, 25, 35, 0)]
    assert [s.score for s in spans(score_N, line, 9, 0.4, 0.1)] == [1, 0.5]
    assert spans(np.full(7, -np.inf, np.float32), line, 9, -np.inf, 0) == []


def test_a_picture_or_a_clip_finds_what_looks_like_it(opened: Index, tmp_path: Path) -> None:
    picture = frames_of(CLIPS[2])[0][:84, :84]
    with av.open(str(tmp_path / "box.png"), "w", format="image2") as container:
        stream = container.add_stream("png")
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    for like in (tmp_path / "box.png", write_long(tmp_path / "box.mp4", CLIPS[2:3])):
        for hit in opened.search(like=like, top=2):
            assert Path(hit.video).stem in ("forward", "backward")
            start = 20 if Path(hit.video).stem == "forward" else 10
            assert hit.start <= start + 5 < hit.end and 0.5 < hit.score <= 1.001
    with pytest.raises(VopError, match=r"nothing\.png: no such file"):
        opened.search(like=tmp_path / "nothing.png")


def test_a_query_says_one_thing(opened: Index) -> None:
    for query in ({}, {"text": " "}, {"text": "a", "like": "b"}, {"text": "a", "top": 0}):
        with pytest.raises(VopError, match="give a text or like=FILE"):
            opened.search(**query)  # type: ignore[arg-type]


def test_the_same_video_under_two_names_is_one_hit(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "stream", stream_here)
    for name in ("one", "two"):
        (tmp_path / f"v/{name}.mp4").parent.mkdir(exist_ok=True)
        (tmp_path / f"v/{name}.mp4").write_bytes((folder / "videos/short.mp4").read_bytes())
    index(str(tmp_path / "v"), str(tmp_path / "index"), "ViT-toy")
    (hit,) = Index.open(tmp_path / "index").search(STAR)
    assert named([hit]) == ["one"] and hit.also == (str(tmp_path / "v/two.mp4"),)
    (hit,) = Index.open(tmp_path / "index").search(STAR, path="*/two.mp4")
    assert named([hit]) == ["two"] and hit.also == (str(tmp_path / "v/one.mp4"),)


@pytest.mark.parametrize("head", ["xpool", "wti"])
def test_a_head_with_a_score_of_its_own_scores_the_windows(
    head: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = load_experiment("toy", [f"head.name={head}", "frames.count=4", "text_prompt.suffix=0"])
    model = build_model(experiment)
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    adapter = save_adapter(adapter_of(model, experiment), tmp_path / "adapter")
    monkeypatch.setattr(windows, "stream", stream_here)
    index(str(folder / "videos"), str(tmp_path / "index"), str(adapter))
    opened, retriever = Index.open(tmp_path / "index", device="cpu"), Retriever.load(adapter, device="cpu")
    (hit,) = opened.search(BOX, path="*/short.mp4")
    assert hit.score == pytest.approx(float(retriever.similarity([BOX], [folder / "videos/short.mp4"])[0, 0]), abs=1e-5)
    every = opened.search(BOX, top=100)
    assert {Path(each.video).stem for each in every} == {"forward", "backward", "short"}
    monkeypatch.setattr(search, "RANKED", 1)
    assert len({each.video for each in opened.search(BOX, top=100)}) == 1, "of the nearest windows alone"


# -- the command -----------------------------------------------------------------------------------------------------------


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, list(map(str, words)))


def test_json_has_a_fixed_form(folder: Path, tmp_path: Path, opened: Index) -> None:
    (tmp_path / "queries.txt").write_text(f"{BOX}\n\n  {STAR} \n", encoding="utf-8")
    done = run("search", folder / "index", "1 + 1 = 2", "--queries", tmp_path / "queries.txt", "--top", "2", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert list(found) == ["format", "index", "videos", "windows", "unreadable", "queries"]
    assert (found["format"], found["videos"], found["windows"]) == (1, 3, len(opened))
    assert [query["text"] for query in found["queries"]] == ["1 + 1 = 2", BOX, STAR]
    (hit, _) = found["queries"][1]["hits"]
    assert list(hit) == ["video", "start", "end", "score", "also"]
    assert hit == json.loads(json.dumps(vars(opened.search(BOX)[0])))


def test_the_command_prints_moments(folder: Path) -> None:
    done = run("search", folder / "index", BOX, "--time", "10:40", "--path", "*forward*", "--top", "1")
    assert done.exit_code == 0, done.output
    assert "0:20  0:" in done.stdout and "forward.mp4" in done.stdout and "videos searched" in done.stdout
    like = run("search", folder / "index", "--like", folder / "videos/short.mp4", "--top", "1")
    assert "short.mp4" in like.stdout.splitlines()[-3] and "1.000" in like.stdout, like.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give texts to search for, --queries FILE or --like FILE"),
        ([BOX, "--duration", "5"], "--duration: '5' is no range of seconds; valid: MIN:MAX"),
        ([BOX, "--time", "9:3"], "--time: '9:3' is no range"),
        (["--queries", "/no/file"], "--queries: /no/file: "),
    ],
)
def test_a_wrong_command_is_a_sentence(folder: Path, words: list[str], said: str) -> None:
    done = run("search", folder / "index", *words)
    assert done.exit_code == 2 and said in done.stderr


def test_options_of_an_index_are_refused_without_one(tmp_path: Path) -> None:
    done = run("search", tmp_path, tmp_path, "a", "--json")
    assert done.exit_code == 2 and f"{tmp_path} is no index" in done.stderr


# -- what it costs ---------------------------------------------------------------------------------------------------------


def test_opening_imports_no_torch_and_takes_no_time(folder: Path) -> None:
    code = (
        "import sys, time, vop; vop.Index.open(sys.argv[1]); "
        "assert not {'torch', 'open_clip', 'ray', 'av'} & set(sys.modules); assert time.process_time() < 2"
    )
    subprocess.run([sys.executable, "-c", code, str(folder / "index")], check=True)


def test_a_second_search_is_milliseconds(opened: Index) -> None:
    opened.search(BOX)
    started = time.process_time()
    for _ in range(10):
        opened.search(BOX)
    assert (time.process_time() - started) / 10 < 0.1
