"""`atmo audit`: what happened to models on this machine."""

from __future__ import annotations

import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atmo.cli.common import HomeOption, JsonOption, home_of, parse_duration, print_json, print_table, say
from atmo.shell.text import printable

if TYPE_CHECKING:
    from atmo.storage.audit import Entry

HEADERS = ("WHEN", "WHAT", "MODEL", "FROM", "WHO", "OUTCOME")
_SHOWN_MOST = 100_000
"""Lines in memory at once. Source: guess, above what the log keeps."""


def audit(
    context: typer.Context,
    since: Annotated[str | None, typer.Option(help="Only the last 30m, 24h, 7d, ...", metavar="TIME")] = None,
    model: Annotated[
        str | None, typer.Option(help="Only this model, or one version of it.", metavar="NAME[@VERSION]")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Check that no line was changed or taken out.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show who downloaded, imported, loaded and removed which model, and when.

    Works while the node runs and while it does not. --verify prints the hash of the last line: kept elsewhere, it
    shows later that the log's end was not cut off. Its exit code is 1 where the log was tampered with.

    \b
    Examples:
      atmo audit --since 7d
      atmo audit --model iris --json
      atmo audit --verify
    """
    from atmo.storage.audit import read

    folder = home_of(context, home)
    if verify:
        _verify(folder, as_json)
        return
    oldest = time.time() - parse_duration(since) if since else None
    rows: deque[Entry] = deque(maxlen=_SHOWN_MOST)
    rows.extend(entry for entry in read(folder) if _wanted(entry, oldest, model))
    if as_json:
        print_json([entry.to_json() for entry in rows])
    elif rows:
        print_table(HEADERS, [_row(entry) for entry in rows])
    else:
        say("Nothing is noted." if since is None and model is None else "Nothing is noted that matches.")


def _verify(folder: Path, as_json: bool) -> None:
    from atmo.storage.audit import verify_chain

    state = verify_chain(folder)
    if as_json:
        print_json(
            {
                "entries": state.entries,
                "first": state.first,
                "head": state.head,
                "sound": not state.problems,
                "problems": list(state.problems),
            }
        )
    else:
        for problem in state.problems:
            print(printable(problem))
        older = f", after {state.first - 1} older ones that were rotated away" if state.first > 1 else ""
        verdict = "The log was tampered with or is damaged" if state.problems else "The log is sound"
        print(f"{verdict}: {state.entries} lines{older}, head {state.head}")
    if state.problems:
        raise typer.Exit(1)


def _wanted(entry: Entry, oldest: float | None, model: str | None) -> bool:
    if model is not None:
        name, at, version = model.partition("@")
        if entry.event.name != name or (at and entry.event.version != version):
            return False
    if oldest is None:
        return True
    try:
        moment = datetime.fromisoformat(entry.at)
    except ValueError:
        return False
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() >= oldest


def _row(entry: Entry) -> list[str]:
    event = entry.event
    model = f"{event.name} {event.version}".strip()
    return [printable(text) for text in (entry.at, event.what, model, event.source, event.who, event.outcome)]
