"""`atmo mesh topology`: who is connected to whom."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from atmo.cli.client import open_access
from atmo.cli.common import HomeOption, JsonOption, home_of, print_json, print_table, say
from atmo.shell.text import time_text
from atmo.shell.views import SHORT_ID_CHARS, rtt_text

HEADERS = ("FROM", "TO", "PATH", ">RTT", ">AGE")


def topology(context: typer.Context, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show who is connected to whom, by which path.

    Asks the machines of the mesh one after the other, for at most 15 seconds.

    \b
    Examples:
      atmo mesh topology
      atmo mesh topology --json | jq '.links | length'
    """
    with open_access(home_of(context, home)) as access:
        picture = access.topology()
    if as_json:
        print_json(picture)
        return
    nodes = {node["id"]: node for node in picture["nodes"]}
    if picture["links"]:
        print_table(HEADERS, [_row(nodes, link) for link in picture["links"]])
    else:
        say("This machine is connected to no other.")
    silent = [node for node in nodes.values() if not node["answered"]]
    if picture["partial"]:
        say(f"The picture is partial: {len(silent)} of {len(nodes)} machines did not answer.")


def _row(nodes: Mapping[str, Mapping[str, Any]], link: Mapping[str, Any]) -> list[str]:
    ends = [nodes[link[end]]["name"] or link[end][:SHORT_ID_CHARS] for end in ("a", "b")]
    return [*ends, link["path"], rtt_text(link["rtt_ms"]), time_text(link["age_s"])]
