"""The page of what was retrieved: which queries it shows, its pictures, and that it needs nothing beside itself."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.data import shards
from pipelines.data.lists import index_records
from pipelines.data.options import store_folder, store_options
from pipelines.data.store import MANIFEST
from pipelines.report.retrieved import (
    HEIGHT,
    STRIP,
    Ranking,
    Scored,
    choose,
    page,
    read_rankings,
    read_run,
    strip,
    write_retrieved,
)
from pipelines.tracking import tracked_run
from tests.support.browser import CHROMIUM, browser
from vop.benchmarks import Record
from vop.config import ConfigError, Experiment, load_experiment
from vop.model.adapter import Adapter, save_adapter

CLIPS = [f"clip {number}.mp4" for number in range(8)]
HEADER = ["query", "video_id", "group", "rank", "top", "scores"]


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    """An experiment whose frame store lies below tmp_path: eight clips of one colour each, the last two frames padding."""
    tree = {
        "backbone": {"name": "ViT-toy", "pretrained": "ViT-toy.safetensors"},
        "benchmark": {"name": "folder", "videos": str(tmp_path)},
        "frames": {"count": 6},
        "tuning": {"name": "zero-shot"},
        "data": {"cache": str(tmp_path / "cache")},
        "tracking": {"output": str(tmp_path / "runs")},
    }
    experiment = load_experiment(tree)
    folder = Path(store_folder(experiment, 64))
    (folder / "frames").mkdir(parents=True)
    rows = []
    for place, name in enumerate(CLIPS):
        pixels = np.full((64, 64, 3), 30 * place, np.uint8)
        common = {"key": f"k{place}", "video_id": name, "path": name, "ok": True, "decoder": "pyav"}
        rows.append({**common, "frames": [pixels.tobytes()] * 4, "indices": range(4), "times": [0.0] * 4})
    tables = [pa.Table.from_pylist([row], schema=shards.SCHEMA) for row in rows]
    options = store_options(experiment, 64)
    shards.write(str(folder), [row["key"] for row in rows], tables, options)
    records = [Record(name, name, (f"query <b>{place}</b>",), "test") for place, name in enumerate(CLIPS)]
    index_records(str(folder), records, [f"k{place}" for place in range(len(CLIPS))], options)
    return experiment


def ranking(query: int, rank: float, group: str = "", top: int = 6) -> Ranking:
    """A query whose own clip is CLIPS[query], found at `rank`."""
    clips = [clip for clip in CLIPS if clip != CLIPS[query]]
    clips.insert(int(rank) - 1, CLIPS[query])
    return Ranking(f"query <b>{query}</b>", CLIPS[query], group, rank, clips[:top], [0.9 - 0.1 * i for i in range(top)])


def scored(experiment: Experiment, ranks: list[float], name: str = "run", groups: str = "") -> Scored:
    return Scored(name, experiment, [ranking(i, rank, groups[i : i + 1]) for i, rank in enumerate(ranks)])


def write(folder: Path, run: Scored, notes: dict[str, str] | None = None) -> Path:
    """An adapter's folder with the rankings of a run."""
    import csv

    save_adapter(Adapter(run.experiment, {"weights": 64 * "0"}, {}, notes or {}), folder)
    with (folder / "queries.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for r in run.rankings:
            scores = " ".join(f"{score:.4f}" for score in r.scores)
            writer.writerow([r.query, r.video_id, r.group, r.rank, "\t".join(r.top), scores])
    return folder


def shown_ranks(rows: list[tuple[Ranking, ...]]) -> list[tuple[float, ...]]:
    return [tuple(ranking.rank for ranking in row) for row in rows]


def test_one_run_comes_worst_first_and_says_what_is_left_out(experiment: Experiment) -> None:
    shown = choose([scored(experiment, [1, 5, 2.5, 1, 3, 1])], limit=3)
    assert shown_ranks(shown.rows) == [(5,), (3,), (2.5,)]
    assert shown.total == 6 and shown.omitted == "Left out: 3 more that come after these (3 queries)."
    assert choose([scored(experiment, [1, 5])], limit=9).omitted == "Nothing is left out."


def test_each_group_has_its_share_of_the_page(experiment: Experiment) -> None:
    run = scored(experiment, [6, 5, 4, 3, 2, 1], groups="aaaabb")
    shown = choose([run], limit=4)
    assert shown_ranks(shown.rows) == [(6,), (5,), (2,), (1,)]
    assert shown.omitted == "Left out: 2 more that come after these (2 a)."
    assert shown_ranks(choose([run], 4, group="b").rows) == [(2,), (1,)]
    with pytest.raises(ConfigError, match="the groups of this run are a, b"):
        choose([run], 4, group="c")


def test_two_runs_show_where_they_disagree_the_widest_first(experiment: Experiment) -> None:
    first, second = scored(experiment, [1, 2, 6, 4], "a"), scored(experiment, [1, 1, 1, 5], "b")
    shown = choose([first, second], limit=9)
    assert shown_ranks(shown.rows) == [(6, 1), (2, 1), (4, 5)]
    assert shown.omitted == "Left out: 1 queries on which both rank the truth the same."
    with pytest.raises(ConfigError, match="the same for all 4 queries"):
        choose([first, first], limit=9)
    with pytest.raises(ConfigError, match="different queries"):
        choose([first, scored(experiment, [1, 2])], limit=9)


def test_a_strip_shows_real_frames_in_the_order_of_time() -> None:
    pixels = np.stack([np.full((64, 64, 3), value, np.uint8) for value in (0, 80, 160, 240, 255, 255)])
    url = strip(pixels, np.array([True] * 4 + [False] * 2))
    image = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))))
    assert image.size == (STRIP * (HEIGHT + 2) - 2, HEIGHT)
    middles = [image.getpixel((place * (HEIGHT + 2) + HEIGHT // 2, HEIGHT // 2)) for place in range(STRIP)]
    assert [abs(middle[0] - value) < 6 for middle, value in zip(middles, (0, 80, 160, 240), strict=True)] == [True] * 4
    short = strip(pixels[:1], np.array([True]))  # a clip of one frame
    assert short.startswith("data:image/jpeg;base64,")


@pytest.mark.usefixtures("slow")
@pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")
@pytest.mark.parametrize("width", [400, 1280])
def test_a_long_name_leaves_its_score_whole(experiment: Experiment, tmp_path: Path, width: int) -> None:
    run = scored(experiment, [1, 7, 2])
    (tmp_path / "page.html").write_text(
        page([run], choose([run], 9)).replace("clip 3.mp4", "a long name of a clip " * 9), "utf-8"
    )
    with browser(tmp_path) as shown:
        shown.look(width, 900)
        shown.go(f"file://{tmp_path}/page.html")
        shown.wait("!!document.querySelector('.line')")
        scores = "[...document.querySelectorAll('.line > :last-child')]"
        inside = "e.getBoundingClientRect().right <= e.closest('li').getBoundingClientRect().right"
        assert shown.value(f"{scores}.every(e => e.scrollWidth <= e.clientWidth + 1 && {inside})")
        assert shown.value("document.documentElement.scrollWidth <= innerWidth")


def test_the_page_is_whole_marks_the_truth_and_escapes(experiment: Experiment) -> None:
    runs = [scored(experiment, [1, 7, 2], "a <i>"), scored(experiment, [3, 1, 1], "b")]
    text = page(runs, choose(runs, 9))
    assert text.count("<article") == 3 and text.count('class="clip truth"') == 6  # also where it is not among the first five
    assert "<b>0" not in text and "query &lt;b&gt;0&lt;/b&gt;" in text and "<i>" not in text
    assert not re.findall(r'(?:src|href)="(?!#)', text) and not re.findall(r"url\((?!data:image/jpeg)", text)
    pictures = re.findall(r"\.(c\d+) \{ background-image", text)
    assert len(pictures) == len(set(pictures)) == len({clip for run in runs for r in run.rankings for clip in r.top[:5]})
    assert set(re.findall(r'class="strip (c\d+)"', text)) <= set(pictures)
    assert 'data-outcome="10"' in text and 'data-outcome="01"' in text


def test_a_rank_beyond_the_list_has_no_score(experiment: Experiment) -> None:
    far = Ranking("query <b>7</b>", CLIPS[7], "", 7.5, CLIPS[:6], [0.5] * 6)
    run = Scored("run", experiment, [far])
    text = page([run], choose([run], 1))
    assert "rank of the truth: 7.5 (tied)" in text and "7.5. clip 7.mp4" in text


def test_a_store_that_holds_other_videos_by_now_is_refused(experiment: Experiment) -> None:
    """A benchmark that was made anew keeps its names: its pictures would not be those that the run saw."""
    run = scored(experiment, [2, 1])
    changed = replace(run, rankings=[replace(run.rankings[0], query="a dog"), run.rankings[1]])
    with pytest.raises(ConfigError, match=r"'a dog' is not a caption of clip 0\.mp4"):
        page([changed], choose([changed], 9))


def test_names_with_spaces_survive_and_an_ambiguous_file_is_refused(experiment: Experiment, tmp_path: Path) -> None:
    run = scored(experiment, [1, 2, 3])
    assert read_rankings(write(tmp_path / "one", run) / "queries.csv")[1].top == run.rankings[1].top
    old = tmp_path / "old.csv"
    old.write_text("query,video_id,group,rank,top,scores\nq,clip 0.mp4,,1.0,clip 0.mp4 clip 1.mp4,0.5 0.4\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="4 clips and 2 scores"):
        read_rankings(old)
    old.write_text("query,video_id,group,rank,top,scores\nq,video1,,1.0,video1 video2,0.5 0.4\n", encoding="utf-8")
    assert read_rankings(old)[0].top == ["video1", "video2"]
    old.write_text("query,rank\nq,1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="no column group, scores, top, video_id"):
        read_rankings(old)


@pytest.mark.usefixtures("slow")
def test_a_run_of_mlflow_gives_the_same_page_as_its_folder(experiment: Experiment, tmp_path: Path) -> None:
    with tracked_run(experiment) as run:
        folder = write(tmp_path / "adapter", scored(experiment, [2, 1, 4]), {"run": run.id})
        run.artifact(folder / "queries.csv")
    here, there, said = tmp_path / "here.html", tmp_path / "there.html", tmp_path / "said.html"
    only_tracking = Experiment(tracking=experiment.tracking)
    write_retrieved([str(folder)], only_tracking, here)
    write_retrieved([run.id[:12]], only_tracking, there)
    write_retrieved([str(write(folder, scored(experiment, [2, 1, 4])))], experiment, said)
    assert said.read_text(encoding="utf-8") == here.read_text(encoding="utf-8"), (
        "without a run, the recipe says where frames are"
    )
    name = f"{experiment.name} ({run.id[:8]})"
    assert there.read_text(encoding="utf-8").replace(name, "adapter") == here.read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match="0 runs"):
        read_run("feedface", experiment)
    with tracked_run(experiment) as without:
        pass
    with pytest.raises(ConfigError, match="no artifact"):
        read_run(without.id, experiment)


def test_the_command_says_in_one_sentence_what_is_missing(experiment: Experiment, tmp_path: Path) -> None:
    folder = write(tmp_path / "adapter", scored(experiment, [2, 1]))
    run = CliRunner().invoke
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(experiment.tree()), encoding="utf-8")
    output = ["--output", str(tmp_path / "page.html"), "--recipe", str(recipe)]
    result = run(app, ["retrieved", str(folder), *output])
    assert result.exit_code == 0 and "2 of 2 queries" in result.output and (tmp_path / "page.html").is_file()
    (Path(store_folder(experiment, 64)) / MANIFEST).unlink()
    for argument, what in ((str(folder), "vop prepare"), (str(tmp_path), "adapter.json is missing")):
        result = run(app, ["retrieved", argument, *output])
        assert result.exit_code == 2 and what in " ".join(result.output.split())
