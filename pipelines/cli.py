"""The `vop` command."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from pipelines.terminal import console, print_hits, print_methods, print_points, print_results, print_rows, print_steps
from vop.config import ConfigError, load_experiment, raw_tree, validated

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

Recipe = Annotated[str, typer.Argument(help="a recipe, such as experiments/toy.yaml")]
AdapterPlace = Annotated[str, typer.Argument(help="its folder, its MLflow run (the start of the id), or models:/NAME@ALIAS")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, such as training.epochs=3")]


@contextmanager
def _plain_errors() -> Iterator[None]:
    """One clear sentence for what the user can mend; a traceback for everything else."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):  # Ray Train turns Ctrl-C into an exit of its own
        console.print("[bold]stopped[/bold]")
        raise typer.Exit(130) from None
    except Exception as error:
        if not _is_for_the_user(error):
            raise
        console.print(f"[bold red]error[/bold red] {error}", markup=True, highlight=False)
        raise typer.Exit(2) from None


def _is_for_the_user(error: Exception) -> bool:
    """Whether it is an error class of this project: their messages are written for users."""
    return any(kind.__module__.partition(".")[0] in ("vop", "pipelines") for kind in type(error).__mro__)


@app.command()
def train(recipe: Recipe, overrides: Overrides = None) -> None:
    """Train a recipe and score the test split once with the checkpoint that is best on validation."""
    with _plain_errors():
        experiment = load_experiment(recipe, overrides or [])
        from pipelines.train import run_experiment

        result = run_experiment(experiment)
        print_results({experiment.name: result.metrics})
        console.print(f"adapter {result.adapter}\nMLflow  {result.run.uri}, run {result.run.id}", highlight=False)


@app.command()
def evaluate(
    adapter: AdapterPlace,
    overrides: Overrides = None,
    split: Annotated[str, typer.Option(help="train, val or test")] = "test",
) -> None:
    """Score a saved adapter: on the benchmark it was trained on, or on another (benchmark.name=... and so on)."""
    with _plain_errors():
        from pipelines.evaluate import evaluate_adapter

        evaluation = evaluate_adapter(adapter, overrides or [], split)
        print_results({Path(adapter).name: {f"{split}/{k}": v for k, v in evaluation.metrics.items()}}, split)


@app.command()
def search(
    adapter: AdapterPlace,
    videos: Annotated[str, typer.Argument(help="a folder of videos, searched at any depth")],
    texts: Annotated[list[str], typer.Argument(help="texts to search for; also key=value, such as data.cache=/scratch")],
    top: Annotated[int, typer.Option(min=1, help="videos a text")] = 5,
) -> None:
    """Which of your videos fits a text best? The first search decodes and embeds the videos, later ones only new ones."""
    with _plain_errors():
        from pipelines.search import search as run

        overrides = [text for text in texts if re.match(r"[a-z_]+(\.[a-z_]+)+=", text)]
        print_hits(run(adapter, videos, [text for text in texts if text not in overrides], top, overrides))


@app.command()
def demo(overrides: Overrides = None) -> None:
    """The whole shape once, on the embedded `toy` benchmark: zero-shot CLIP, then basic VoP, side by side."""
    with _plain_errors():
        recipe = Path(__file__).resolve().parent.parent / "experiments" / "toy.yaml"
        tuned = load_experiment(recipe, overrides or [])
        plain = load_experiment(recipe, [*(overrides or []), "tuning.name=zero-shot", "name=toy-zero-shot"])
        from pipelines.cluster import connected
        from pipelines.train import run_experiment

        with connected():
            results = {e.name: run_experiment(e) for e in (plain, tuned)}
        print_results({name: result.metrics for name, result in results.items()})
        last = results[tuned.name]
        console.print(f"adapter {last.adapter}\nMLflow  {last.run.uri}; to compare runs: vop ui", highlight=False)


@app.command()
def prepare(recipe: Recipe, overrides: Overrides = None) -> None:
    """Decode the videos of a recipe's benchmark into the frame store; only what is not there yet."""
    with _plain_errors():
        experiment = load_experiment(recipe, overrides or [])
        from pipelines.prepare import prepare as run
        from vop.backbone import image_size

        done = run(experiment, image_size(experiment.backbone))
        console.print(
            f"{done.videos} videos, {done.decoded} decoded now in {done.seconds:.0f} s, {len(done.failed)} unreadable"
            f"{f' ({done.report})' if done.report else ''}: {done.folder}",
            highlight=False,
        )


@app.command()
def ui(
    overrides: Annotated[list[str] | None, typer.Argument(help="a recipe and key=value, both optional")] = None,
    port: Annotated[int, typer.Option()] = 5000,
) -> None:
    """Open MLflow on the runs of this folder (in its "Model training" view)."""
    with _plain_errors():
        from pipelines.tracking import output_folder, tracking_uri

        tracking = load_experiment(*_recipe_and_overrides(overrides or [])).tracking
        command = ["mlflow", "server", "--backend-store-uri", tracking_uri(tracking), "--port", str(port), "--workers", "1"]
        command += ["--artifacts-destination", str(output_folder(tracking) / "artifacts")]
        os.execvp(sys.executable, [sys.executable, "-m", *command])


