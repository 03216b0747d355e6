"""The measurements that the documentation quotes."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.cli.arguments import Overrides, Recipe
from pipelines.cli.say import say
from pipelines.cli.tables import print_rows, print_steps
from vop.config import load_experiment

commands = typer.Typer(no_args_is_help=True, help=__doc__)
Output = Annotated[Path | None, typer.Option(help="also write the rows into this file, as JSON")]


@commands.command()
def model(
    overrides: Overrides = None,
    rounds: Annotated[int, typer.Option(help="how often each way is timed")] = 5,
    output: Output = None,
) -> None:
    """A training step against the plain way to compute it, and videos embedded alone (ViT-B/32, 4 pairs, 12 frames)."""
    from pipelines.throughput.model import BF16, frozen_ways, has_bf16, measure

    rows = measure(overrides or [], rounds)
    print_steps(rows)
    _write(output, ["model", *(overrides or []), f"--rounds={rounds}"], rows)
    if not has_bf16():
        say("{}: not run, this processor has no instructions for bf16", BF16[0])
    for precision, way in frozen_ways().items():
        say("frozen linear layers in {}: {}", precision, way)


@commands.command()
def data(
    clips: Annotated[int, typer.Option(help="clips that go through prepare in each round")] = 120,
    rounds: Annotated[int, typer.Option(help="rounds that count, after one that does not")] = 3,
    scale: Annotated[int, typer.Option(help="instead: so many tiny clips through prepare, 1 in 100 of them unreadable")] = 0,
    verify: Annotated[int, typer.Option(help="instead: so many tiny clips through verify")] = 0,
    output: Output = None,
) -> None:
    """Decoding against other readers, the frame store, `prepare` against a bare pool; about fifteen minutes on two cores."""
    from pipelines.throughput.data import measure
    from pipelines.throughput.scale import measure_scale, measure_verify

    rows = measure_scale(scale) if scale else measure_verify(verify) if verify else measure(clips, rounds)
    print_rows("throughput data", rows)
    said = [f"--scale={scale}"] if scale else [f"--verify={verify}"] if verify else [f"--clips={clips}", f"--rounds={rounds}"]
    _write(output, ["data", *said], rows)


@commands.command()
def stream(
    batches: Annotated[int, typer.Option(min=8, help="so many of each worker")] = 12,
    rounds: Annotated[int, typer.Option(min=0, help="how often all ways are run; 0: Ray's tasks alone, once")] = 1,
    seconds: Annotated[float, typer.Option(min=0.01, help="that a video takes to be decoded, simulated as a wait")] = 0.5,
    output: Output = None,
) -> None:
    """What one and two decode nodes feed a training without stored frames: Ray's tasks, Ray Data; about five minutes."""
    from pipelines.throughput.stream import measure

    rows = measure(batches, rounds, seconds)
    print_rows("throughput stream", rows)
    _write(output, ["stream", f"--batches={batches}", f"--rounds={rounds}", f"--seconds={seconds:g}"], rows)


@commands.command()
def remote(
    milliseconds: Annotated[float, typer.Option(min=0, help="that each request takes, simulated as a wait")] = 30,
    shards: Annotated[str, typer.Option(help="so many, one after the other")] = "100,1000,10000",
    output: Output = None,
) -> None:
    """A frame store on object storage: requests before the first batch, clips a second by readers; about ten minutes."""
    from pipelines.throughput.remote import measure

    rows = measure(milliseconds, [int(count) for count in shards.split(",")])
    print_rows("throughput remote", rows)
    _write(output, ["remote", f"--milliseconds={milliseconds:g}", f"--shards={shards}"], rows)


@commands.command()
def gpu(
    overrides: Overrides = None,
    pairs: Annotated[int, typer.Option(help="of a step")] = 64,
    steps: Annotated[int, typer.Option(help="that are timed, after as many others")] = 20,
    items: Annotated[int, typer.Option(help="so many texts and as many videos are scored")] = 50_000,
    output: Output = None,
) -> None:
    """What one GPU trains on, embeds and scores in a second (ViT-B/32, 12 frames); about two minutes."""
    from pipelines.throughput.gpu import measure

    rows = measure(overrides or [], pairs, steps, items)
    print_rows("throughput gpu", rows)
    _write(output, ["gpu", *(overrides or []), f"--pairs={pairs}", f"--steps={steps}", f"--items={items}"], rows)


