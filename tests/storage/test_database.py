from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from atmo.errors import UserError
from atmo.storage.database import MIGRATIONS, Database
from atmo.storage.invites import MOST_INVITES, OpenInvite, Redemption

NODE, OTHER = b"n" * 32, b"o" * 32


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "home" / "atmosphere.db")


def test_keys_and_values_survive_a_restart(database: Database) -> None:
    database.kv_put("mesh/b", b"2")
    database.kv_put("mesh/a", b"1")
    database.kv_put("mesh/a", b"one")
    database.kv_put("me%h/c", b"3")
    database.close()
    again = Database(database.path)
    assert again.kv_get("mesh/a") == b"one"
    assert again.kv_get("nothing") is None
    assert again.kv_items("mesh/") == [("mesh/a", b"one"), ("mesh/b", b"2")]
    assert again.kv_items("me%") == [("me%h/c", b"3")]
    assert len(again.kv_items()) == 3
    again.kv_delete("mesh/a")
    again.kv_delete("mesh/a")
    assert again.kv_get("mesh/a") is None


def test_a_transaction_happens_whole_or_not_at_all(database: Database) -> None:
    def put_and_fail() -> None:
        with database.transaction():
            database.kv_put("a", b"1")  # nests
            raise RuntimeError

    with pytest.raises(RuntimeError):
        put_and_fail()
    assert database.kv_get("a") is None
    with database.transaction():
        database.kv_put("a", b"1")
        database.kv_put("b", b"2")
    assert len(database.kv_items()) == 2


def test_threads_take_turns(database: Database) -> None:
    def count() -> None:
        for _ in range(20):
            with database.transaction():
                value = int(database.kv_get("n") or b"0")
                database.kv_put("n", str(value + 1).encode())

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert database.kv_get("n") == b"80"


def test_it_is_durable_and_checks_references(database: Database) -> None:
    assert database.query("PRAGMA journal_mode") == [("wal",)]
    assert database.query("PRAGMA synchronous") == [(2,)]
    with pytest.raises(sqlite3.IntegrityError), database.transaction() as run:
        run.execute("INSERT INTO files (model, path, place, size_bytes) VALUES (7, 'a', 'a', 1)")


def test_an_older_database_moves_up_and_keeps_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "atmosphere.db"
    old = sqlite3.connect(path)
    old.executescript(f"{MIGRATIONS[0]} PRAGMA user_version = 1; INSERT INTO kv VALUES ('a', x'31');")
    old.close()
    for _ in range(2):
        database = Database(path)
        assert database.kv_get("a") == b"1"
        assert database.query("PRAGMA user_version") == [(len(MIGRATIONS),)]
        assert database.query("SELECT name FROM sqlite_master WHERE name = 'records'") == []
        database.close()


def test_a_newer_database_is_left_alone(database: Database) -> None:
    with database.transaction() as run:
        run.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    database.close()
    with pytest.raises(UserError, match="newer version of Atmosphere"):
        Database(database.path)


def test_a_damaged_database_is_told(tmp_path: Path, database: Database) -> None:
    (tmp_path / "text.db").write_text("this is no database, only text that is long enough " * 50)
    with pytest.raises(UserError, match="is damaged"):
        Database(tmp_path / "text.db")
    for number in range(300):
        database.kv_put(f"key {number}", bytes(100))
    database.close()
    data = bytearray(database.path.read_bytes())
    for page in range(4_096 * 2, len(data), 4_096):
        data[page : page + 2_000] = b"\xff" * 2_000
    database.path.write_bytes(data)
    with pytest.raises(UserError, match="is damaged"):
        Database(database.path)


def test_damage_found_later_is_told(database: Database) -> None:
    with pytest.raises(UserError, match="Cannot use the database"):
        database.query("SELECT * FROM no_such_table")
    with pytest.raises(UserError, match="Cannot use the database"), database.transaction() as run:
        run.execute("INSERT INTO no_such_table VALUES (1)")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot open the database"):
        Database(tmp_path / "file" / "atmosphere.db")
    with pytest.raises(UserError, match="Cannot"):
        Database(tmp_path)


def test_an_invitation_works_once(database: Database) -> None:
    database.invite_add(b"secret", "edge", 100.0, 0.0)
    assert database.invite_redeem(b"other", NODE, 1.0) == Redemption(None, "unknown")
    assert database.invite_redeem(b"secret", NODE, 1.0) == Redemption("edge")
    assert database.invite_redeem(b"secret", OTHER, 2.0) == Redemption(None, "used")
    assert database.invite_redeem(b"secret", NODE, 99.0) == Redemption("edge")
    assert database.invite_redeem(b"secret", NODE, 100.0) == Redemption(None, "expired")


def test_two_who_come_at_once_do_not_both_get_in(database: Database) -> None:
    database.invite_add(b"secret", "edge", 100.0, 0.0)
    outcomes: list[Redemption] = []
    nodes = [bytes([number] * 32) for number in range(8)]
    threads = [
        threading.Thread(target=lambda node=node: outcomes.append(database.invite_redeem(b"secret", node, 1.0)))
        for node in nodes
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcome.role or "" for outcome in outcomes) == [""] * 7 + ["edge"]


def test_invitations_are_bounded_and_forgotten(database: Database) -> None:
    database.invite_add(b"old", "edge", 1.0, 0.0)
    with pytest.raises(ValueError, match="already in use"):
        database.invite_add(b"old", "edge", 1.0, 0.0)
    database.invite_add(b"new", "edge", 200_000.0, 100_000.0)
    assert database.invite_redeem(b"old", NODE, 100_000.0).reason == "unknown"
    with database.transaction() as run:
        rows = ((f"{number}".encode(), "edge", 200_000.0, 0.0) for number in range(MOST_INVITES))
        run.executemany("INSERT INTO invites (secret_hash, role, expires_at, created_at) VALUES (?, ?, ?, ?)", rows)
    with pytest.raises(ValueError, match="already 10001 invitations"):
        database.invite_add(b"more", "edge", 200_000.0, 100_000.0)


def test_an_invitation_of_another_node_is_taken_once(database: Database) -> None:
    for node, outcome in ((NODE, Redemption("edge")), (NODE, Redemption("edge")), (OTHER, Redemption(None, "used"))):
        assert database.invite_take(b"secret", "edge", 100.0, node, 1.0) == outcome
    assert database.invite_take(b"late", "edge", 100.0, NODE, 100.0) == Redemption(None, "expired")


def test_open_invitations_are_listed(database: Database) -> None:
    for number, name in enumerate((b"a", b"b", b"c"), start=1):
        database.invite_add(name, "edge", 100.0 * number, 0.0)
    database.invite_redeem(b"b", NODE, 1.0)
    assert database.invites_open(100.0) == [
        OpenInvite(b"c", "edge", 300, None),
        OpenInvite(b"b", "edge", 200, NODE),
    ]


def test_a_database_that_another_program_holds_is_named_as_such(database: Database) -> None:
    database._connection.execute("PRAGMA busy_timeout = 0")
    other = sqlite3.connect(database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(UserError, match="locked") as caught:
        database.kv_put("a", b"1")
    assert "other program" in (caught.value.hint or "")
    other.execute("ROLLBACK")
    database.kv_put("a", b"1")


def test_the_state_is_another_after_each_change(database: Database) -> None:
    states = [database.state(), database.state()]
    assert states[0] == states[1]
    database.kv_put("a", b"1")
    states.append(database.state())
    other = Database(database.path)
    other.kv_put("b", b"2")
    other.close()
    states.append(database.state())
    assert len(set(states)) == 3
    with database.transaction():
        assert database.state() is None
