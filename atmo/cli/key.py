"""`atmo key`: who may use the endpoint, for what, how often and for how much."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from atmo.cli.client import open_access
from atmo.cli.common import (
    HomeOption,
    JsonOption,
    home_of,
    new_group,
    parse_duration,
    print_json,
    print_table,
    say,
    split_names,
)
from atmo.shell.text import printable, time_text

app = new_group("Keys of clients: make, list, show and revoke them.")

OneKey = Annotated[str, typer.Argument(help="Its name or its id.", metavar="NAME|ID")]


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="What people call it.")],
    models: Annotated[
        str | None,
        typer.Option(metavar="PATTERN,...", help="Only models of these names; * is any text. [default: all]"),
    ] = None,
    rate: Annotated[
        str | None, typer.Option(metavar="N/UNIT", help="Requests in a time, such as 60/min. [default: any number]")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="USD[/PERIOD]", help="US dollars, such as 5.00 or 5.00/month. [default: any]"),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="TIME|DATE", help="Such as 30d or 2027-12-31. [default: never]")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key for a client of the endpoint. It is shown this once; the node keeps a hash of it.

    \b
    Examples:
      atmo key create --name laptop
      atmo key create --name ci --models 'llama3*,all-minilm' --rate 60/min --budget 5.00/month --expires 30d
    """
    for flag, value in (("--name", name), ("--models", models), ("--rate", rate), ("--budget", budget)):
        if value is not None and not value.strip(" ,"):
            raise typer.BadParameter(f"{flag} is empty. Give it a value, or leave it out.")
    fields: dict[str, Any] = {"name": name, "models": split_names(models), "rate": rate, "budget": budget}
    fields["expires_s"] = None if expires is None else expires_s(expires, time.time())
    with open_access(home_of(context, home)) as access:
        made = access.create_key(fields)
    if as_json:
        print_json(made)
        return
    say(f"Key {printable(made['name'])} ({made['id']}): {terms_text(made)}. It is not shown again:")
    print(made["key"])


@app.command("list")
def list_keys(context: typer.Context, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the keys with what was done with them.

    \b
    Examples:
      atmo key list
      atmo key list --json
    """
    with open_access(home_of(context, home)) as access:
        rows = access.keys()
    if as_json:
        print_json(rows)
        return
    if not rows:
        say("There is no key. Make one with `atmo key create --name NAME`.")
        return
    now = time.time()
    headers = ("NAME", "ID", "STATE", "LAST USE", ">REQUESTS", ">TOKENS", ">COST", "ALLOWS")
    print_table(
        headers,
        [
            [
                printable(row["name"]),
                row["id"],
                row["state"],
                _ago(row["last_used_at"], now),
                str(row["requests"]),
                str(row["prompt_tokens"] + row["completion_tokens"]),
                f"${row['cost']:.4f}",
                terms_text(row),
            ]
            for row in rows
        ],
        wrapped=True,
    )


@app.command()
def show(context: typer.Context, which: OneKey, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show what a key allows and what was done with it; never the key itself.

    \b
    Examples:
      atmo key show laptop
    """
    with open_access(home_of(context, home)) as access:
        row = access.key_of(which)
    if as_json:
        print_json(row)
        return
    now = time.time()
    period = f" this {row['budget_period']}" if row["budget_period"] else ""
    budget = "-" if row["budget"] is None else f"${row['spent']:.4f} of ${row['budget']:.2f} spent{period}"
    lines = (
        ("name", row["name"]),
        ("id", row["id"]),
        ("state", row["state"]),
        ("models", ", ".join(row["models"]) or "all"),
        ("rate", row["rate"] or "any"),
        ("budget", budget),
        ("created", _day(row["created_at"])),
        ("expires", _day(row["expires_at"])),
        ("revoked", _day(row["revoked_at"])),
        ("last use", _ago(row["last_used_at"], now)),
        ("requests", row["requests"]),
        ("tokens", f"{row['prompt_tokens']} in, {row['completion_tokens']} out"),
        ("cost", f"${row['cost']:.4f}"),
    )
    for label, value in lines:
        print(f"{label:<10}{printable(value)}")


@app.command()
def revoke(context: typer.Context, which: OneKey, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Take a key back: from now on nothing is answered that is asked with it.

    \b
    Examples:
      atmo key revoke laptop
    """
    with open_access(home_of(context, home)) as access:
        row = access.revoke_key(which)
    if as_json:
        print_json(row)
    else:
        print(f"Key {printable(row['name'])} ({row['id']}) is revoked.")


def expires_s(text: str, now: float) -> float:
    """Reads `30d`, or a date, which counts to its end in UTC, as seconds from now.

    Raises:
        typer.BadParameter: It is neither, or the date is over.
    """
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text.strip()):
        return parse_duration(text)
    try:
        end = datetime.fromisoformat(text.strip()).replace(tzinfo=UTC) + timedelta(days=1)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is not a day of the calendar.") from None
    if end.timestamp() <= now:
        raise typer.BadParameter(f"{text} is over.")
    return end.timestamp() - now


def terms_text(row: dict[str, Any]) -> str:
    """Returns what a key allows in a few words."""
    words = [printable(", ".join(row["models"])) if row["models"] else "all models"]
    if row["rate"]:
        words.append(row["rate"])
    if row["budget"] is not None:
        words.append(f"${row['budget']:.2f}" + (f"/{row['budget_period']}" if row["budget_period"] else ""))
    words.append("never expires" if row["expires_at"] is None else f"expires {_day(row['expires_at'])}")
    return "; ".join(words)


def _ago(at: float | None, now: float) -> str:
    if at is None:
        return "never"
    text = time_text(max(0.0, now - at))
    return text if text == "now" else f"{text} ago"


def _day(at: float | None) -> str:
    return "-" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
