"""Which transfers there are and how they stand: the table `transfers`, so that a restart forgets none of them.

A transfer is one wish for one version of a model. What arrived of it lies under `partial/`; this table says what is to
be done about it. One that is over stays for a while, for the figures of `atmo model status`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from atmo.storage.database import Database
from atmo.transfer.names import version_key

State = Literal["queued", "running", "waiting", "paused", "failed", "done", "cancelled"]
Purpose = Literal["pull", "update", "prefetch"]
Came = tuple[int, int]
"""The bytes that travelled and those that were copied."""

GOING: tuple[State, ...] = ("queued", "running", "waiting")
"""States in which a transfer goes on by itself, also after a restart."""

OVER: tuple[State, ...] = ("done", "cancelled")

KEPT_MOST = 1_000
"""Transfers that are kept, those that are over and those that failed among them. Source: guess; a node that pulls ten
models a day remembers three months."""


@dataclass(frozen=True, slots=True)
class StoredTransfer:
    """One row.

    Attributes:
        id: By which people name it; never used again for another.
        name, version: Of the model.
        manifest: The id of the manifest that was chosen, 32 bytes; others may claim the same version.
        purpose: Who wished for it: a person, the updater, or the node itself while it was idle.
        state: What is to be done about it.
        reason: Why it is in that state, empty where nothing needs to be said.
        bytes_done, bytes_total: As last noted.
        created_at, changed_at: Unix seconds.
        took_s: Seconds in which it was running, all together.
        travelled_bytes: What came over the network for it: with deltas less than arrived.
        copied_bytes: What other models on this machine had already.
    """

    id: int
    name: str
    version: str
    manifest: bytes
    purpose: Purpose
    state: State
    reason: str
    bytes_done: int
    bytes_total: int
    created_at: float
    changed_at: float
    took_s: float
    travelled_bytes: int
    copied_bytes: int

    @property
    def key(self) -> tuple[str, str]:
        """Name and version in the form in which equal versions are one text."""
        return self.name, version_key(self.version)


_COLUMNS = (
    "id, name, version, manifest, purpose, state, reason, bytes_done, bytes_total, created_at, changed_at, took_s,"
    " travelled_bytes, copied_bytes"
)


class TransferTable:
    """The table; its methods block on the disk.

    Args:
        database: Where it is.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def rows(self) -> list[StoredTransfer]:
        """Returns all transfers in the order in which they were wished for."""
        return [_stored(row) for row in self._database.query(f"SELECT {_COLUMNS} FROM transfers ORDER BY id")]

    def prefetched(self) -> set[tuple[str, str]]:
        """Returns the keys of the versions that this node fetched by itself and that nobody has pulled since."""
        rows = self._database.query("SELECT name, version_key, purpose FROM transfers WHERE state = 'done' ORDER BY id")
        newest = {(name, key): purpose for name, key, purpose in rows}
        return {key for key, purpose in newest.items() if purpose == "prefetch"}

    def open(
        self, name: str, version: str, manifest: bytes, purpose: Purpose, bytes_total: int, state: State, now: float
    ) -> StoredTransfer:
        """Begins a transfer, or takes up the one of the same version that is not over, with what it has of bytes."""
        key = version_key(version)
        with self._database.transaction() as run:
            found = run.execute(
                f"SELECT {_COLUMNS} FROM transfers WHERE name = ? AND version_key = ? AND state NOT IN (?, ?)",
                (name, key, *OVER),
            ).fetchone()
            if found is None:
                run.execute(
                    "INSERT INTO transfers (name, version, version_key, manifest, purpose, state, reason, bytes_done,"
                    " bytes_total, created_at, changed_at, took_s) VALUES (?, ?, ?, ?, ?, ?, '', 0, ?, ?, ?, 0)",
                    (name, version, key, manifest, purpose, state, bytes_total, now, now),
                )
                run.execute(
                    "DELETE FROM transfers WHERE state IN ('done', 'cancelled', 'failed') AND id IN"
                    " (SELECT id FROM transfers ORDER BY id DESC LIMIT -1 OFFSET ?)",
                    (KEPT_MOST,),
                )
            else:
                kept = "pull" if "pull" in (purpose, found[4]) else purpose
                run.execute(
                    "UPDATE transfers SET version = ?, manifest = ?, purpose = ?, state = ?, reason = '',"
                    " bytes_total = ?, changed_at = ? WHERE id = ?",
                    (version, manifest, kept, state, bytes_total, now, found[0]),
                )
            row = run.execute(
                f"SELECT {_COLUMNS} FROM transfers WHERE name = ? AND version_key = ? AND state NOT IN (?, ?)",
                (name, key, *OVER),
            ).fetchone()
        return _stored(row)

    def note(
        self,
        identity: int,
        state: State,
        reason: str,
        bytes_done: int,
        more_s: float,
        now: float,
        came: Came | None = None,
    ) -> None:
        """Notes how a transfer stands.

        Args:
            identity: Its id; one that is gone is not noted.
            state, reason, bytes_done: As in `StoredTransfer`.
            more_s: For how long it has been running since the last note.
            now: Unix seconds.
            came: `travelled_bytes` and `copied_bytes`, None where they are as before.
        """
        travelled, copied = (None, None) if came is None else came
        with self._database.transaction() as run:
            run.execute(
                "UPDATE transfers SET state = ?, reason = ?, bytes_done = ?, took_s = took_s + ?, changed_at = ?,"
                " travelled_bytes = ifnull(?, travelled_bytes), copied_bytes = ifnull(?, copied_bytes) WHERE id = ?",
                (state, reason, bytes_done, more_s, now, travelled, copied, identity),
            )


def _stored(row: tuple[Any, ...]) -> StoredTransfer:
    identity, name, version, manifest, *rest = row
    return StoredTransfer(identity, name, version, bytes(manifest), *rest)