@app.command()
def methods(overrides: Overrides = None) -> None:
    """List every method with its recipe and what it trains, of ViT-B/32 or of backbone.name=..."""
    with _plain_errors():
        from pipelines.methods import count_methods

        print_methods(count_methods(overrides or []))


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="the authors' VoP_msrvtt9k.pth")],
    output: Annotated[Path, typer.Argument(help="the folder of the new adapter")],
    overrides: Overrides = None,
    prefix: Annotated[int, typer.Option(help="text prompts after the start token")] = 4,
    suffix: Annotated[int, typer.Option(help="text prompts before the last place")] = 4,
) -> None:
    """Make an adapter of the authors' released basic VoP (backbone.pretrained=... names the CLIP that it belongs to)."""
    with _plain_errors():
        from vop.adapter import save_adapter
        from vop.release import convert as run

        folder = save_adapter(run(checkpoint, prefix, suffix, overrides or []), output)
        console.print(f"adapter {folder}", highlight=False)


throughput = typer.Typer(no_args_is_help=True, help="The measurements that the README quotes.")
app.add_typer(throughput, name="throughput")


@throughput.command("model")
def throughput_model(
    overrides: Overrides = None,
    rounds: Annotated[int, typer.Option(help="how often each way is timed")] = 5,
) -> None:
    """A training step against the plain way to compute the same, interleaved (ViT-B/32, 4 pairs, 12 frames)."""
    with _plain_errors():
        from pipelines.throughput.model import BF16, has_bf16, measure

        print_steps(measure(overrides or [], rounds))
        if not has_bf16():
            console.print(f"{BF16}: not run, this processor has no instructions for bf16")


@throughput.command("data")
def throughput_data(
    clips: Annotated[int, typer.Option(help="clips that go through prepare in each round")] = 120,
    rounds: Annotated[int, typer.Option(help="rounds that count, after one that does not")] = 3,
    scale: Annotated[int, typer.Option(help="instead: so many tiny clips through prepare, 1 in 100 of them unreadable")] = 0,
) -> None:
    """Decoding, the frame store and `prepare` against a bare pool and the peers' readers; about five minutes on two cores."""
    with _plain_errors():
        from pipelines.throughput.data import measure
        from pipelines.throughput.scale import scale as run_scale

        print_rows("throughput data", run_scale(scale) if scale else measure(clips, rounds))


@throughput.command("sweep")
def throughput_sweep(recipe: Recipe, overrides: Overrides = None) -> None:
    """A sweep of six trials against six separate trainings of the same; about half an hour on two cores for toy."""
    with _plain_errors():
        from pipelines.throughput.sweep import measure

        print_rows("throughput sweep", measure(recipe, overrides or []))


@app.command()
def report(
    overrides: Annotated[list[str] | None, typer.Argument(help="a recipe and key=value, both optional")] = None,
    benchmark: Annotated[str, typer.Option(help="the benchmark of Table 1; default: the recipe's")] = "",
    output: Annotated[Path | None, typer.Option(help="a folder; default: report-BENCHMARK in tracking.output")] = None,
) -> None:
    """The paper's tables and figures from the runs in MLflow: Markdown, CSV and one HTML page.

    With a recipe, the runs that share its protocol (backbone, frames, training) count; without, those of the most used one.
    """
    with _plain_errors():
        recipe, changes = _recipe_and_overrides(overrides or [])
        experiment = load_experiment(recipe, changes)
        from pipelines.report import report as write
        from pipelines.tracking import output_folder

        benchmark = benchmark or experiment.benchmark.name
        folder = output or output_folder(experiment.tracking) / f"report-{benchmark}"
        written = write(experiment, benchmark, folder, with_protocol=bool(recipe))
        console.print(
            f"{written.counted} runs counted", *written.files, f"MLflow {written.run.uri}, run {written.run.id}", sep="\n"
        )


