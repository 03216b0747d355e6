"""The `vop` command."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from vop.config import load_experiment

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
console = Console()

Recipe = Annotated[str, typer.Argument(help="a recipe, such as experiments/toy.yaml")]
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
    names = ("ConfigError", "BenchmarkError", "FailedVideosError", "ResourceError", "AdapterError")
    return any(kind.__name__ in names for kind in type(error).__mro__)


@app.command()
def train(recipe: Recipe, overrides: Overrides = None) -> None:
    """Train a recipe and score the test split once with the checkpoint that is best on validation."""
    with _plain_errors():
        experiment = load_experiment(recipe, overrides or [])
        from pipelines.train import run_experiment

        result = run_experiment(experiment)
        _print_results({experiment.name: result.metrics})
        console.print(f"adapter {result.adapter}\nMLflow  {result.run.uri}, run {result.run.id}", highlight=False)


@app.command()
def evaluate(
    adapter: Annotated[Path, typer.Argument(help="the folder of an adapter")],
    overrides: Overrides = None,
    split: Annotated[str, typer.Option(help="train, val or test")] = "test",
) -> None:
    """Score a saved adapter: on the benchmark it was trained on, or on another (benchmark.name=... and so on)."""
    with _plain_errors():
        from pipelines.evaluate import evaluate_adapter
        from vop.adapter import load_adapter

        experiment = load_experiment(load_adapter(adapter).experiment.tree(), overrides or [])
        evaluation = evaluate_adapter(adapter, experiment, split)
        _print_results({adapter.name: {f"{split}/{k}": v for k, v in evaluation.metrics.items()}}, split)


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
        _print_results({name: result.metrics for name, result in results.items()})
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
            f"{done.videos} videos, {done.decoded} decoded now, {len(done.failed)} unreadable: {done.folder}", highlight=False
        )


@app.command()
def ui(
    recipe: Annotated[str, typer.Argument(help="a recipe, for its tracking section")] = "",
    port: Annotated[int, typer.Option()] = 5000,
) -> None:
    """Open MLflow on the runs of this folder (in its "Model training" view)."""
    with _plain_errors():
        from pipelines.tracking import tracking_uri

        uri = tracking_uri(load_experiment(recipe).tracking)
        os.execvp(sys.executable, [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--port", str(port)])


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


def _print_results(results: dict[str, dict[str, float]], split: str = "test") -> None:
    """A row a run, group of queries and direction; each query is ranked against the whole gallery."""
    table = Table(title=f"{split}: R@K in percent, ranks from 1", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    for column in ("run", "queries", "n", "R@1", "R@5", "R@10", "MdR", "MnR"):
        table.add_column(column, justify="left" if column in ("run", "queries") else "right", no_wrap=True)
    for name, metrics in results.items():
        for group in _groups(metrics, split):
            for direction in ("t2v", "v2t"):
                key = f"{split}/{group}{direction}/"
                values = [f"{metrics[key + m]:.1f}" for m in ("R1", "R5", "R10", "MdR", "MnR")]
                queries = f"{group.rstrip('/') or 'all'} {direction}"
                table.add_row(name, queries, f"{metrics[key + 'queries']:.0f}", *values)
        table.add_section()
    console.print(table)
    for name, metrics in results.items():
        if f"{split}/pair_accuracy" in metrics:
            console.print(f"{name}: right on {metrics[f'{split}/pair_accuracy']:.1f}% of the time pairs (chance 50)")


def _groups(metrics: dict[str, float], split: str) -> list[str]:
    """ "" for all queries, then "<group>/" for each group."""
    parts = [key.split("/") for key in metrics if key.endswith("t2v/R1")]
    return sorted("/".join(p[1:-2]) + "/" if len(p) > 3 else "" for p in parts if p[0] == split)


if __name__ == "__main__":
    app()
