"""The audit log: nothing that happened is missing, and nothing can be changed unseen."""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from atmo.errors import UserError
from atmo.storage import audit
from atmo.storage.audit import AuditLog, Event, read, verify_chain
from atmo.storage.chunks import WrongContent
from atmo.storage.database import Database
from tests.storage.stores import DATA, add, download, names, open_store, pull
from tests.transfer.samples import manifest_of

NOW = 1_700_000_000.0


class Log:
    """A log, its database, and what it warned of."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.warnings: list[str] = []
        self.database = Database(home / "atmosphere.db")
        self.open()

    def open(self) -> AuditLog:
        self.log = AuditLog(self.home, self.database, self.warnings.append, lambda: NOW)
        return self.log

    def add(self, count: int, **said: Any) -> None:
        for number in range(count):
            self.log.record(Event("load", name=f"m{number}", **said))

    @property
    def path(self) -> Path:
        return self.home / audit.FILE

    @property
    def events(self) -> list[Event]:
        return [entry.event for entry in read(self.home)]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def test_every_event_of_the_store_is_noted(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    add(store)
    pull(store, b"1", name="pulled")
    store.set_loaded("iris", "1.0", True, who="onnx")
    store.set_loaded("iris", "1.0.0", False)
    store.set_loaded("nobody", "1.0.0", True)
    store.remove("iris", "1.0.0", who="alice")
    events = [entry.event for entry in read(tmp_path)]
    assert [(event.what, event.who, event.name) for event in events] == [
        ("import", "node", "iris"),
        ("download", "node", "pulled"),
        ("load", "onnx", "iris"),
        ("unload", "node", "iris"),
        ("removal", "alice", "iris"),
    ]
    assert events[0].source == "central-01"
    assert events[0].hash == f"sha256:{manifest_of(DATA).checksum_sha256.hex()}"
    assert {event.outcome for event in events} == {"ok"}
    assert verify_chain(tmp_path).problems == ()


def test_a_refused_download_is_noted(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    manifest = manifest_of(DATA)
    lying = replace(manifest, checksum_sha256=bytes(32), files=(replace(manifest.main, sha256=bytes(32)),))
    with pytest.raises(WrongContent):
        store.finish(download(store, lying), "liar")
    (event,) = [entry.event for entry in read(tmp_path)]
    assert (event.what, event.source) == ("download", "liar")
    assert event.outcome.startswith("the SHA-256 of model.onnx is not")


def test_the_chain(log: Log) -> None:
    log.add(3)
    log.open()
    log.add(1)
    entries = list(read(log.home))
    assert [entry.number for entry in entries] == [1, 2, 3, 4]
    assert [entry.before for entry in entries] == [audit.START, *(entry.chain for entry in entries[:3])]
    assert entries[0].at == "2023-11-14T22:13:20Z"
    state = verify_chain(log.home)
    assert (state.entries, state.first, state.head, state.problems) == (4, 1, entries[3].chain, ())
    assert json.loads(log.path.read_bytes().splitlines()[0])["chain"] == entries[0].chain
    assert log.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda lines: [lines[0], lines[1].replace(b"m1", b"mX"), *lines[2:]], "line 2: is no line of the log"),
        (lambda lines: [lines[0], *lines[2:]], "line 2: has the number 3 after 1"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "line 2: has the number 1 after 2"),
        (lambda lines: [*lines[:2], b"[]\n", *lines[2:]], "line 3: is no line of the log"),
        (lambda lines: [*lines[:2], b"{" * 5_000 + b"\n", *lines[2:]], "line 3: is no line of the log"),
        (lambda lines: [*lines[:2], b"{" * 40_000 + b"\n", *lines[2:]], "line 3: is no line of the log"),
        (lambda lines: [*lines[:2], b"\xff\n", *lines[2:]], "line 3: is no line of the log"),
        (
            lambda lines: [lines[0], _forged(lines[1], name="other"), *lines[2:]],
            "line 3: does not follow line number 2",
        ),
        (lambda lines: [_forged(lines[0], before="ab" * 32), *lines[1:]], "line 1: does not begin the chain"),
        (lambda lines: [lines[0], _forged(lines[1], before="no hex"), *lines[2:]], "line 2: is no line of the log"),
        (lambda lines: [lines[0], _forged(lines[1], number=2.0), *lines[2:]], "line 2: is no line of the log"),
    ],
)
def test_no_change_goes_unseen(log: Log, change: Any, problem: str) -> None:
    log.add(4)
    log.path.write_bytes(b"".join(change(log.path.read_bytes().splitlines(keepends=True))))
    assert problem in verify_chain(log.home).problems[0]


def _forged(line: bytes, **changed: Any) -> bytes:
    """A line with another content and the hash that belongs to it."""
    found = json.loads(line) | changed
    event = Event(**{key: found[key] for key in ("what", "who", "name", "version", "source", "hash", "outcome")})
    with suppress(ValueError):
        found["chain"] = audit.link(found["number"], found["at"], found["id"], event, found["before"]).chain
    return json.dumps(found).encode() + b"\n"


def test_a_torn_line_is_cut_off_with_a_note(log: Log) -> None:
    log.add(2)
    whole = log.path.read_bytes()
    log.path.write_bytes(whole + whole.splitlines(keepends=True)[1][:40])
    assert verify_chain(log.home).problems == (), "it may be one that is being written"
    log.open()
    log.add(1)
    assert [event.what for event in log.events] == ["load", "load", "cut", "load"]
    assert log.events[2].outcome == "40 bytes that are no line were taken away"
    state = verify_chain(log.home)
    assert (state.entries, state.problems) == (4, ())


def test_a_file_full_of_something_else_is_moved_aside(log: Log) -> None:
    log.add(2)
    garbage = bytes(2 * audit.LINE_BYTES)
    log.path.write_bytes(garbage)
    log.open()
    log.add(1)
    assert [event.what for event in log.events] == ["cut", "load"]
    (aside,) = log.home.glob("audit.jsonl.damaged-*")
    assert aside.read_bytes() == garbage
    assert "moved aside" in log.warnings[0]


def test_what_the_file_does_not_take_waits(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    log.add(1)
    real = os.write

    def half(descriptor: int, data: bytes) -> int:
        real(descriptor, data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        log.add(2)
        assert [event.name for event in log.events] == ["m0"]
        patch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:10]))
        log.add(1)
    assert "No space left on device; 2 events wait" in log.warnings[1]
    log.log.flush()
    assert [event.name for event in log.events] == ["m0", "m0", "m1", "m0"]
    assert verify_chain(log.home).problems == ()


def test_none_is_written_twice_after_a_kill_between_file_and_database(log: Log) -> None:
    log.add(1)
    with log.database.transaction() as run:
        log.log.note(run, Event("load", name="late"))
    log.log.flush()
    waiting = log.database.query("SELECT * FROM audit_waiting")
    assert waiting == []
    entry = list(read(log.home))[-1]
    with log.database.transaction() as run:
        run.execute("INSERT INTO audit_waiting (id, at, event) VALUES (?, '', '{}')", (entry.id,))
    log.open()
    assert [event.name for event in log.events] == ["m0", "late"]
    assert log.database.query("SELECT * FROM audit_waiting") == []


def test_what_waits_has_a_bound(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "WAITING_MOST", 3)
    with log.database.transaction() as run:
        for number in range(5):
            log.log.note(run, Event("load", name=f"n{number}"))
    log.log.flush()
    assert [event.name for event in log.events] == ["n2", "n3", "n4"]


def test_a_transaction_that_fails_leaves_no_line(log: Log) -> None:
    def note_and_fail() -> None:
        with log.database.transaction() as run:
            log.log.note(run, Event("removal", name="iris"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        note_and_fail()
    log.log.flush()
    assert log.events == []


def test_full_files_are_set_aside_and_the_chain_goes_on(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "SEGMENT_BYTES", 1_000)
    monkeypatch.setattr(audit, "SEGMENTS_MOST", 3)
    for _ in range(7):
        log.add(3)
        log.open()
    segments = [name for name in names(log.home) if name.startswith("audit-")]
    assert len(segments) == 3
    state = verify_chain(log.home)
    assert state.problems == ()
    assert state.first > 1
    assert state.first + state.entries == 22
    (log.home / segments[1]).unlink()
    assert "has the number" in verify_chain(log.home).problems[0]


def test_texts_are_cut_and_every_line_fits(log: Log) -> None:
    long = "\U0001f600\x1b\n" * 1_000
    log.log.record(Event("import", long, long, long, long, long, long))
    assert all(len(text) == audit.TEXT_CHARS for text in (log.events[0].who, log.events[0].outcome))
    assert log.path.stat().st_size < audit.LINE_BYTES
    assert verify_chain(log.home).problems == ()


def test_a_link_in_the_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / audit.FILE).symlink_to(tmp_path / "precious")
    log = Log(tmp_path)
    log.add(1)
    assert (tmp_path / "precious").read_text() == "mine"
    assert "cannot be written" in log.warnings[-1]


def test_a_home_that_has_none_and_one_that_cannot_be_read(tmp_path: Path) -> None:
    assert list(read(tmp_path)) == []
    assert verify_chain(tmp_path) == audit.ChainState(0, 0, audit.START, ())
    (tmp_path / audit.FILE).mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        list(read(tmp_path))
    with pytest.raises(UserError, match="cannot be read"):
        verify_chain(tmp_path)


def test_a_database_that_fails_stops_nobody(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with store._database.transaction() as run:
        run.execute("DROP TABLE audit_waiting")
    store.audit.flush()
    assert "database cannot be written" in store.warnings[-1]
    store.note(Event("repair", name="iris"))
    assert "the audit log misses that repair of iris ended in ok" in store.warnings[-1]


def test_a_file_that_is_cut_while_it_is_written_costs_no_later_line(log: Log) -> None:
    log.add(3)
    data = log.path.read_bytes()
    log.path.write_bytes(data[:-30])  # an editor, a restored copy
    log.add(1, source="later")
    assert [event.what for event in log.events] == ["load", "load", "cut", "load"]
    assert log.events[-1].source == "later"
    state = verify_chain(log.home)
    assert len(state.problems) == 1
    assert "has the number 4 after 2" in state.problems[0]  # what is missing shows
    log.path.unlink()
    log.add(1, source="last")
    assert [event.source for event in log.events] == ["last"]
    assert verify_chain(log.home).first == 6
