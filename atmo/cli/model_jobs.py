"""How the commands of `atmo model` have jobs done: with progress, and with a question about a new publisher."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import typer

from atmo.cli.client import Access
from atmo.cli.common import print_error, say
from atmo.errors import UserError
from atmo.shell.progress import shown_progress
from atmo.shell.text import printable

EXIT_CONSENT = 4
"""Somebody has to decide whether a publisher is trusted."""

_WORDS = {"spec": "model's name", "base": "first model's name", "target": "second model's name", "node": "node's name"}
"""What fields of jobs are called before a person."""

CONSENT_NEEDED = "consent_needed"
"""Source: `atmo.services.consent.ConsentNeeded`."""


def run_job(
    access: Access, name: str, title: str, fields: Mapping[str, Any], as_json: bool
) -> tuple[dict[str, Any], str]:
    """Has a job done and shows how far it is; returns its result and its last phase."""
    for key, value in fields.items():
        if value == "" and key not in ("reason", "replacement"):
            raise typer.BadParameter(f"The {_WORDS.get(key, key)} is empty.")
    phase = ""
    with shown_progress(title, sys.stderr, quiet=as_json) as show:

        def report(progress: Mapping[str, Any]) -> None:
            nonlocal phase
            phase = str(progress.get("phase") or "")
            show(progress)

        return access.job(name, fields, report), phase


def with_consent(
    access: Access, name: str, title: str, fields: Mapping[str, Any], as_json: bool
) -> tuple[dict[str, Any], str]:
    """Does the same; where its publisher is a first-time one, asks on a terminal and tries again.

    Raises:
        typer.Exit: Nobody could be asked.
    """
    try:
        return run_job(access, name, title, fields, as_json)
    except UserError as error:
        if error.code != CONSENT_NEEDED:
            raise
        if as_json or not _is_terminal():
            print_error(error)
            raise typer.Exit(EXIT_CONSENT) from None
        trusted = _asked(error)
    return run_job(access, name, title, {**fields, "trust": trusted}, as_json)


def _is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _asked(error: UserError) -> str:
    """Shows a publisher and returns its node id if the person trusts it.

    Raises:
        UserError: The person does not.
    """
    about = error.about
    say(printable(error.message))
    for title, value in (
        ("roles", ", ".join(about.get("roles") or []) or "none"),
        ("key", str(about.get("fingerprint") or "")),
        ("its models", ", ".join(about.get("models") or [])),
    ):
        if value:
            say(f"  {title.ljust(10)}  {printable(value)}")
    if not typer.confirm("Trust this publisher from now on?", default=False, err=True):
        raise UserError("Nothing was fetched: its publisher is not trusted.", error.hint)
    return str(about.get("node") or "")
