"""The report, from runs with made-up numbers in an SQLite store: which runs stand behind which cell, and the three files."""

from __future__ import annotations

import csv
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities import Metric, Param, RunTag
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.report import page_of, report
from pipelines.report.ablations import AXES, ablation
from pipelines.report.cells import Book, book_of
from pipelines.report.page import csv_text, html, markdown
from pipelines.report.tables import Section, Value, figure_1, figure_3, gains, table_1, table_2
from pipelines.tracking import LoggedRun, logged_runs, tracking_uri
from pipelines.tracking.experiment import experiment_id
from tests.support.browser import CHROMIUM, browser
from vop.config import ConfigError, load_experiment, params_of
from vop.paper.methods import METHODS, overrides_of

TOY = {"backbone.name": "ViT-toy", "backbone.pretrained": "ViT-toy.safetensors", "frames.count": 8, "training.epochs": 6}
SCORES = {name: 20.0 + 2 * place for place, name in enumerate(METHODS)}


def metrics_of(score: float) -> dict[str, float]:
    """All that a run on toy logs of its test, each number another distance from `score`."""
    ways = {"t2v": 0.0, "v2t": 1.0, "dsl/t2v": 3.0, "dsl/v2t": 4.0, "qbnorm/t2v": 2.0, "ordinary/t2v": 5.0, "ordinary/v2t": 6.0}
    extra = {"R1": 0.0, "R5": 10.0, "R10": 20.0, "MdR": 1.0, "MnR": 2.0}
    metrics = {f"test/{way}/{m}": score + shift + more for way, shift in ways.items() for m, more in extra.items()}
    counts = {"test/t2v/queries": 240.0, "trainable_parameters": 1000.0 + 100 * score}
    return metrics | counts | {"test/pair_accuracy": 50.0}


class Store:
    """An SQLite store that takes runs."""

    def __init__(self, folder: Path, new_database: Path):
        shutil.copy(new_database, folder / "mlflow.db")
        self.experiment = load_experiment({"tracking": {"output": str(folder)}})
        self.client = mlflow.MlflowClient(tracking_uri=tracking_uri(self.experiment.tracking))
        self.id = experiment_id(self.client, self.experiment.tracking)
        self.clock = 1_700_000_000_000

    def add(
        self, overrides: dict[str, Any], score: float, *, status: str = "FINISHED", val: tuple[float, ...] = (), name: str = ""
    ) -> str:
        """Log a run with these dotted overrides and test scores made from `score`; returns its id."""
        experiment = load_experiment({}, [f"{key}={value}" for key, value in overrides.items()])
        self.clock += 1000
        run_id = self.client.create_run(self.id, start_time=self.clock, run_name=name or "any").info.run_id
        tags = {"commit": "abc1234567", "seed": experiment.seed, "selected_on": experiment.training.select}
        self.client.log_batch(
            run_id,
            [Metric(k, v, 0, 0) for k, v in metrics_of(score).items()]
            + [Metric("val/t2v/R1", v, 0, step) for step, v in enumerate(val)],
            [Param(key, text) for key, text in params_of(experiment).items()],
            [RunTag(k, str(v)) for k, v in tags.items()],
        )
        self.client.set_terminated(run_id, status)
        return run_id

    def book(self) -> Book:
        return book_of(logged_runs(self.experiment.tracking))


@pytest.fixture(scope="module")
def new_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables and nothing in them: MLflow takes many seconds to make one."""
    file = tmp_path_factory.mktemp("new") / "mlflow.db"
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture(scope="module")
def store(new_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Every method on toy with three seeds, sweeps of VoP and VoP^F, two other benchmarks, and runs that must not count."""
    store = Store(tmp_path_factory.mktemp("runs"), new_database)
    for name, score in SCORES.items():
        for seed in range(3):
            store.add({**TOY, **overrides_of(name), "seed": seed}, score + seed, val=(score,), name=f"misleading-{seed}")
    for depth in ("1-3", "1-6", "4-12"):
        for seed in range(2):
            keys = {"text_prompt.depth": depth, "video_prompt.depth": depth, "seed": seed}
            store.add({**TOY, **keys}, 30.0 + int(depth[2:]) / 2 + seed, val=(1.0,))
    for length in (2, 4, 16):
        store.add({**TOY, "text_prompt.length": length, "video_prompt.length": length}, 30.0 + length / 4)
        store.add({**TOY, "video_prompt.length": length}, 29.0 + length / 4)
    for split in (2, 4, 6, 10):
        store.add({**TOY, "video_encoder.split_layer": split}, 40.0 + split)
    for length in (0, 2, 6):
        for kind in ("position", "context"):
            store.add({**TOY, "video_prompt.name": kind, "video_prompt.specific_length": length}, 40.0 + length)
    store.add({**TOY, "video_prompt.name": "context", "video_prompt.module": "lstm"}, 41.0)
    store.add({**TOY, "video_prompt.name": "context", "video_prompt.role": "cls"}, 39.0)
    store.add({**TOY, "seed": 7}, 99.0, status="FAILED")
    store.add({**TOY, "seed": 8}, 98.0, status="KILLED")
    store.add({**TOY, "seed": 9, "training.select": "test"}, 97.0)
    store.add({**TOY, "seed": 9, "training.epochs": 1}, 5.0)
    store.add({**TOY, "text_prompt.length": 3}, 12.0)  # a point of the text-only line
    store.add({**TOY, "text_prompt.length": 3, "video_prompt.length": 5}, 12.0)  # of no table
    store.client.set_terminated(store.client.create_run(store.id, tags={"sweep": "a parent"}).info.run_id)
    return store


