"""Train, compare and use parameter-efficient text-video retrieval."""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pipelines.cli import cluster, comparing, data, exporting, serving, throughput, training, using
from pipelines.cli.say import console, fail, fail_in_worker, say, show_traceback, speaking
from pipelines.cluster.stop import Stopped, stoppable
from vop.errors import VopError
from vop.messages import root_cause

GROUPS = {  # of `vop --help`
    "Data": (data.prepare, data.verify, data.clean),
    "Training": (training.demo, training.check, training.train, training.tune, training.config),
    "Comparing": (comparing.evaluate, comparing.methods, comparing.report, comparing.retrieved, comparing.ui),
    "Using": (using.index, using.search, serving.serve, using.convert, exporting.export, exporting.push),
    "Cluster": (cluster.doctor, cluster.submit, cluster.jobs, cluster.logs, cluster.stop),
}


class Commands(TyperGroup):
    """One clear sentence on standard error for what the user can mend, one line and a file for what failed in a worker.

    A traceback is shown for everything else.

    Exit codes: 0, 1 where a command's answer is no, 2 for an error, 130 for Ctrl-C, 143 for SIGTERM.
    """

    def main(self, *args: Any, **options: Any) -> Any:
        """Run a command and exit."""
        sys.excepthook = show_traceback
        with speaking():
            try:
                os.getcwd()
            except OSError:  # without it torch ends the process
                fail("the folder that this was started in is gone: start it in one that is there")
                sys.exit(2)
            try:
                code = super().main(*args, **{**options, "standalone_mode": False})
            except Exception as error:
                code = _usage(error)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        """Run a command whose words are valid."""
        try:
            with stoppable():
                return super().invoke(ctx)
        except VopError as error:
            fail(error)
            raise typer.Exit(2) from None
        except Exception as error:
            cause = root_cause(error)
            if isinstance(cause, VopError):
                fail(cause)
            elif type(error).__module__.startswith("ray."):
                fail_in_worker(error)
            elif isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE):
                fail(f"{cause.filename or 'what is printed'}: {cause.strerror}")
            else:
                raise
            raise typer.Exit(2) from None
        except (KeyboardInterrupt, SystemExit) as stop:  # a library may turn Ctrl-C into an exit of its own
            if isinstance(stop.__context__, BrokenPipeError):  # of `vop ... | head`
                raise typer.Exit(1) from None
            say("stopped", error=True)
            raise typer.Exit(stop.code if isinstance(stop, Stopped) else 130) from None


def _usage(error: Any) -> int:
    """Say which word of a command is not valid; any other error goes on. click's class of such errors has many homes."""
    if not hasattr(error, "format_message"):
        raise error
    if message := error.format_message():  # without, help was printed
        fail(message)
        if getattr(error, "ctx", None):
            say("{} --help tells more", error.ctx.command_path, error=True)
    return int(error.exit_code)


app = typer.Typer(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
for panel, commands in GROUPS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(throughput.commands, name="throughput", rich_help_panel="Comparing")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        from pipelines.environment import commit

        say("vop {}, commit {}, Python {}", version("vop"), commit(), sys.version.split()[0])
        raise typer.Exit()


@app.callback(invoke_without_command=True)
def main(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """Train, compare and use parameter-efficient text-video retrieval.

    Begin with vop demo; vop COMMAND --help tells more of a command, vop config lists what a recipe can say.
    """
    if ctx.invoked_subcommand is None:
        console().print(ctx.get_help())
