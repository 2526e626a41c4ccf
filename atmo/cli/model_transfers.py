"""`atmo model` pull, transfers, pause, resume, cancel and status: downloads, and how models stand in the mesh."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atmo.cli.client import open_access, start_command
from atmo.cli.common import HomeOption, JsonOption, home_of, print_json, print_table, say, split_names
from atmo.cli.model_jobs import with_consent
from atmo.shell.text import printable
from atmo.shell.transfer_views import TRANSFER_HEADERS, deployment_lines, result_line, transfer_rows

if TYPE_CHECKING:
    from atmo.shell.client import Change

HERE_ALREADY = "here already"
"""The phase of a pull that had nothing to do. Source: `atmo.services.progress.Progress`."""

WATCH_S = 1.0
"""Between two looks of `--watch`. Source: guess."""

Which = Annotated[str, typer.Argument(help="A transfer's number, or a model.", metavar="ID|NAME[@VERSION]")]


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    for command in (pull, transfers, pause, resume, cancel, status):
        app.command()(command)


def pull(
    context: typer.Context,
    spec: Annotated[
        str | None, typer.Argument(help="A name, or a name with a range of versions.", metavar="NAME[@RANGE]")
    ] = None,
    capabilities: Annotated[
        str | None, typer.Option(help="The best model that can do all of these, with commas.", metavar="A,B")
    ] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Trust its publisher from now on.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also one that does not fit this machine.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for machines that have it and are off, for days.")] = False,
    background: Annotated[bool, typer.Option("--background", help="Leave it to the node and return at once.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch a model from all machines of the mesh that have it, at once.

    Every part is verified as it arrives. Interrupted with Ctrl-C, the same command goes on where it stopped, and so
    does `atmo model resume`. Its exit code is 3 where another command paused or cancelled it, and 4 where somebody has
    to decide whether its publisher is trusted; on a terminal it asks.

    \b
    Examples:
      atmo model pull iris
      atmo model pull 'iris@>=1.2,<2' --trust
      atmo model pull --capabilities anomaly_detection
      atmo model pull iris --background
    """
    wanted = split_names(capabilities)
    if (spec is None) == (not wanted):
        raise typer.BadParameter("Name a model, or what it can do with --capabilities.")
    if background and (wait or wanted or trust or force):
        raise typer.BadParameter("--background only takes a model; it waits anyway.")
    with open_access(home_of(context, home)) as access:
        if background:
            _print_left(access.pull_later(str(spec)), as_json)
            return
        if not access.online and not as_json:
            say("No node is running here: taking part in the mesh for as long as this takes.")
        fields = {"spec": spec, "capabilities": wanted, "wait": wait, "trust": trust, "force": force}
        row, phase = with_consent(access, "pull", f"Pulling {printable(spec or ', '.join(wanted))}", fields, as_json)
    if as_json:
        print_json(row)
    else:
        print(result_line("Already here:" if phase == HERE_ALREADY else "Pulled", row))


def _print_left(left: Mapping[str, Any], as_json: bool) -> None:
    row = left.get("transfer")
    if as_json:
        print_json(left)
    elif row is None:
        print(result_line("Already here:", left["model"]))
    else:
        print(f"Transfer {row['id']} fetches {printable(row['name'])} {printable(row['version'])} in the background.")
        say("See it with `atmo model transfers --watch`.")


def transfers(
    context: typer.Context,
    over: Annotated[bool, typer.Option("--all", help="Also those that are done or were cancelled.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show them until there are none, or until Ctrl-C.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the transfers to this machine: under way, waiting, paused, failed.

    With --watch and --json a line is printed for each look, for programs.

    \b
    Examples:
      atmo model transfers
      atmo model transfers --watch
      atmo model transfers --all --json
    """
    with open_access(home_of(context, home)) as access:
        if watch and access.online:
            _watch(lambda: access.transfers(over=over), as_json)
            return
        rows = access.transfers(over=over)
    if as_json:
        print_json(rows)
    elif rows:
        print_table(TRANSFER_HEADERS, transfer_rows(rows), wrapped=True)
    else:
        say("There are no transfers. Start one with `atmo model pull NAME`.")


def _watch(look: Callable[[], list[dict[str, Any]]], as_json: bool) -> None:
    shown = 0
    while True:
        rows = look()
        if as_json:
            print(json.dumps(rows), flush=True)
        else:
            if shown and sys.stdout.isatty():
                print(f"\x1b[{shown}A\x1b[J", end="")
            shown = 1 + len(rows)
            print_table(TRANSFER_HEADERS[:-1], [row[:-1] for row in transfer_rows(rows)])
            sys.stdout.flush()
        if not any(row["state"] in ("queued", "running", "waiting") for row in rows):
            return
        time.sleep(WATCH_S)


def pause(context: typer.Context, which: Which, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Stop transfers until they are resumed; what arrived is kept, also over restarts.

    \b
    Examples:
      atmo model pause 3
      atmo model pause iris
    """
    _change(context, "pause", which, home, as_json)


def resume(context: typer.Context, which: Which, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Have transfers go on that were paused or have failed; the node fetches them in the background.

    \b
    Examples:
      atmo model resume 3
      atmo model resume iris
    """
    _change(context, "resume", which, home, as_json)


def cancel(
    context: typer.Context,
    which: Which,
    keep: Annotated[bool, typer.Option("--keep", help="Keep what arrived, for a later pull.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """End transfers for good, and delete what arrived.

    \b
    Examples:
      atmo model cancel 3
      atmo model cancel iris@2.0 --keep
    """
    _change(context, "cancel", which, home, as_json, keep=keep)


_VERBS: dict[Change, str] = {"pause": "Paused", "resume": "Resumed", "cancel": "Cancelled"}


def _change(
    context: typer.Context, how: Change, which: str, home: Path | None, as_json: bool, *, keep: bool = False
) -> None:
    folder = home_of(context, home)
    with open_access(folder) as access:
        rows = access.change_transfers(how, which, keep=keep)
        online = access.online
    if as_json:
        print_json(rows)
        return
    for row in rows:
        done = "" if how == "cancel" and not keep else f", {row['percent']:.0f} % are here"
        print(f"{_VERBS[how]} transfer {row['id']}: {printable(row['name'])} {printable(row['version'])}{done}.")
    if how == "resume" and not online:
        say(f"No node runs here: they go on once it does. Start it with `{start_command(folder)}`.")


def status(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Only this model.", metavar="NAME")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how models stand: what is here and loaded, which versions the mesh has, and how transfers went.

    \b
    Examples:
      atmo model status
      atmo model status iris --json
    """
    with open_access(home_of(context, home)) as access:
        found = access.deployment(name)
    if as_json:
        print_json(found)
    else:
        for line in deployment_lines(found):
            print(line)
