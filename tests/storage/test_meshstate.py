from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from atmo.engine import Store
from atmo.gossip.sync import STORE_PREFIX
from atmo.peer.renewal import CERTIFICATE_KEY, ISSUER_KEY
from atmo.peer.strikes import BAN_PREFIX
from atmo.storage.database import Database
from atmo.storage.meshstate import MeshCredentials, MeshState
from atmo.transfer.scores import SCORES_KEY


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "atmosphere.db")
    yield opened
    opened.close()


def commits(database: Database) -> list[str]:
    """Returns a list that grows by each commit from now on."""
    seen: list[str] = []
    connection: sqlite3.Connection = database._connection
    connection.set_trace_callback(lambda sql: seen.append(sql) if sql == "COMMIT" else None)
    return seen


def test_a_batch_is_one_transaction(database: Database) -> None:
    state = MeshState(database)
    state.apply([Store(f"{STORE_PREFIX}old", b"old")])
    seen = commits(database)
    state.apply([*(Store(f"{STORE_PREFIX}{number}", b"%d" % number) for number in range(9)), Store("none", None)])
    state.apply([Store(f"{STORE_PREFIX}old", None)])
    assert len(seen) == 2
    assert state.records() == [b"%d" % number for number in range(9)]


def test_a_batch_that_is_cut_leaves_nothing(database: Database) -> None:
    def cut() -> Iterator[Store]:
        yield Store(f"{STORE_PREFIX}a", b"1")
        raise RuntimeError

    state = MeshState(database)
    with pytest.raises(RuntimeError):
        state.apply(cut())
    assert state.records() == []


def test_credentials_are_saved_at_once(database: Database) -> None:
    state = MeshState(database)
    assert state.credentials() is None
    seen = commits(database)
    credentials = MeshCredentials(b"genesis", b"certificate", b"issuer")
    state.save(credentials)
    assert len(seen) == 1
    assert state.credentials() == credentials


def test_epochs_grow_over_restarts_and_clocks_set_back(database: Database) -> None:
    assert [MeshState(database).next_epoch(wall) for wall in (100.5, 100.5, 50.0, 300.0)] == [100, 101, 102, 300]


def test_hand_overs_are_found_among_the_records(database: Database) -> None:
    state = MeshState(database)
    state.apply([Store(f"{STORE_PREFIX}{name}", name.encode()) for name in ("a/node/", "a/succession/", "b/note/x")])
    assert state.successions() == [b"a/succession/"]


def test_a_renewed_certificate_is_found_at_the_next_start(database: Database) -> None:
    state = MeshState(database)
    state.save(MeshCredentials(b"genesis", b"old", b"issuer"))
    state.apply([Store(CERTIFICATE_KEY, b"new"), Store(ISSUER_KEY, None)])
    assert state.credentials() == MeshCredentials(b"genesis", b"new", None)


def test_bans_are_kept_beside_the_records(database: Database) -> None:
    state = MeshState(database)
    state.apply([Store(f"{BAN_PREFIX}anna", b"until"), Store(f"{STORE_PREFIX}a", b"1")])
    assert state.bans() == [(f"{BAN_PREFIX}anna", b"until")]
    assert state.records() == [b"1"]
    state.apply([Store(f"{BAN_PREFIX}anna", None)])
    assert state.bans() == []


def test_what_is_known_of_sources_is_kept(database: Database) -> None:
    state = MeshState(database)
    assert state.scores() is None
    state.apply([Store(SCORES_KEY, b"scores")])
    assert state.scores() == b"scores"
