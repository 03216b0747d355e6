"""Commands on videos and what is kept of them: decode them once, check that they are all there, make room again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.arguments import Overrides, Recipe, RecipeAndOverrides, recipe_and_overrides
from pipelines.cli.say import say
from vop.config import load_experiment


def prepare(recipe: Recipe, overrides: Overrides = None) -> None:
    """Decode the videos of a recipe's benchmark into the frame store; only what is not there yet."""
    experiment = load_experiment(recipe, overrides or [])
    from pipelines.data.check import check_videos, is_written
    from vop.model.architecture import image_size

    size = image_size(experiment.backbone)
    tasks = check_videos(experiment, size)[0] if is_written(experiment) else None
    from pipelines.data.prepare import prepare

    done = prepare(experiment, size, tasks)
    seconds = f"{done.seconds:.0f}"
    say("{} videos, {} decoded now in {} s, {} unreadable", done.videos, done.decoded, seconds, len(done.failed))
    if done.report:
        say("unreadable {}", done.report)
    say("store {}", done.folder)


def verify(
    benchmark: Annotated[str, typer.Argument(help="a benchmark, such as didemo")],
    overrides: Overrides = None,
    videos: Annotated[str, typer.Option(help="the folder of its videos")] = "",
    annotations: Annotated[str, typer.Option(help="the folder of its annotation files")] = "",
    report: Annotated[Path | None, typer.Option(help="where the report goes; default: verify-BENCHMARK.parquet")] = None,
) -> None:
    """Is a dataset whole? Exit code 0 if it is, 1 if it is not, 2 if it cannot be told."""
    section = {"name": benchmark, "videos": videos, "annotations": annotations}
    experiment = load_experiment({"benchmark": section}, overrides or [])
    from pipelines.cli.tables import print_verified
    from pipelines.data.verify import verify

    found = verify(experiment, report or Path(f"verify-{benchmark}.parquet"))
    print_verified(found, experiment.frames.count)
    if found.faults():
        raise typer.Exit(1)


def clean(
    overrides: RecipeAndOverrides = None,
    remove: Annotated[
        list[str] | None,
        typer.Option(
            help="a name of the list, or a kind: frames, activations, checkpoints, sweeps, unsent, partial; repeatable"
        ),
    ] = None,
) -> None:
    """List what caches, dead runs and unsent metrics hold on disk; remove only what --remove names."""
    experiment = load_experiment(*recipe_and_overrides(overrides))
    from pipelines.cli.table import print_table
    from pipelines.train import holdings

    there = holdings.holdings(experiment)
    chosen = holdings.remove(there, remove or [])
    listed = chosen if remove else there
    rows = [(one.name, f"{one.size / 1e6:,.1f}", ", ".join(filter(None, (one.note, one.used)))) for one in listed]
    if rows:
        print_table("", ("what", "MB", ""), rows, right=("MB",))
    total = sum(one.size for one in listed) / 1e6
    say("{} MB removed" if remove else "{} MB in all; to remove some: --remove NAME or --remove KIND", f"{total:,.1f}")
