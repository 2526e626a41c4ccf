"""`atmo mesh doctor`: what keeps this machine from others, and what to do."""

from __future__ import annotations

import typer

from atmo.cli.client import open_access
from atmo.cli.common import EXIT_ERROR, HomeOption, JsonOption, home_of, print_json, print_table, say
from atmo.shell.text import printable

HEADERS = ("CHECK", "VERDICT", "FOUND")


def doctor(context: typer.Context, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Check UDP, STUN, NAT, relay, TCP, mDNS and clock of this machine's node, each with a verdict and the next step.

    Takes a few seconds. Ends with status 1 where something is bad.

    \b
    Examples:
      atmo mesh doctor
      atmo mesh doctor --json | jq '.checks[] | select(.verdict != "good")'
    """
    with open_access(home_of(context, home)) as access:
        found = access.doctor()
    checks = found["checks"]
    if as_json:
        print_json(found)
    else:
        rows = [[check["name"], check["verdict"], printable(check["found"])] for check in checks]
        print_table(HEADERS, rows, wrapped=True)
        for check in checks:
            if check["next"]:
                say(f"{check['name']}: {printable(check['next'])}")
    if any(check["verdict"] == "bad" for check in checks):
        raise typer.Exit(EXIT_ERROR)
