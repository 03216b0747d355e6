"""What commands print of their results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from rich.text import Text

from pipelines.cli.say import console, say
from pipelines.cli.table import print_table
from vop.config import Experiment
from vop.messages import visible

if TYPE_CHECKING:
    from pipelines.cluster.doctor import Check
    from pipelines.cluster.jobs import Listed
    from pipelines.cluster.probe import Node
    from pipelines.data.examine import Examined
    from pipelines.data.verify import Verified
    from pipelines.search.search import Found
    from pipelines.sweep.record import Row
    from pipelines.sweep.run import Swept
    from pipelines.throughput.data import Measurement
    from pipelines.throughput.model import StepCost
    from pipelines.train.plan import Plan
    from vop.config.describe import Key
    from vop.paper.costs import Cost
    from vop.paper.counts import Counts


def print_results(results: dict[str, dict[str, float]], split: str = "test") -> None:
    """A row a run, group of queries and direction; each query is ranked against the whole gallery."""
    rows = []
    for name, metrics in results.items():
        for group in _groups(metrics, split):
            for direction in ("t2v", "v2t"):
                key = f"{split}/{group}{direction}/"
                values = [f"{metrics[key + m]:.1f}" for m in ("R1", "R5", "R10", "MdR", "MnR")]
                rows.append([name, f"{group.rstrip('/') or 'all'} {direction}", f"{metrics[key + 'queries']:.0f}", *values])
    heads = ("run", "queries", "n", "R@1", "R@5", "R@10", "MdR", "MnR")
    print_table(f"{split}: R@K in percent, ranks from 1", heads, rows, right=heads[2:])
    for name, metrics in results.items():
        if f"{split}/pair_accuracy" in metrics:
            say("{}: right on {}% of the time pairs (chance 50)", name, f"{metrics[f'{split}/pair_accuracy']:.1f}")


def _groups(metrics: dict[str, float], split: str) -> list[str]:
    """ "" for all queries, then "<group>/" for each group; corrected scores (`vop/scores/rescoring.py`) are in the report."""
    parts = [p for key in metrics if key.endswith("t2v/R1") and not {"dsl", "qbnorm"} & set(p := key.split("/"))]
    return sorted("/".join(p[1:-2]) + "/" if len(p) > 3 else "" for p in parts if p[0] == split)


def print_verdict(before: dict[str, float], after: dict[str, float]) -> None:
    """What the demo has shown, in a line."""
    was, now = (metrics["test/t2v/R1"] for metrics in (before, after))
    words = "the prompts helped" if now > was else "the prompts did not help"
    say("verdict: {}: {}% of the texts find their video at first place, {}% without them", words, f"{now:.1f}", f"{was:.1f}")


def print_methods(counts: Counts) -> None:
    """A row a method: what it trains, ours and the paper's."""
    from vop.paper.methods import paper_key, paper_results

    title = f"% of {counts.total:,} parameters; the paper's way of counting: of {counts.paper_total:,}"
    heads = ("method", "trained", "%", "paper's way", "its %", "paper, ViT-B/32", "learning rate", "recipe")
    rows = []
    for name, count in counts.methods.items():
        printed = paper_results()["msrvtt-9k"].get(paper_key(name), {})
        rows.append(
            [
                *(name, f"{count.trained:,}", f"{100 * count.trained / counts.total:.3f}"),
                *(f"{count.paper_trained:,}", f"{100 * count.paper_trained / counts.paper_total:.3f}"),
                f"{printed['params_m']} M, {printed['params_pct']:.3f}%" if "params_m" in printed else "-",
                f"{count.learning_rate:g}" if count.trained else "-",
                " ".join(f"{key}={value}" for key, value in count.overrides.items()),
            ]
        )
    print_table(title, heads, rows, right=heads[1:-1])
    say("The paper's way leaves out CLIP's bare parameters (fused q/k/v and others) and the frame embedding.")