@commands.command()
def scores(
    items: Annotated[int, typer.Option(help="so many texts and as many videos")] = 50_000,
    rounds: Annotated[int, typer.Option(help="how often what was before is timed, with a fifth of them")] = 1,
    output: Output = None,
) -> None:
    """Ranks both ways, the top ten and both rescorings, against what was before; one thread, about five minutes."""
    from pipelines.throughput.scores import measure

    rows = measure(items, rounds)
    print_rows("throughput scores", rows)
    _write(output, ["scores", f"--items={items}", f"--rounds={rounds}"], rows)


@commands.command()
def heads(
    items: Annotated[int, typer.Option(help="so many texts and as many videos")] = 1000,
    rounds: Annotated[int, typer.Option(help="how often each head is timed")] = 3,
    output: Output = None,
) -> None:
    """Scores of each head against a dot product, X-Pool against its plain form; one thread, about five minutes."""
    from pipelines.throughput.heads import measure

    rows = measure(items, rounds)
    print_rows("throughput heads", rows)
    _write(output, ["heads", f"--items={items}", f"--rounds={rounds}"], rows)


@commands.command()
def index(
    windows: Annotated[int, typer.Option(min=1000, help="so many, in ten steps")] = 1_000_000,
    clips: Annotated[int, typer.Option(min=0, help="instead: so many tiny clips through vop index, also killed half-way")] = 0,
    output: Output = None,
) -> None:
    """An index that grows: what building costs, and what a query costs against exact search; about fifteen minutes."""
    from pipelines.throughput import folder, index

    rows = folder.measure(clips) if clips else index.measure(windows)
    print_rows("throughput index", rows)
    _write(output, ["index", f"--clips={clips}" if clips else f"--windows={windows}"], rows)


@commands.command()
def moments(
    adapters: Annotated[list[str], typer.Argument(help="of toy: folders, MLflow runs, models:/NAME@ALIAS")],
    output: Output = None,
) -> None:
    """What search finds in ten files of ten minutes made of toy's test clips, against search among the clips."""
    from pipelines.throughput.moments import measure

    rows = measure(adapters)
    print_rows("throughput moments", rows)
    _write(output, ["moments", *adapters], rows)


@commands.command()
def serve(
    index: Annotated[str, typer.Argument(help="an index; default: one of random windows, with a ViT-B/32")] = "",
    windows: Annotated[int, typer.Option(min=1, help="so many random ones")] = 100_000,
    queries: Annotated[int, typer.Option(min=1, help="for each number of clients")] = 320,
    output: Output = None,
) -> None:
    """How long queries of vop serve take at 1, 8 and 32 clients at once."""
    from pipelines.throughput.serve import measure

    rows = measure(index, windows, queries)
    print_rows("throughput serve", rows)
    _write(output, ["serve", *([index] if index else [f"--windows={windows}"]), f"--queries={queries}"], rows)


@commands.command()
def sweep(recipe: Recipe, overrides: Overrides = None, output: Output = None) -> None:
    """A sweep of six trials against six separate trainings of the same; about half an hour on two cores for toy."""
    load_experiment(recipe, overrides or [])
    from pipelines.throughput.sweep import measure

    rows = measure(recipe, overrides or [])
    print_rows("throughput sweep", rows)
    _write(output, ["sweep", recipe, *(overrides or [])], rows)


@commands.command()
def demo(
    rounds: Annotated[int, typer.Option(min=1, help="how often each way is run, after one run that does not count")] = 3,
    output: Output = None,
) -> None:
    """The demo with linear layers of frozen weights by oneDNN against those by MKL; about twenty minutes."""
    from pipelines.throughput.demo import measure

    rows = measure(rounds)
    print_rows("throughput demo", rows)
    _write(output, ["demo", f"--rounds={rounds}"], rows)


@commands.command()
def start(
    rounds: Annotated[int, typer.Option(help="how often each command is run")] = 5,
    output: Output = None,
) -> None:
    """CPU time and memory of commands that have nothing to do; about two minutes."""
    from pipelines.throughput.start import measure

    rows = measure(rounds)
    print_rows("throughput start", rows)
    _write(output, ["start", f"--rounds={rounds}"], rows)


def _write(output: Path | None, words: Sequence[str], rows: Sequence[Any]) -> None:
    if output:
        from pipelines.report.results import write_rows

        write_rows(output, shlex.join(["vop", "throughput", *words]), (asdict(row) for row in rows))