@pytest.fixture
def empty(new_database: Path, tmp_path: Path) -> Store:
    return Store(tmp_path, new_database)


@pytest.fixture(scope="module")
def book(store: Store) -> Book:
    return store.book()


def row(section: Section, label: str) -> dict[str, Value | str]:
    return dict(zip(section.columns, dict(section.rows)[label], strict=True))


def number(value: Value | str) -> float | None:
    assert isinstance(value, Value)
    return value.ours


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_its_row_of_table_1(book: Book, name: str) -> None:
    found = row(table_1(book, "toy"), name)
    assert number(found["t2v R@1"]) == SCORES[name] + 1  # the mean of + 0, 1, 2
    assert str(found["v2t R@5"]) == f"{SCORES[name] + 12:.1f} ± 1.0"
    assert (found["queries"], found["seeds"], found["commit"]) == ("240", "3", "abc1234567")
    cell = book.method("toy", name)
    assert cell and {entry.params["seed"] for entry in cell.entries} == {"0", "1", "2"}


def test_ndcg_and_map_stand_beside_r1_where_runs_have_logged_them(empty: Store) -> None:
    run = empty.add(TOY, 30.0)
    assert gains(empty.book(), "toy") is None
    for name, score in (("nDCG10", 44.0), ("MAP", 40.0)):
        empty.client.log_metric(run, f"test/t2v/{name}", score)
    found = gains(empty.book(), "toy")
    assert found is not None
    assert {name: number(score) for name, score in row(found, "VoP").items()} == {"R@1": 30.0, "nDCG@10": 44.0, "MAP": 40.0}
    assert found in page_of(empty.book(), "toy").sections


def test_a_sweep_point_is_not_the_method(book: Book) -> None:
    """VoP at another length, depth or split stands in its figure alone."""
    length, points = ablation(book, "toy", AXES[1]), {"4": 31.0, "8": SCORES["VoP"] + 1, "16": 34.0}
    assert {x: number(v) for x, v in row(length, "VoP").items()} == {"0": None, "2": 30.5, "3": None, **points}
    assert number(row(length, "VoP, only video")["16"]) == 33.0
    assert number(row(length, "VoP, only text")["3"]) == 12.0
    assert number(row(length, "VoP, only video")["0"]) == SCORES["VoP text only"] + 1
    depth = row(ablation(book, "toy", AXES[0]), "VoP")
    assert {x: number(v) for x, v in depth.items()} == {"1-3": 32.0, "1-6": 33.5, "1-12": SCORES["VoP"] + 1, "4-12": 36.5}
    assert isinstance(depth["1-3"], Value) and depth["1-3"].std == pytest.approx(0.5**0.5)
    split = row(ablation(book, "toy", AXES[3]), "VoP^F")
    assert [number(v) for v in split.values()] == [42.0, 44.0, 46.0, SCORES["VoP^F"] + 1, 50.0, SCORES["VoP"] + 1]
    assert list(split) == ["2", "4", "6", "8", "10", "12"]  # a split after the last layer is basic VoP
    specific = ablation(book, "toy", AXES[2])
    assert {label for label, _ in specific.rows} == {"VoP^P", "VoP^C"}


@pytest.mark.usefixtures("slow")
def test_what_may_not_count_does_not(book: Book) -> None:
    reasons = [reason for _, reason in book.left_out]
    assert {"FAILED", "KILLED"} <= set(reasons)
    assert sum("selected on test" in reason for reason in reasons) == 1
    assert "another protocol: training.epochs=1" in reasons
    shown = row(page_of(book, "toy").sections[-1], "in no table: text_prompt.length=3, video_prompt.length=5 on toy")
    assert shown["runs"] == "1"