def print_costs(costs: Mapping[str, Cost]) -> None:
    """A row a method: what it trains and what it costs to use."""
    from vop.paper.costs import WORDS

    heads = ("method", "trained", "GFLOPs of a video", f"of a text of {WORDS} tokens", "bytes of a video in an index")
    rows = [
        [name, f"{cost.trained:,}", f"{cost.video_flops / 1e9:.2f}", f"{cost.text_flops / 1e9:.3f}", f"{cost.index_bytes:,}"]
        for name, cost in costs.items()
    ]
    print_table("", heads, rows, right=heads[1:])
    say("Counted, of one more video or text in a batch; a multiplication and its addition are two.")


def print_steps(rows: Iterable[StepCost]) -> None:
    """A row a way to compute a training step, or to embed videos alone, which has no loss."""
    heads = ("a training step", "against", "CPU time", "target", "time", "peak, MiB", "loss")

    def shown(row: StepCost) -> list[str]:
        numbers = ((row.cpu, ".3f"), (row.target, ".2f"), (row.wall, ".3f"), (row.memory, ".0f"), (row.loss, ".6f"))
        return [row.name, row.against, *("" if number is None else format(number, how) for number, how in numbers)]

    print_table("", heads, map(shown, rows), right=heads[2:])


def print_rows(title: str, rows: Iterable[Measurement]) -> None:
    """A row a measurement."""
    shown = [(row.what, row.value, row.target, "" if row.met is None else "met" if row.met else "MISSED") for row in rows]
    print_table(title, ("what", "measured", "target", ""), shown)


def print_hits(found: Found) -> None:
    """A row a video that was found, best first, for each text."""
    for text, hits in found.hits.items():
        rows = [(place, f"{hit.score:.3f}", hit.video) for place, hit in enumerate(hits, start=1)]
        print_table(visible(text), ("#", "similarity", "video"), rows, right=("#", "similarity"))
    if found.prepared.failed:
        say("{} videos searched, {} cannot be read: {}", found.videos, len(found.prepared.failed), found.prepared.report)
    else:
        say("{} videos searched", found.videos)


def print_points(swept: Swept) -> None:
    """A row a point, best first; mean and standard deviation over its seeds. A table a recipe, then one of all of them."""
    from pipelines.sweep.record import mean_and_std
    from pipelines.sweep.space import label

    def shown(scores: Sequence[float]) -> str:
        mean, deviation = mean_and_std(scores)
        return "not run" if mean is None else f"{mean:.1f}" + ("" if deviation is None else f" ± {deviation:.1f}")

    heads = ("point", "seeds", "best on validation", "test t2v R@1", "")
    for recipe in dict.fromkeys(point.recipe for point in swept.points):
        rows = []
        for point in (point for point in swept.points if point.recipe == recipe):
            others = " ".join(status for status in point.statuses if status != "FINISHED").lower()
            rows.append((label(point.point), len(point.scores), shown(point.scores), shown(point.test), others))
        print_table(f"sweep {swept.name}" + (f", {recipe}" if recipe else ""), heads, rows, right=heads[1:4])
    if swept.rows:
        print_benchmarks(swept.rows, shown)
    for model in swept.models:
        say("best adapter {}", model)
    say("MLflow {}, run {}", swept.run.uri, swept.run.id)


def print_benchmarks(rows: Sequence[Row], shown: Callable[[Sequence[float]], str]) -> None:
    """A row a point, the best on average first; test t2v R@1 on each benchmark, with the paper's beside it where it has one."""
    from pipelines.sweep.record import paper_of
    from pipelines.sweep.space import label

    columns: dict[str, list[str]] = {"point": [label(row.point) for row in rows]}
    for recipe in dict.fromkeys(recipe for row in rows for recipe in row.by_recipe):
        found = [row.by_recipe.get(recipe) for row in rows]
        columns[recipe] = [shown(summary.test) if summary else "not run" for summary in found]
        papers = [paper_of(summary) if summary else None for summary in found]
        if any(papers):
            columns[f"{recipe}, paper"] = ["" if value is None else f"{value:.1f}" for value in papers]
    columns["average on validation"] = ["not run" if row.average is None else f"{row.average:.1f}" for row in rows]
    heads = list(columns)
    cells = list(zip(*columns.values(), strict=True))
    print_table("test t2v R@1 by benchmark", heads, cells, right=heads[1:])


