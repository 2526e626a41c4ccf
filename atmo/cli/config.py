"""`atmo config`: what the node is set to, where each value comes from, and whether the files are right."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from atmo.cli.client import live_node
from atmo.cli.common import (
    EXIT_ERROR,
    HomeOption,
    JsonOption,
    home_of,
    new_group,
    print_error,
    print_json,
    print_table,
    say,
)
from atmo.errors import UserError
from atmo.shell.text import printable

app = new_group("Settings: show them with their sources, check the files.")

HEADERS = ("KEY", "FROM", "VALUE")
SHOWN_MOST = 200
"""Problems that are printed. Source: guess; beyond it the file is another program's."""


@app.command()
def show(context: typer.Context, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show every setting and where it came from: a default, a file, a variable or a flag.

    Where the node runs, those that it runs with; otherwise those that it would start with. Secrets are not shown.

    \b
    Examples:
      atmo config show
      atmo config show --json | jq '.config[] | select(.source != "default")'
    """
    from atmo.config.report import config_rows, text_of
    from atmo.config.settings import load_settings

    folder = home_of(context, home)
    info = live_node(folder)
    rows = config_rows(load_settings(folder).settled) if info is None else _of_running(info)
    if as_json:
        print_json({"running": info is not None, "home": str(folder), "config": rows})
        return
    table = [[row["key"], printable(row["place"] or row["source"]), printable(text_of(row["value"]))] for row in rows]
    print_table(HEADERS, table, wrapped=True)


def _of_running(info: dict[str, Any]) -> list[dict[str, Any]]:
    from atmo.shell.client import NodeClient

    with NodeClient(info) as client:
        return client.config()


@app.command()
def check(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Check this file alone, a node's or LlamaFarm's. [default: all that counts]"),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check the configuration: every problem with its file, key and reason. Ends with status 1 where there is one.

    Also tells which entries have no effect.

    \b
    Examples:
      atmo config check
      atmo config check --file ~/.llamafarm/config.yaml
    """
    from atmo.config.settings import examine

    folder = home_of(context, home)
    whole = Path(os.path.abspath(file.expanduser())) if file is not None else None  # noqa: PTH100 - links stay
    examined = examine(folder, {} if whole is not None else None, None, whole)
    errors = list(examined.errors)
    if examined.settings is not None:
        errors += _wrong_id(folder, examined.settings.node_id, examined.settings.settled["node_id"].where)
    if as_json:
        print_json(
            {
                "files": [str(path) for path in examined.files],
                "problems": [{"message": error.message, "hint": error.hint} for error in errors],
                "notes": list(examined.notes),
            }
        )
    else:
        _tell(errors, examined.notes, examined.files)
    if errors:
        raise typer.Exit(EXIT_ERROR)


def _tell(errors: list[UserError], notes: tuple[str, ...], files: tuple[Path, ...]) -> None:
    for error in errors[:SHOWN_MOST]:
        print_error(error)
    if len(errors) > SHOWN_MOST:
        say(f"and {len(errors) - SHOWN_MOST} more problems")
    for note in notes[:SHOWN_MOST]:
        say(f"note: {printable(note)}")
    if not errors:
        names = ", ".join(map(str, files))
        print(printable(f"{names}: right." if names else "There is no configuration file: the defaults hold."))


def _wrong_id(home: Path, said: str, where: str) -> list[UserError]:
    """Returns the problem that the configuration takes this node for another one: its id is its key."""
    from atmo.storage.home import Home

    place = Home(home)
    if not said or not place.key_path.is_file():
        return []
    own = str(place.load_signer().node_id)
    if said == own:
        return []
    return [UserError(f"{where}: {said!r} is not this node: its id is its key, {own}.", "Leave it out.")]
