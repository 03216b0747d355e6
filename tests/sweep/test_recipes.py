"""One sweep over several benchmarks: points are compared on each of them and on average, never across."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from pipelines.cli.tables import print_points
from pipelines.cluster.words import job_command
from pipelines.sweep import run as sweeps
from pipelines.sweep.record import Settings, Summary, benchmarks_csv, by_point
from pipelines.sweep.space import load_space
from tests.support.recipe import recipe
from vop.config import ConfigError, recipe_words, validated
from vop.paper.methods import paper_value

SPACE = """from ray.tune import grid_search
SPACE = {"method": grid_search(["VoP", "zero-shot"])}
METRIC, MODE = "val/t2v/R1", "max"
"""


def copied(videos: Path, to: Path) -> Path:
    """A benchmark whose validation and test clips are copies of those for training: the easier one."""
    with (videos / "captions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for split in ("train", "val", "test"):
        shutil.copytree(videos, to / split)
    with (to / "captions.csv").open("w", newline="") as file:
        table = [[f"{split}/{row['video']}", row["caption"], split] for split in ("train", "val", "test") for row in rows]
        csv.writer(file).writerows([["video", "caption", "split"], *table])
    return to


@pytest.fixture(scope="module")
def swept(ray_cluster: None, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, sweeps.Swept]]:
    work = tmp_path_factory.mktemp("recipes")
    (work / "space.py").write_text(SPACE)
    fast = ("resources.num_workers=1", "training.epochs=2", "training.learning_rate=0.01")
    hard = recipe(videos, work, *fast).tree() | {"video_prompt": {"length": 2}, "tuning": {}}
    copies = {"videos": str(copied(videos, work / "copies")), "shared_videos": "allow"}
    easy = {**hard, "benchmark": {**hard["benchmark"], **copies}}
    settings = Settings({"easy": easy, "hard": hard}, str(work / "space.py"))
    yield settings, sweeps.start("both", settings)


def test_points_are_ranked_on_each_benchmark(swept: tuple[Settings, sweeps.Swept]) -> None:
    _, found = swept
    assert [point.recipe for point in found.points] == ["easy", "easy", "hard", "hard"]
    assert all(point.statuses == ["FINISHED"] for point in found.points)
    for recipe_name in ("easy", "hard"):
        means = [point.mean for point in found.points if point.recipe == recipe_name]
        assert means == sorted(means, key=lambda mean: mean or 0, reverse=True)
    videos = {child.params["benchmark.videos"]: child.name for child in found.run.children()}
    assert len(videos) == 2 and len(found.run.children()) == 4
    assert {name.partition(":")[0] for name in (child.name for child in found.run.children())} == {"easy", "hard"}


def test_the_best_of_each_benchmark_and_on_average_are_registered(swept: tuple[Settings, sweeps.Swept]) -> None:
    _, found = swept
    client = mlflow.MlflowClient(found.run.uri)
    aliases = {alias: client.get_model_version_by_alias("both", alias).run_id for alias in ALIASES}
    for name in ("easy", "hard"):
        best = next(point for point in found.points if point.recipe == name)
        assert best.best is not None and aliases[f"best-{name}"] == best.best.id
        average = found.rows[0].by_recipe[name]
        assert average.best is not None and aliases[f"average-{name}"] == average.best.id
    parent = client.get_run(found.run.id).data
    assert parent.metrics["best/average/val/t2v/R1"] == max(row.average or 0 for row in found.rows)
    assert {f"best/{name}/val/t2v/R1" for name in ("easy", "hard")} <= set(parent.metrics)
    assert "best/val/t2v/R1" not in parent.metrics, "no number of one benchmark stands for all"


ALIASES = ("best-easy", "best-hard", "average-easy", "average-hard")


def test_the_table_of_benchmarks_is_printed_and_kept(
    swept: tuple[Settings, sweeps.Swept], capsys: pytest.CaptureFixture[str]
) -> None:
    _, found = swept
    print_points(found)
    printed = capsys.readouterr().out
    assert "sweep both, easy" in printed and "sweep both, hard" in printed and "test t2v R@1 by benchmark" in printed
    text = Path(mlflow.MlflowClient(found.run.uri).download_artifacts(found.run.id, "benchmarks.csv")).read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {row["point"] for row in rows} == {"VoP", "zero-shot"}
    for row in rows:
        for name in ("easy", "hard"):
            (summary,) = (p for p in found.points if p.recipe == name and p.point["method"] == row["point"])
            assert float(row[f"{name}: test/t2v/R1 mean"]) == summary.test[0]


def test_a_resumed_sweep_of_several_benchmarks_trains_nothing_twice(swept: tuple[Settings, sweeps.Swept]) -> None:
    settings, found = swept
    before = {child.id for child in found.run.children()}
    again = sweeps.resume("both", validated(settings.first).tracking)
    assert {child.id for child in again.run.children()} == before
    assert again.points == found.points


def summary(recipe_name: str, method: str, score: float | None, benchmark: str = "msrvtt-9k") -> Summary:
    scores = [] if score is None else [score]
    return Summary(recipe_name, benchmark, {"method": method}, scores, scores, ["FINISHED"], None)


def test_the_average_is_over_all_benchmarks_or_is_none(tmp_path: Path) -> None:
    (tmp_path / "space.py").write_text(SPACE)
    space = load_space(str(tmp_path / "space.py"))
    points = [summary("a", "VoP", 90), summary("a", "VoP^P", 80), summary("b", "VoP^P", 40), summary("b", "VoP", 10)]
    points += [summary("a", "Full", 99), summary("b", "Full", None)]
    rows = by_point(points, space, Settings({"a": {}, "b": {}}, ""))
    assert [(row.point["method"], row.average) for row in rows] == [("VoP^P", 60), ("VoP", 50), ("Full", None)]
    text = benchmarks_csv(rows)
    assert str(paper_value("msrvtt-9k", "VoP^P")) in text.splitlines()[1], "the paper's number stands in a column of its own"
    rated = [summary("a", "VoP", 90), summary("b", "VoP", 10)]
    rated[1].point["training.learning_rate"] = 0.1
    assert len(by_point(rated, space, Settings({}, ""))) == 2
    assert len(by_point(rated, space, Settings({}, "", rates={"b": {"VoP": 0.1}}))) == 1


def test_overrides_of_one_recipe_and_of_all() -> None:
    words = ["training.epochs=3", "didemo:benchmark.videos=s3://bucket/x", "mine:name=a:b=c"]
    assert recipe_words("didemo, sub/mine.yaml", words) == {
        "didemo": ("didemo", ["training.epochs=3", "benchmark.videos=s3://bucket/x"]),
        "mine": ("sub/mine.yaml", ["training.epochs=3", "name=a:b=c"]),
    }
    with pytest.raises(ConfigError, match="lsmdc:seed=1: there is no recipe 'lsmdc' among didemo, mine"):
        recipe_words("didemo,mine.yaml", ["lsmdc:seed=1"])
    with pytest.raises(ConfigError, match="two are called mine"):
        recipe_words("a/mine.yaml,b/mine.yaml", [])


def test_a_sweep_of_several_recipes_can_be_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("name: mine\nbenchmark: {name: folder, videos: clips}\n")
    words = ["tune", "--recipes", "toy,mine.yaml", "--space", "prompt_length", "toy:benchmark.videos=drawn"]
    command = job_command(words)
    assert command.words == [
        *("tune", "--recipes", "toy,given/1/mine.yaml", "--space", "prompt_length", f"toy:benchmark.videos={tmp_path}/drawn"),
        f"tracking.output={tmp_path}/runs",
        f"mine:benchmark.videos={tmp_path}/clips",
    ]
    assert command.files == {"given/1/mine.yaml": Path("mine.yaml")}