@pytest.mark.usefixtures("slow")
def test_every_run_is_either_counted_or_left_out_with_a_reason(store: Store, book: Book) -> None:
    page = page_of(book, "toy")
    counted, left = (next(s for s in page.sections if s.slug == slug) for slug in ("runs", "left-out"))
    experiments = [run for run in logged_runs(store.experiment.tracking) if run.params]
    assert len(counted.rows) + sum(int(str(values[0])) for _, values in left.rows) == len(experiments)


def test_of_two_runs_with_one_seed_the_later_counts_even_if_it_is_worse(empty: Store) -> None:
    empty.add({**TOY, "seed": 0}, 50.0)
    empty.add({**TOY, "seed": 0}, 40.0)
    found = row(table_1(empty.book(), "toy"), "VoP")
    assert str(found["t2v R@1"]) == "40.0" and found["seeds"] == "1"
    assert [reason for _, reason in empty.book().left_out] == ["the same experiment and seed was run again later"]


def test_the_learning_rate_is_chosen_on_validation_never_on_test(empty: Store) -> None:
    """Best of all epochs on validation, on shared seeds; the rate that is best on test, or on its last epoch, is not taken."""
    empty.add({**TOY, "training.learning_rate": 1e-3}, 60.0, val=(10.0, 12.0, 30.0))
    empty.add({**TOY, "training.learning_rate": 1e-4}, 40.0, val=(50.0, 20.0))
    empty.add({**TOY, "training.learning_rate": 1e-4, "seed": 1}, 42.0, val=(5.0,))
    empty.add({**TOY, "training.learning_rate": 1e-5, "seed": 0}, 90.0, val=(49.0,))
    found = row(table_1(empty.book(), "toy"), "VoP")
    assert number(found["t2v R@1"]) == 41.0 and found["learning rate"] == "0.0001 of 3"
    assert sum("best on validation" in reason for _, reason in empty.book().left_out) == 2


def test_an_open_learning_rate_is_the_default_of_its_protocol(empty: Store) -> None:
    from vop.tuning.prompts import LEARNING_RATE

    empty.add({**TOY, "seed": 0}, 40.0)
    empty.add({**TOY, "seed": 1, "training.learning_rate": LEARNING_RATE}, 42.0)
    assert row(table_1(empty.book(), "toy"), "VoP")["seeds"] == "2"


def test_a_cell_with_runs_selected_on_test_alone_is_marked(empty: Store) -> None:
    empty.add({**TOY, "training.select": "test"}, 44.0)
    book = empty.book()
    assert str(row(table_1(book, "toy"), "VoP")["t2v R@1"]) == "44.0†"
    assert "44.0†" in html(page_of(book, "toy")) and ",test," in csv_text(page_of(book, "toy"))


def test_a_recipe_says_which_protocol_counts(empty: Store) -> None:
    for seed in range(3):
        empty.add({**TOY, "seed": seed}, 40.0)
    short = {**TOY, "training.epochs": 1}
    empty.add(short, 10.0)
    assert number(row(table_1(empty.book(), "toy"), "VoP")["t2v R@1"]) == 40.0
    wanted = load_experiment({}, [f"{key}={value}" for key, value in short.items()])
    book = book_of(logged_runs(empty.experiment.tracking), params_of(wanted))
    assert number(row(table_1(book, "toy"), "VoP")["t2v R@1"]) == 10.0


def test_resources_and_folders_do_not_part_runs_but_frames_do(empty: Store) -> None:
    empty.add({**TOY, "seed": 0}, 40.0)
    empty.add(
        {**TOY, "seed": 1, "resources.num_workers": 2, "data.cache": "/elsewhere", "frames.decoder": "pyav", "name": "x"}, 42.0
    )
    empty.add({**TOY, "seed": 2, "frames.count": 4}, 80.0)
    assert row(table_1(empty.book(), "toy"), "VoP")["seeds"] == "2"


def test_a_run_from_before_a_key_existed_has_its_default(empty: Store) -> None:
    run_id = empty.add(TOY, 40.0)
    (run,) = (r for r in logged_runs(empty.experiment.tracking) if r.id == run_id)
    older = LoggedRun(**{**vars(run), "params": {k: v for k, v in run.params.items() if k != "video_encoder.split_layer"}})
    assert book_of([older]).method("toy", "VoP")


def test_figures_1_and_3_are_differences(book: Book) -> None:
    gains = figure_1(book, "toy").column("gain")
    assert gains["VoP"].ours == pytest.approx(SCORES["VoP"] - SCORES["zero-shot"])
    assert gains["VoP"].std == pytest.approx(2**0.5)
    assert gains["VoP^F+C"].paper == pytest.approx(44.6 - 31.5)
    bars = figure_3(book, ["msrvtt-9k", "toy"])
    assert bars.column("toy")["VoP^P"].ours == pytest.approx(SCORES["VoP^P"] - SCORES["Full"])
    assert bars.column("msrvtt-9k")["VoP"].ours is None
    assert bars.column("msrvtt-9k")["VoP"].paper == pytest.approx(39.6 - 41.7)
    assert bars.column("average")["VoP^F+C"].paper == pytest.approx(1.4)


