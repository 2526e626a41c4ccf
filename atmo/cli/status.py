"""`atmo status`: what this machine's node is doing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from atmo.cli.client import open_access, start_command
from atmo.cli.common import HomeOption, JsonOption, home_of, print_json, print_table, say, terminal_columns
from atmo.shell.views import PEER_HEADERS, path_notes, peer_rows, status_lines


def status(context: typer.Context, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show what this machine's node is doing.

    \b
    Examples:
      atmo status
      atmo status --json
    """
    folder = home_of(context, home)
    found = _status_of(folder)
    if as_json:
        print_json(found)
        return
    for line in status_lines(found, terminal_columns()):
        print(line)
    if peers := found.get("peers"):
        print()
        print_table(PEER_HEADERS, peer_rows(peers))
        for line in path_notes(peers):
            print(line)
    if not found["running"]:
        say(f"Start the node with `{start_command(folder)}`.")


def _status_of(home: Path) -> Mapping[str, Any]:
    if not home.exists():
        return {"running": False, "home": str(home)}
    with open_access(home) as access:
        return {"running": access.online, "home": str(home), **access.status()}