@app.command()
def tune(
    overrides: Annotated[list[str] | None, typer.Argument(help="a recipe and key=value, both optional")] = None,
    space: Annotated[str, typer.Option(help="a file of tune_spaces/, or a .py file; several with commas")] = "",
    sampler: Annotated[str, typer.Option(help="grid, random, or tpe (Optuna, which learns from the trials)")] = "grid",
    samples: Annotated[int, typer.Option(min=1, help="points for random and tpe, draws a grid point for a distribution")] = 10,
    seeds: Annotated[int, typer.Option(min=1, help="trainings of each point, with seeds one apart")] = 1,
    asha: Annotated[bool, typer.Option(help="stop weak trials early (ASHA, on validation)")] = False,
    name: Annotated[str, typer.Option(help="of the sweep; default: recipe-space")] = "",
    learning_rates: Annotated[str, typer.Option(help="a sweep whose best learning rate each method takes")] = "",
    resume: Annotated[str, typer.Option(help="the name of a sweep to finish; the other options are those it began with")] = "",
) -> None:
    """Train every point of a space; one MLflow run each, compared on validation, scored on test once."""
    with _plain_errors():
        recipe, changes = _recipe_and_overrides(overrides or [])
        tree = raw_tree(recipe, changes)
        experiment = validated(tree)
        if not resume and not space:
            raise ConfigError("vop tune needs --space NAME, or --resume SWEEP")
        from pipelines import tune as sweeps
        from pipelines.sweep import Settings, best_rates

        if resume:
            swept = sweeps.resume(resume, experiment.tracking)
        else:
            rates = best_rates(learning_rates, experiment.tracking) if learning_rates else None
            settings = Settings(tree, space, sampler, samples, seeds, asha, rates)
            swept = sweeps.start(
                name or f"{experiment.name}-{'-'.join(Path(part).stem for part in space.split(','))}", settings
            )
        print_points(swept)


@app.command()
def retrieved(
    run: Annotated[str, typer.Argument(help="the folder of an adapter, or the id of an MLflow run (its start is enough)")],
    other: Annotated[str, typer.Argument(help="a second one, to see where the two disagree")] = "",
    output: Annotated[Path, typer.Option(help="the page to write")] = Path("retrieved.html"),
    limit: Annotated[int, typer.Option(min=1, help="at most so many queries")] = 60,
    group: Annotated[str, typer.Option(help="only this group of queries")] = "",
    recipe: Annotated[str, typer.Option(help="a recipe, for its tracking section")] = "",
) -> None:
    """A page of queries with the clips that came first, wrong ones first; of two runs, where they disagree."""
    with _plain_errors():
        from pipelines.retrieved import write_retrieved

        tracking = load_experiment(recipe).tracking
        page, shown = write_retrieved([run, *([other] if other else [])], tracking, output, limit, group)
        console.print(f"{len(shown.rows)} of {shown.total} queries: {page}\n{shown.omitted}", highlight=False)


def _recipe_and_overrides(arguments: list[str]) -> tuple[str, list[str]]:
    """An optional recipe, then overrides."""
    has_recipe = bool(arguments) and "=" not in arguments[0]
    return (arguments[0], arguments[1:]) if has_recipe else ("", arguments)


@app.command()
def verify(
    benchmark: Annotated[str, typer.Argument(help="a benchmark, such as didemo")],
    overrides: Overrides = None,
    videos: Annotated[str, typer.Option(help="the folder of its videos")] = "",
    annotations: Annotated[str, typer.Option(help="the folder of its annotation files")] = "",
    report: Annotated[Path | None, typer.Option(help="where the report goes; default: verify-BENCHMARK.parquet")] = None,
) -> None:
    """Is a dataset whole? Exit code 0 if it is, 1 if it is not, 2 if it cannot be told."""
    with _plain_errors():
        section = {"name": benchmark, "videos": videos, "annotations": annotations}
        experiment = load_experiment({"benchmark": section}, overrides or [])
        from pipelines.verify import verify as run

        found = run(experiment, report or Path(f"verify-{benchmark}.parquet"))
        console.print(found.table(), f"few frames: fewer than {experiment.frames.count}; cut: over {found.tokens} tokens")
        for line in found.names():
            console.print(line, markup=False, highlight=False)
        faults = found.faults()
        console.print("\n".join(["not whole:", *faults]) if faults else "whole", style="bold red" if faults else "bold green")
        console.print(f"report {found.report}", highlight=False)
        if faults:
            raise typer.Exit(1)


@app.command()
def doctor(
    recipe: Annotated[str, typer.Argument(help="a recipe, for its data.cache")] = "",
    overrides: Overrides = None,
) -> None:
    """What works on this machine: decoders, devices, libraries, disk. Exit code 0 if training can run, else 1."""
    with _plain_errors():
        from pipelines.doctor import checks, table

        found = checks(load_experiment(recipe, overrides or []))
        console.print(table(found))
        broken = [check.name for check in found if check.needed and not check.works]
        console.print(f"training cannot run: {', '.join(broken)}" if broken else "training can run", highlight=False)
        if broken:
            raise typer.Exit(1)


@app.command()
def submit(
    words: Annotated[list[str], typer.Argument(help="after --: a vop command, such as -- train experiments/toy.yaml seed=1")],
    address: Annotated[str, typer.Option(help="Ray's dashboard; default: RAY_API_SERVER_ADDRESS, else this machine's")] = "",
    python: Annotated[str, typer.Option(help="the head's interpreter; default: this one on this machine, else `python`")] = "",
) -> None:
    """Run a vop command as a job of a Ray cluster: its logs here, its exit code, and Ctrl-C stops it."""
    with _plain_errors():
        from pipelines.submit import submit as run

        code = run(words, address, python)
    raise typer.Exit(code)


if __name__ == "__main__":
    app()
