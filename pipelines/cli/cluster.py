"""Commands on where the work is done: this machine, a Ray cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli.arguments import Overrides, complete_recipe
from pipelines.cli.tables import print_checks, print_jobs, print_nodes
from vop.config import load_experiment


def doctor(
    recipe: Annotated[str, typer.Argument(help="a recipe, for its data.cache", autocompletion=complete_recipe)] = "",
    overrides: Overrides = None,
    store: Annotated[bool, typer.Option("--store", help="read all of the recipe's frame store instead")] = False,
    address: Annotated[str, typer.Option(help="look at a Ray cluster instead, from a machine of it: HEAD:6379, or auto")] = "",
) -> None:
    """What works on this machine: decoders, devices, libraries, disk. Exit code 0 if training can run, else 1.

    With --store: is the frame store whole? Every byte is read; exit code 1 if something is wrong. With --address: each node of
    a cluster, its label, CPUs, GPUs and versions; whether it sees the recipe's places as this machine does, and its MLflow.
    """
    experiment = load_experiment(recipe, overrides or [])
    if store:
        from pipelines.cli.tables import print_examined
        from pipelines.data.examine import examine
        from vop.model.architecture import image_size

        examined = examine(experiment, image_size(experiment.backbone))
        print_examined(examined)
        if examined.faults:
            raise typer.Exit(1)
        return
    if address:
        from pipelines.cluster.probe import look_at_nodes

        nodes = look_at_nodes(experiment, address)
        print_nodes(nodes)
        if any(node.wrong for node in nodes):
            raise typer.Exit(1)
        return
    from pipelines.cluster.doctor import checks

    found = checks(experiment)
    print_checks(found)
    if any(check.needed and not check.works for check in found):
        raise typer.Exit(1)


Address = Annotated[str, typer.Option(help="Ray's dashboard; default: RAY_API_SERVER_ADDRESS, else this machine's")]
Job = Annotated[str, typer.Argument(help="its name, or a part of it that no other job has")]


def submit(
    words: Annotated[list[str], typer.Argument(help="after --: a vop command, such as -- train toy seed=1")],
    address: Address = "",
    python: Annotated[str, typer.Option(help="the head's interpreter; default: this one on this machine, else `python`")] = "",
    no_wait: Annotated[bool, typer.Option("--no-wait", help="end as soon as the cluster has the job")] = False,
) -> None:
    """Run a vop command as a job of a Ray cluster: its logs here, its exit code, and Ctrl-C stops it."""
    from pipelines.cluster.submit import submit

    raise typer.Exit(submit(words, address, python, not no_wait))


def jobs(address: Address = "") -> None:
    """The jobs of a Ray cluster, oldest first."""
    from pipelines.cluster.jobs import jobs

    print_jobs(jobs(address))


def logs(job: Job, address: Address = "") -> None:
    """Follow a job's logs to its end; the exit code is the job's. Ctrl-C leaves the job alone."""
    from pipelines.cluster.jobs import logs

    raise typer.Exit(logs(job, address))


def stop(job: Job, address: Address = "") -> None:
    """Stop a job: its run says KILLED."""
    from pipelines.cluster.jobs import stop

    stop(job, address)
