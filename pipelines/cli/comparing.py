"""Commands on what was trained: scores, tables, pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.arguments import AdapterPlace, Overrides, RecipeAndOverrides, Split, recipe_and_overrides
from pipelines.cli.say import say
from pipelines.cli.tables import print_costs, print_methods, print_results
from pipelines.locations import adapter_folder, check_runs, output_folder, tracking_uri
from vop.config import load_experiment
from vop.secrets import masked


def evaluate(
    adapter: AdapterPlace,
    overrides: RecipeAndOverrides = None,
    split: Annotated[Split, typer.Option(help="the videos and captions to score")] = "test",
) -> None:
    """Score a saved adapter on a recipe's benchmark; without a recipe, on that of the run that trained it, if MLflow has it."""
    adapter_folder(adapter)
    recipe, changes = recipe_and_overrides(overrides)
    from pipelines.score.evaluate import evaluate_adapter

    evaluation = evaluate_adapter(adapter, changes, split, recipe)
    print_results({Path(masked(adapter)).name: {f"{split}/{k}": v for k, v in evaluation.metrics.items()}}, split)


def methods(
    overrides: Overrides = None,
    costs: Annotated[bool, typer.Option("--costs", help="what they cost to use instead: FLOPs, and bytes in an index")] = False,
) -> None:
    """List every method with its recipe and what it trains, of ViT-B/32 or of backbone.name=..."""
    load_experiment("", overrides or [])
    from vop.paper.costs import count_costs
    from vop.paper.counts import count_methods

    if costs:
        print_costs(count_costs(overrides or []))
    else:
        print_methods(count_methods(overrides or []))


def report(
    overrides: RecipeAndOverrides = None,
    benchmark: Annotated[str, typer.Option(help="the benchmark of Table 1; default: the recipe's")] = "",
    output: Annotated[Path | None, typer.Option(help="a folder; default: report-BENCHMARK in tracking.output")] = None,
    export: Annotated[Path | None, typer.Option(help="also write the benchmark's runs into this folder, as JSON")] = None,
) -> None:
    """The paper's tables and figures from the runs in MLflow: Markdown, CSV and one HTML page.

    With a recipe, the runs that share its protocol (backbone, frames, training) count; without, those of the most used one.
    """
    recipe, changes = recipe_and_overrides(overrides)
    experiment = load_experiment(recipe, changes)
    check_runs(experiment.tracking)
    from pipelines.output import Output
    from pipelines.report import report
    from pipelines.report.results import export_results

    benchmark = benchmark or experiment.benchmark.name
    folder = output or output_folder(experiment.tracking) / f"report-{benchmark}"
    written = report(experiment, benchmark, folder, with_protocol=bool(recipe))
    kept = None if output else Output.of(experiment.tracking)
    if kept:
        kept.push(folder)
    exported = export_results(experiment.tracking, benchmark, export) if export else []
    say("{} runs counted", written.counted)
    for file in (*written.files, *exported):
        say("{}", kept.named(file) if kept and file.is_relative_to(kept.folder) else file)
    say("MLflow {}, run {}", written.run.uri, written.run.id)


def retrieved(
    run: Annotated[str, typer.Argument(help="the folder of an adapter, or the id of an MLflow run (its start is enough)")],
    words: Annotated[
        list[str] | None,
        typer.Argument(help="a second one, to see where the two disagree; and key=value"),
    ] = None,
    output: Annotated[Path, typer.Option(help="the page to write, or a picture (.png) of a few queries of one run")] = Path(
        "retrieved.html"
    ),
    limit: Annotated[int, typer.Option(min=1, help="at most so many queries")] = 60,
    group: Annotated[str, typer.Option(help="only this group of queries")] = "",
    recipe: Annotated[str, typer.Option(help="where the runs are, and the frames of a run that MLflow does not have")] = "",
) -> None:
    """A page of queries with the clips that came first, wrong ones first; of two runs, where they disagree."""
    other, overrides = recipe_and_overrides(words)
    said = load_experiment(recipe, overrides)
    for place in filter(None, (run, other)):
        adapter_folder(place)
    if output.suffix == ".png":
        from pipelines.report.picture import write_picture

        say("{} of {} queries: {}", limit, write_picture(run, said, output, limit), output)
        return
    from pipelines.report.retrieved import write_retrieved

    page, shown = write_retrieved([run, *([other] if other else [])], said, output, limit, group)
    say("{} of {} queries: {}\n{}", len(shown.rows), shown.total, page, shown.omitted)


def ui(overrides: RecipeAndOverrides = None, port: Annotated[int, typer.Option(min=1, max=65535)] = 5000) -> None:
    """Open MLflow on the runs of this folder, at http://127.0.0.1:PORT, until Ctrl-C."""
    tracking = load_experiment(*recipe_and_overrides(overrides)).tracking
    from pipelines.cluster.ui import check_port, serve

    check_runs(tracking)
    if (uri := tracking_uri(tracking)).startswith(("http://", "https://")):
        say("these runs are on a server: {}", uri)
        return
    check_port(port)
    from pipelines.tracking.database import made

    made(uri)
    say("http://127.0.0.1:{}  choose Model training at the top left, then the experiment {}", port, tracking.experiment)
    say("to compare: tick runs, then Compare. Ctrl-C ends it.")
    serve(tracking, port)
