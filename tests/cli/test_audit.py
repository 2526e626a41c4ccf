"""`atmo audit` on a home, whether or not a node runs on it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from atmo.storage.audit import FILE, AuditLog, Event
from atmo.storage.database import Database
from tests.cli.conftest import Atmo


@pytest.fixture
def events(home: Path) -> list[Event]:
    """What is noted: two of an hour ago, one of now."""
    home.mkdir()
    past = [Event("import", "alice", "iris", "1.0.0", "iris.onnx"), Event("load", "node", "iris", "2.0")]
    now = [Event("removal", "bob\x1b[31m", "rose", "1.0.0", outcome="ok")]
    for moment, noted in ((time.time() - 3_600, past), (time.time(), now)):
        database = Database(home / "atmosphere.db")
        log = AuditLog(home, database, print, lambda moment=moment: moment)  # type: ignore[misc]
        for event in noted:
            log.record(event)
        database.close()
    return past + now


def test_what_happened_is_shown(atmo: Atmo, events: list[Event]) -> None:
    lines = atmo("audit").out.splitlines()
    assert lines[0].split() == ["WHEN", "WHAT", "MODEL", "FROM", "WHO", "OUTCOME"]
    assert lines[1].split()[1:] == ["import", "iris", "1.0.0", "iris.onnx", "alice", "ok"]
    assert "\x1b" not in lines[3]
    assert [row["what"] for row in json.loads(atmo("audit", "--json").out)] == ["import", "load", "removal"]


def test_only_what_is_asked_for(atmo: Atmo, events: list[Event]) -> None:
    def shown(*options: str) -> list[str]:
        return [row["what"] for row in json.loads(atmo("audit", "--json", *options).out)]

    assert shown("--since", "30m") == ["removal"]
    assert shown("--since", "2h") == ["import", "load", "removal"]
    assert shown("--model", "iris") == ["import", "load"]
    assert shown("--model", "iris@2.0") == ["load"]
    assert "Nothing is noted that matches" in atmo("audit", "--model", "tulip").err
    assert atmo("audit", "--since", "soon").code == 2


def test_the_chain_is_verified(atmo: Atmo, home: Path, events: list[Event]) -> None:
    sound = atmo("audit", "--verify")
    assert sound.code == 0
    assert sound.out.startswith("The log is sound: 3 lines, head ")
    assert json.loads(atmo("audit", "--verify", "--json").out)["sound"] is True
    path = home / FILE
    path.write_bytes(path.read_bytes().replace(b"alice", b"carol"))
    broken = atmo("audit", "--verify")
    assert broken.code == 1
    assert "audit.jsonl line 1: is no line of the log, or was changed" in broken.out
    assert "The log was tampered with or is damaged: 2 lines" in broken.out
    found = json.loads(atmo("audit", "--verify", "--json").out)
    assert (found["sound"], len(found["problems"])) == (False, 1)


def test_a_home_without_a_log(atmo: Atmo, home: Path) -> None:
    assert atmo("audit").err == "Nothing is noted.\n"
    assert json.loads(atmo("audit", "--json").out) == []
    assert atmo("audit", "--verify").code == 0
    assert not home.exists()
