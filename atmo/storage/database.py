"""The node's SQLite database: models and their chunks, mesh state, invitations.

One connection guarded by a lock, used from worker threads. Write-ahead log with full synchronisation: what a method has
returned from survives a power cut. The database knows its schema's version and moves older files up.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from atmo.errors import UserError
from atmo.storage import invites
from atmo.storage.invites import OpenInvite, Redemption

MIGRATIONS = (
    """
    CREATE TABLE manifests (
        id BLOB PRIMARY KEY,
        sealed BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE models (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL,
        version TEXT NOT NULL,
        version_key TEXT NOT NULL,
        manifest BLOB NOT NULL REFERENCES manifests (id),
        source_node TEXT NOT NULL,
        added_at REAL NOT NULL,
        loaded_at REAL,
        UNIQUE (name, version_key)
    );
    CREATE TABLE files (
        id INTEGER PRIMARY KEY,
        model INTEGER NOT NULL REFERENCES models (id) ON DELETE CASCADE,
        path TEXT NOT NULL,
        place TEXT NOT NULL COLLATE NOCASE UNIQUE,
        size_bytes INTEGER NOT NULL
    );
    CREATE INDEX files_of_model ON files (model);
    CREATE TABLE chunks (
        hash BLOB NOT NULL,
        file INTEGER NOT NULL REFERENCES files (id) ON DELETE CASCADE,
        offset INTEGER NOT NULL,
        size INTEGER NOT NULL,
        PRIMARY KEY (hash, file, offset)
    ) WITHOUT ROWID;
    CREATE INDEX chunks_of_file ON chunks (file);
    CREATE TABLE pending (
        place TEXT PRIMARY KEY,
        partial TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE kv (
        key TEXT PRIMARY KEY,
        value BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE invites (
        secret_hash BLOB PRIMARY KEY,
        role TEXT NOT NULL,
        expires_at REAL NOT NULL,
        created_at REAL NOT NULL,
        used_by BLOB,
        used_at REAL
    ) WITHOUT ROWID;
    CREATE TABLE records (
        key TEXT PRIMARY KEY,
        envelope BLOB NOT NULL,
        stored_at REAL NOT NULL
    ) WITHOUT ROWID;
    """,
    "DROP TABLE records;",  # records of the mesh lie under kv
    """
    CREATE TABLE transfers (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL,
        version TEXT NOT NULL,
        version_key TEXT NOT NULL,
        manifest BLOB NOT NULL,
        purpose TEXT NOT NULL,
        state TEXT NOT NULL,
        reason TEXT NOT NULL,
        bytes_done INTEGER NOT NULL,
        bytes_total INTEGER NOT NULL,
        created_at REAL NOT NULL,
        changed_at REAL NOT NULL,
        took_s REAL NOT NULL
    );
    CREATE UNIQUE INDEX open_transfers ON transfers (name, version_key) WHERE state NOT IN ('done', 'cancelled');
    """,
    """
    ALTER TABLE models ADD COLUMN used_at REAL NOT NULL DEFAULT 0;
    ALTER TABLE models ADD COLUMN pulled INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE orphans (
        place TEXT PRIMARY KEY,
        size_bytes INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE audit_waiting (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL,
        at TEXT NOT NULL,
        event TEXT NOT NULL
    );
    """,
    """
    CREATE TABLE publishers (
        node BLOB PRIMARY KEY,
        trusted INTEGER NOT NULL,
        name TEXT NOT NULL,
        decided_at REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE choices (
        name TEXT PRIMARY KEY,
        active TEXT,
        auto TEXT
    ) WITHOUT ROWID;
    CREATE TABLE seen (
        manifest BLOB PRIMARY KEY,
        first_seen REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE private (manifest BLOB PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE deprecations (
        name TEXT NOT NULL,
        versions TEXT NOT NULL,
        reason TEXT NOT NULL,
        replacement TEXT NOT NULL,
        withdrawn INTEGER NOT NULL,
        decided_at REAL NOT NULL,
        PRIMARY KEY (name, versions)
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE bridge_files (
        id INTEGER PRIMARY KEY,
        key TEXT NOT NULL UNIQUE,
        seen_at REAL NOT NULL,
        reason TEXT NOT NULL,
        about TEXT NOT NULL,
        sha256 BLOB NOT NULL,
        file BLOB NOT NULL
    );
    CREATE TABLE bridge_chunks (
        hash BLOB NOT NULL,
        file INTEGER NOT NULL REFERENCES bridge_files (id) ON DELETE CASCADE,
        offset INTEGER NOT NULL,
        size INTEGER NOT NULL,
        PRIMARY KEY (hash, file, offset)
    ) WITHOUT ROWID;
    CREATE INDEX bridge_chunks_of_file ON bridge_chunks (file);
    CREATE TABLE bridge_manifests (
        id BLOB PRIMARY KEY,
        file INTEGER NOT NULL REFERENCES bridge_files (id) ON DELETE CASCADE,
        name TEXT NOT NULL,
        version TEXT NOT NULL,
        sealed BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX bridge_manifests_of_file ON bridge_manifests (file);
    """,
    """
    ALTER TABLE transfers ADD COLUMN travelled_bytes INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE transfers ADD COLUMN copied_bytes INTEGER NOT NULL DEFAULT 0;
    """,
    """
    CREATE TABLE api_keys (
        hash BLOB PRIMARY KEY,
        name TEXT NOT NULL,
        models TEXT NOT NULL,
        rate_count INTEGER NOT NULL,
        rate_s REAL NOT NULL,
        budget REAL,
        budget_period TEXT NOT NULL,
        created_at REAL NOT NULL,
        expires_at REAL,
        revoked_at REAL,
        used_at REAL,
        requests INTEGER NOT NULL DEFAULT 0,
        prompt_tokens INTEGER NOT NULL DEFAULT 0,
        completion_tokens INTEGER NOT NULL DEFAULT 0,
        cost REAL NOT NULL DEFAULT 0,
        period TEXT NOT NULL DEFAULT '',
        period_cost REAL NOT NULL DEFAULT 0
    ) WITHOUT ROWID;
    CREATE UNIQUE INDEX open_api_keys ON api_keys (name) WHERE revoked_at IS NULL;
    """,
)
"""One script per version; a released one never changes."""


_HINT = "Check free space and permissions."


class Database:
    """An open database.

    Args:
        path: The file; made if it is missing.

    Raises:
        UserError: The file is damaged, of a newer version, or cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._depth = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
        except (OSError, sqlite3.Error) as error:
            raise UserError(
                f"Cannot open the database {path}: {error}.", "Check the folder's permissions and free space."
            ) from error
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._connection.close()
            if isinstance(error, sqlite3.OperationalError):
                raise UserError(
                    f"Cannot use the database {path}: {error}.",
                    "Check its permissions and that no other program uses it.",
                ) from error
            raise damaged(path, str(error)) from error
        except UserError:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        run = self._connection.execute
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            run(f"PRAGMA {pragma}")
        (state,) = run("PRAGMA quick_check(1)").fetchone()
        if state != "ok":
            raise damaged(self.path, state)
        (version,) = run("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise UserError(
                f"The database {self.path} was written by a newer version of Atmosphere.",
                "Install that version, or use another --home.",
            )
        for number in range(version, len(MIGRATIONS)):
            self._connection.executescript(
                f"BEGIN IMMEDIATE; {MIGRATIONS[number]} PRAGMA user_version = {number + 1}; COMMIT;"
            )

    def close(self) -> None:
        """Closes the database; further use is an error."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything done within happens or, when it raises, does not. Transactions nest: the outermost counts.

        Raises:
            UserError: The disk is full, the file is damaged or cannot be written.
        """
        with self._lock:
            if self._depth:
                yield self._connection
                return
            self._depth = 1
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                    self._connection.execute("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
            except sqlite3.IntegrityError:
                raise
            except sqlite3.DatabaseError as error:
                raise self._as_user_error(error) from error
            finally:
                self._depth = 0

    @contextmanager
    def still(self) -> Iterator[None]:
        """Keeps other threads from changing anything between several queries."""
        with self._lock:
            yield

    def state(self) -> tuple[int, int] | None:
        """Returns what is another after each change of any table, by whichever process; None within a transaction.

        Raises:
            UserError: The file is damaged or cannot be read.
        """
        with self._lock:
            if self._depth:
                return None
            ((version,),) = self.query("PRAGMA data_version")
            return self._connection.total_changes, int(version)

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Returns all rows of a reading statement.

        Raises:
            UserError: The file is damaged or cannot be read.
        """
        with self._lock:
            try:
                return self._connection.execute(sql, values).fetchall()
            except sqlite3.DatabaseError as error:
                raise self._as_user_error(error) from error

    def _as_user_error(self, error: sqlite3.DatabaseError) -> UserError:
        if isinstance(error, sqlite3.OperationalError):
            locked = error.sqlite_errorcode in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            hint = "End the other program that uses it, and try again." if locked else _HINT
            return UserError(f"Cannot use the database {self.path}: {error}.", hint)
        return damaged(self.path, str(error))

    def kv_get(self, key: str) -> bytes | None:
        """Returns the value under `key`."""
        rows = self.query("SELECT value FROM kv WHERE key = ?", key)
        return bytes(rows[0][0]) if rows else None

    def kv_put(self, key: str, value: bytes) -> None:
        """Keeps `value` under `key`."""
        with self.transaction() as run:
            run.execute(
                "INSERT INTO kv VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", (key, value)
            )

    def kv_delete(self, key: str) -> None:
        """Forgets `key`; it need not exist."""
        with self.transaction() as run:
            run.execute("DELETE FROM kv WHERE key = ?", (key,))

    def kv_items(self, prefix: str = "") -> list[tuple[str, bytes]]:
        """Returns keys that begin with `prefix`, and their values, in order of the keys."""
        rows = self.query("SELECT key, value FROM kv WHERE substr(key, 1, ?) = ? ORDER BY key", len(prefix), prefix)
        return [(key, bytes(value)) for key, value in rows]

    def invite_add(self, secret_hash: bytes, role: str, expires_at: float, now: float) -> None:
        """Keeps a new invitation.

        Raises:
            ValueError: There are too many invitations, or this secret exists.
        """
        with self.transaction() as run:
            invites.add(run, secret_hash, role, expires_at, now)

    def invite_redeem(self, secret_hash: bytes, node: bytes, now: float) -> Redemption:
        """Uses an invitation for `node`, once; the same node may repeat it until it expires, as after a lost answer."""
        with self.transaction() as run:
            return invites.redeem(run, secret_hash, bytes(node), now)

    def invite_take(self, secret_hash: bytes, role: str, expires_at: float, node: bytes, now: float) -> Redemption:
        """Uses an invitation that another node made, as `invite_redeem` does with an own one.

        Raises:
            ValueError: There are too many invitations.
        """
        with self.transaction() as run:
            return invites.take(run, secret_hash, role, expires_at, bytes(node), now)

    def invites_open(self, now: float) -> list[OpenInvite]:
        """Returns the invitations that have not expired, those that expire last first."""
        rows = self.query(
            "SELECT secret_hash, role, expires_at, used_by FROM invites WHERE expires_at > ? ORDER BY expires_at DESC",
            now,
        )
        return [
            OpenInvite(bytes(secret), str(role), int(expires_at), None if used is None else bytes(used))
            for secret, role, expires_at, used in rows
        ]


def damaged(path: Path, what: str) -> UserError:
    """Returns the error for a database that SQLite cannot read."""
    return UserError(
        f"The database {path} is damaged: {what}.",
        "Move it away (and the files beside it with -wal and -shm) and start again; models can then be imported anew.",
    )
