"""`atmo key` on the home of a node that does not run, and what the control API answers."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer

from atmo.cli.key import expires_s
from tests.cli.conftest import Atmo

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC).timestamp()


def test_a_key_from_making_to_revoking(atmo: Atmo, home: Path) -> None:
    assert "There is no key" in atmo("key", "list").err
    made = atmo(
        "key",
        "create",
        "--name",
        "ci",
        "--models",
        "llama*, phi",
        "--rate",
        "60/min",
        "--budget",
        "5/month",
        "--expires",
        "30d",
    )
    assert made.out.startswith("sk-atmo-")
    assert len(made.out.splitlines()) == 1
    assert "not shown again" in made.err
    listed = atmo("key", "list")
    assert listed.out.splitlines()[1].startswith("ci ")
    assert "llama*, phi; 60/min; $5.00/month; expires 20" in listed.out
    assert made.out.strip()[8:] not in listed.out
    (row,) = json.loads(atmo("key", "list", "--json").out)
    assert row["state"] == "active"
    shown = atmo("key", "show", row["id"]).out
    assert "budget    $0.0000 of $5.00 spent this month" in shown
    assert json.loads(atmo("key", "show", "ci", "--json").out) == row
    assert atmo("key", "revoke", "ci").out == f"Key ci ({row['id']}) is revoked.\n"
    assert "revoked" in atmo("key", "list").out


def test_json_has_the_key(atmo: Atmo, home: Path) -> None:
    made = json.loads(atmo("key", "create", "--name", "ci", "--json").out)
    assert made["key"].startswith("sk-atmo-")
    assert (made["models"], made["rate"], made["budget"], made["expires_at"]) == ([], None, None, None)


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (("create", "--name", "a b"), 1, "cannot be used"),
        (("create", "--name", ""), 2, "--name is empty"),
        (("create", "--name", "a", "--models", " , "), 2, "--models is empty"),
        (("create", "--name", "a", "--rate", ""), 2, "--rate is empty"),
        (("create", "--name", "a", "--rate", "fast"), 1, "not a rate"),
        (("create", "--name", "a", "--budget", "much"), 1, "not a budget"),
        (("create", "--name", "a", "--expires", "soon"), 2, "not a duration"),
        (("create", "--name", "a", "--expires", "2020-01-01"), 2, "is over"),
        (("create", "--name", "a", "--expires", "2030-02-31"), 2, "not a day"),
        (("create",), 2, "--name"),
        (("show", "nobody"), 1, "no key nobody"),
        (("revoke", "nobody"), 1, "no key nobody"),
    ],
)
def test_what_cannot_be(atmo: Atmo, home: Path, argv: tuple[str, ...], code: int, said: str) -> None:
    result = atmo("key", *argv)
    assert (result.code, result.out) == (code, "")
    assert said in result.err


def test_a_date_counts_to_its_end() -> None:
    assert expires_s("2026-11-27", NOW) == 43_200.0
    assert expires_s("2026-12-27", NOW) == (timedelta(days=31) - timedelta(hours=12)).total_seconds()
    assert expires_s("2h", NOW) == 7_200.0
    with pytest.raises(typer.BadParameter):
        expires_s("2026-11-26", NOW)
