"""What the `vop` command prints: tables on the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pipelines.methods import Counts
    from pipelines.search import Found
    from pipelines.throughput.data import Row
    from pipelines.throughput.model import Row as StepRow
    from pipelines.tune import Swept

console = Console()


def _print(table: Table, width: int = 120) -> None:
    """Numbers cut off are worse than lines that wrap."""
    Console(width=max(console.width, width)).print(table)


def print_results(results: dict[str, dict[str, float]], split: str = "test") -> None:
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
    """ "" for all queries, then "<group>/" for each group; corrected scores (`vop/rescoring.py`) are in the report."""
    parts = [p for key in metrics if key.endswith("t2v/R1") and not {"dsl", "qbnorm"} & set(p := key.split("/"))]
    return sorted("/".join(p[1:-2]) + "/" if len(p) > 3 else "" for p in parts if p[0] == split)


def print_methods(counts: Counts) -> None:
    """A row a method: what it trains, ours and the paper's."""
    from vop.methods import paper_key, paper_results

    title = f"% of {counts.total:,} parameters; the paper's way of counting: of {counts.paper_total:,}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    columns = ("method", "trained", "%", "paper's way", "%", "paper, ViT-B/32", "learning rate", "recipe")
    for column in columns:
        table.add_column(column, justify="left" if column in ("method", "recipe") else "right", no_wrap=True)
    for name, count in counts.methods.items():
        printed = paper_results()["msrvtt-9k"].get(paper_key(name), {})
        table.add_row(
            *(name, f"{count.trained:,}", f"{100 * count.trained / counts.total:.3f}"),
            *(f"{count.paper_trained:,}", f"{100 * count.paper_trained / counts.paper_total:.3f}"),
            f"{printed['params_m']} M, {printed['params_pct']:.3f}%" if "params_m" in printed else "-",
            f"{count.learning_rate:g}" if count.trained else "-",
            " ".join(f"{key}={value}" for key, value in count.overrides.items()),
        )
    _print(table, 170)
    console.print("The paper's way leaves out CLIP's bare parameters (fused q/k/v and others) and the frame embedding.")


def print_steps(rows: Iterable[StepRow]) -> None:
    """A row a way to compute a training step."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for column in ("a training step", "against", "CPU time", "target", "time", "peak memory, MiB", "loss"):
        table.add_column(column, justify="left" if column in ("a training step", "against") else "right")
    for row in rows:
        target = "" if row.target is None else f"{row.target:.2f}"
        memory = "-" if row.memory is None else f"{row.memory:.0f}"
        table.add_row(row.name, row.against, f"{row.cpu:.3f}", target, f"{row.wall:.3f}", memory, f"{row.loss:.6f}")
    _print(table)


def print_rows(title: str, rows: Iterable[Row]) -> None:
    """A row a measurement."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    for column in ("what", "measured", "target", ""):
        table.add_column(column)
    for row in rows:
        table.add_row(row.what, row.value, row.target, "" if row.met is None else "met" if row.met else "MISSED")
    _print(table)


def print_hits(found: Found) -> None:
    """A row a video that was found, best first, for each text."""
    for text, hits in found.hits.items():
        table = Table(title=Text(text, "bold"), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
        for column in ("", "similarity", "video"):
            table.add_column(column, justify="left" if column == "video" else "right", overflow="fold")
        for place, hit in enumerate(hits, start=1):
            table.add_row(str(place), f"{hit.score:.3f}", Text(hit.video))
        console.print(table)
    unread = f", {len(found.prepared.failed)} cannot be read: {found.prepared.report}" if found.prepared.failed else ""
    console.print(f"{found.videos} videos searched{unread}", highlight=False)


def print_points(swept: Swept) -> None:
    """A row a point, best first; mean and standard deviation over its seeds."""
    from pipelines.spaces import label
    from pipelines.sweep import mean_and_std

    table = Table(title=f"sweep {swept.name}", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    for column in ("point", "seeds", "best on validation", "test t2v R@1", ""):
        table.add_column(column, justify="left" if column in ("point", "") else "right")
    for point in swept.points:
        shown = [
            "not run" if m is None else f"{m:.1f}" + ("" if s is None else f" ± {s:.1f}")
            for m, s in map(mean_and_std, (point.scores, point.test))
        ]
        others = [status for status in point.statuses if status != "FINISHED"]
        table.add_row(label(point.point), str(len(point.scores)), *shown, " ".join(others).lower())
    _print(table)
    console.print(f"best adapter {swept.model}\nMLflow {swept.run.uri}, run {swept.run.id}", highlight=False)