@pytest.mark.usefixtures("slow")
def test_nothing_run_is_said_and_the_papers_number_does_not_fill_in(book: Book) -> None:
    cell = table_2(book, ["msrvtt-9k", "toy"]).column("msrvtt-9k")["VoP"]
    assert (str(cell), cell.paper_text) == ("not run", "39.6")
    rows = list(csv.DictReader(csv_text(page_of(book, "toy")).splitlines()))
    (found,) = (r for r in rows if (r["section"], r["row"], r["column"]) == ("table-2", "VoP", "msrvtt-9k"))
    assert found["ours"] == "" and found["paper"] == "39.6" and found["runs"] == ""


class Tags(HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.mark.usefixtures("slow")
def test_the_page_needs_nothing_from_outside_and_escapes(store: Store, empty: Store, book: Book) -> None:
    text = html(page_of(book, "toy", [("runs read from", "<script>alert(1)</script>")]))
    tags = Tags()
    tags.feed(text)
    names = [name for name, _ in tags.found]
    assert "script" not in names and "link" not in names and names.count("svg") >= 6
    for _, attributes in tags.found:
        for key in ("src", "href", "xlink:href"):
            assert (attributes.get(key) or "#").startswith("#")
    ids = [attributes["id"] for _, attributes in tags.found if "id" in attributes]
    assert {a["href"][1:] for n, a in tags.found if n == "a" and a["href"]} <= set(ids)
    svgs = [attributes for name, attributes in tags.found if name == "svg"]
    assert all(a["role"] == "img" and a["aria-label"] for a in svgs)
    assert "url(http" not in text and "@import" not in text and "#010203" not in text
    assert len(ids) == len(set(ids))


@pytest.mark.usefixtures("slow")
@pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")
def test_the_first_table_is_whole_on_a_screen_of_1280_pixels(book: Book, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(html(page_of(book, "toy")), "utf-8")
    with browser(tmp_path) as shown:
        shown.look(1280, 900)
        shown.go(f"file://{tmp_path}/page.html")
        shown.wait("!!document.querySelector('.scroll')")
        assert shown.value("(e => e.scrollWidth - e.clientWidth)(document.querySelector('.scroll'))") <= 0


@pytest.mark.usefixtures("slow")
def test_markdown_tables_are_whole(book: Book) -> None:
    text = markdown(page_of(book, "toy"))
    assert "| VoP |" in text and "(paper 39.6)" in text and "not run" in text
    widths = [line.count(" | ") for line in text.splitlines() if line.startswith("| ")]
    blocks = re.split(r"\n\n", text)
    for block in blocks:
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1
    assert widths


@pytest.mark.usefixtures("slow")
def test_the_command_writes_three_files_and_logs_them(store: Store, tmp_path: Path) -> None:
    arguments = ["report", f"tracking.output={store.experiment.tracking.output}", "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    names = {"report.md", "report.csv", "report.html"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    (made,) = [run for run in logged_runs(store.experiment.tracking) if "report" in run.tags]
    assert made.status == "FINISHED" and not made.metrics
    assert {artifact.path for artifact in store.client.list_artifacts(made.id)} == names
    before = (tmp_path / "out" / "report.csv").read_text(encoding="utf-8")
    report(store.experiment, "toy", tmp_path / "again", with_protocol=False)
    assert (tmp_path / "again" / "report.csv").read_text(encoding="utf-8") == before  # a report is no run of its own


def test_what_is_not_there_is_one_sentence(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="benchmarks with runs: toy"):
        report(store.experiment, "toi", tmp_path, with_protocol=False)
    nowhere = load_experiment({"tracking": {"output": str(tmp_path / "nowhere")}})
    with pytest.raises(ConfigError, match="no runs yet"):
        report(nowhere, "toy", tmp_path, with_protocol=False)
    assert not (tmp_path / "nowhere").exists()
    other = load_experiment({"tracking": {"output": store.experiment.tracking.output, "experiment": "vopp"}})
    with pytest.raises(ConfigError, match=r"no experiment 'vopp'; it has .*vop"):
        logged_runs(other.tracking)


def test_more_runs_than_a_page_of_mlflow(empty: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(5):
        empty.add({**TOY, "seed": seed}, 40.0)
    search = mlflow.MlflowClient.search_runs
    monkeypatch.setattr(mlflow.MlflowClient, "search_runs", lambda *a, **k: search(*a, **{**k, "max_results": 2}))
    assert len(logged_runs(empty.experiment.tracking)) == 5