def print_verified(found: Verified, frames: int) -> None:
    """A column a split; then the videos behind the numbers, and what is wrong. frames: that the experiment reads of a video."""
    heads, rows = found.table()
    print_table("found / published", heads, rows, right=heads[1:])
    say("few frames: fewer than {}; cut: over {} tokens", frames, found.tokens)
    for line in found.names():
        say("{}", line)
    faults = found.faults()
    say("not whole:" if faults else "whole", style="bold red" if faults else "bold green")
    for fault in faults:
        say("{}", fault, style="bold red")
    say("report {}", found.report)


def print_checks(found: Sequence[Check]) -> None:
    """A row a check, then whether training can run."""
    rows = [
        (check.name, "yes" if check.works else "no", "yes" if check.needed else "", check.found.replace("\n", " "))
        for check in found
    ]
    print_table("", ("part", "works", "needed", "version, or why not"), rows)
    broken = [check.name for check in found if check.needed and not check.works]
    say("training cannot run: {}", ", ".join(broken)) if broken else say("training can run")


def print_nodes(found: Sequence[Node]) -> None:
    """A row a node, then whether the cluster can work."""
    print_table("", ("node", "what it has", "what is wrong"), [(node.name, node.found, node.wrong) for node in found])
    broken = [node.name for node in found if node.wrong]
    say("work cannot go to {}", ", ".join(broken)) if broken else say("all {} nodes can work", len(found))


def print_jobs(found: Sequence[Listed]) -> None:
    """A row a job: its name for `vop logs` and `vop stop`, when it started, how long it took, what it runs."""
    started = [f"{datetime.fromtimestamp(job.started / 1000):%Y-%m-%d %H:%M:%S}" for job in found]
    rows = [(job.name, job.status, at, f"{job.seconds:.0f}", job.command) for job, at in zip(found, started, strict=True)]
    print_table("", ("job", "status", "started", "seconds", "command"), rows, right=("seconds",))


def print_examined(found: Examined) -> None:
    """What is wrong with a store, a line each, or that it is whole."""
    say("store {}: {} videos in {} shards", found.folder, found.videos, found.shards)
    for fault in found.faults:
        say("{}", fault, style="bold red")
    for note in found.notes:
        say("{}", note)
    say("not whole" if found.faults else "whole", style="bold red" if found.faults else "bold green")


def print_keys(keys: Sequence[Key]) -> None:
    """Each key with its type and default, and what it means below; a blank line between sections."""
    section = keys[0].key.partition(".")[0]
    for key in keys:
        if (own := key.key.partition(".")[0]) != section:
            section = own
            say("")
        of = f", of {section}.name={', '.join(key.kinds)}" if key.kinds else ""
        console().print(Text.assemble((key.key, "bold"), f"  {key.type}, default {visible(key.default)}{of}"), soft_wrap=True)
        say("    {}", key.meaning)


def print_plan(experiment: Experiment, plan: Plan) -> None:
    """The experiment as YAML, in comments what would be decoded and trained."""
    from vop.config.describe import explained

    for line in explained(experiment).splitlines():
        say("{}", line)
    say("")
    print_check(plan)


def print_check(plan: Plan) -> None:
    """A row a split, then the work and the room that it takes."""
    rows = [(split, count, plan.to_decode[split], count - plan.to_decode[split]) for split, count in plan.videos.items()]
    heads = ("split", "videos", "to decode", "in the store")
    print_table("", heads, rows, right=heads[1:])
    say("store {}\nframes to store {}\nreused activations {}", plan.tasks.folder, plan.room, plan.reused)
    say("{} steps an epoch, {} epochs, {} trainable parameters", plan.steps, plan.epochs, f"{plan.trainable:,}")
