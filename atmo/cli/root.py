"""`atmo`: the root of all commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from atmo.cli import config, key, mesh, model, sim
from atmo.cli.audit import audit
from atmo.cli.common import (
    EXIT_BROKEN_PIPE,
    HomeOption,
    home_of,
    new_group,
    run_guarded,
    silence_stdout,
    tolerate_any_text,
)
from atmo.cli.doctor import doctor
from atmo.cli.node import node
from atmo.cli.relay import relay
from atmo.cli.status import status
from atmo.cli.topology import topology
from atmo.version import __version__


class _Root(TyperGroup):
    """Ends quietly when the reader of our output has gone, as in `atmo model list | head -1`."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            silence_stdout()
            raise SystemExit(EXIT_BROKEN_PIPE) from None


app = new_group(None, cls=_Root)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"atmo {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    home: HomeOption = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Atmosphere: your machines, one mesh, one OpenAI-compatible endpoint.

    \b
    A first mesh:
      atmo mesh create home     on the first machine, then
      atmo mesh invite          for every further one a code
      atmo mesh join CODE       there, and on all of them
      atmo node

    \b
    Exit codes: 0 done, 1 it cannot be done, 2 wrong usage, 130 interrupted.
    """


app.command()(node)
app.command()(status)
app.command()(relay)
app.command()(audit)


@app.command()
def shell(context: typer.Context, home: HomeOption = None) -> None:
    """Talk to the running node: ask, look around, pull models.

    Reads commands from a pipe, too.

    \b
    Examples:
      atmo shell
      echo 'ask What is a join code?' | atmo shell
    """
    from atmo.cli.client import live_node, start_command
    from atmo.shell.repl import run_shell

    folder = home_of(context, home)
    raise typer.Exit(run_shell(lambda: live_node(folder), folder, start_command(folder)))


mesh.app.command()(topology)
mesh.app.command()(doctor)
app.add_typer(mesh.app, name="mesh")
app.add_typer(model.app, name="model")
app.add_typer(key.app, name="key")
app.add_typer(config.app, name="config")
app.add_typer(sim.app, name="sim")


def run(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    tolerate_any_text()
    return run_guarded(lambda: app(args=argv, prog_name="atmo"))
