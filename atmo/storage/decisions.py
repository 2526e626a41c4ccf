"""What a person decided about models, and what this node remembers of them: whom to trust, which version counts.

All of it is small and read often, so it is kept in memory beside the tables. Reading is for every thread; what changes
something blocks on the disk: call it from a worker thread.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from atmo.errors import UserError
from atmo.identity import NodeId
from atmo.storage.database import Database

SEEN_MOST = 50_000
"""Manifests of which it is kept when they were first heard of; the oldest go. Source: guess, 4 MB."""

DEPRECATIONS_MOST = 128
"""Statements of this node, those that it took back included. Source: guess; each is a record of its 512."""

PUBLISHERS_MOST = 10_000
"""Source: guess; a person decides on each."""

FirstTime = Literal["ask", "refuse", "allow"]

_PRIVATE_SINCE = "models/private-since"
_CLOCK_S = 60.0  # the wall clock may have been set back a little between an import and the note of it


@dataclass(frozen=True, slots=True)
class TrustPolicy:
    """What the settings say of publishers on whom nobody has decided.

    Attributes:
        publishers: Node ids, or names in certificates, that are trusted.
        roles: Of members that are trusted; `admin` and `founder` are roles here.
        first_time: What to do about any other publisher.
    """

    publishers: tuple[str, ...] = ()
    roles: tuple[str, ...] = ("admin", "founder")
    first_time: FirstTime = "ask"


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person said of a publisher.

    Attributes:
        trusted: Its models may be pulled.
        name: What it was called then.
        decided_at: Unix seconds.
    """

    trusted: bool
    name: str
    decided_at: float


@dataclass(frozen=True, slots=True)
class OwnDeprecation:
    """What this node advises against.

    Attributes:
        name, versions, reason, replacement: As in the record.
        withdrawn: It was taken back; this is kept for as long as the former word may be under way.
        decided_at: Unix seconds.
    """

    name: str
    versions: str
    reason: str
    replacement: str
    withdrawn: bool
    decided_at: float


class Decisions:
    """The tables.

    Args:
        database: Where they are.

    Attributes:
        database: The same.
        publishers: By node.
        active: Version that counts as the newest here, by the model's name: set by a roll-back.
        auto: Range of versions that is kept up to date, by the model's name; empty means all.
        first_seen: Unix seconds, by manifest.
        deprecations: Of this node, by name and range.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._lock = threading.Lock()
        self._private_imports = 0
        self._private_since: float | None = None
        self._settled: frozenset[bytes] = frozenset()
        self._recover_private()
        query = database.query
        self.publishers = {
            NodeId(node): Decision(bool(trusted), name, decided_at)
            for node, trusted, name, decided_at in query("SELECT node, trusted, name, decided_at FROM publishers")
        }
        rows = query("SELECT name, active, auto FROM choices")
        self.active: dict[str, str] = {name: active for name, active, _ in rows if active is not None}
        self.auto: dict[str, str] = {name: auto for name, _, auto in rows if auto is not None}
        self.first_seen: dict[bytes, float] = {
            bytes(manifest): at for manifest, at in query("SELECT manifest, first_seen FROM seen ORDER BY first_seen")
        }
        self._private = {bytes(manifest) for (manifest,) in query("SELECT manifest FROM private")}
        self.deprecations = {
            (row[0], row[1]): OwnDeprecation(row[0], row[1], row[2], row[3], bool(row[4]), row[5])
            for row in query("SELECT name, versions, reason, replacement, withdrawn, decided_at FROM deprecations")
        }

    # --- publishers -----------------------------------------------------------------------------------------------

    def decide(self, node: NodeId, decision: Decision) -> None:
        """Remembers what was said of a publisher.

        Raises:
            UserError: There are too many.
        """
        if node not in self.publishers and len(self.publishers) >= PUBLISHERS_MOST:
            raise UserError("There are decisions on too many publishers.", "Forget some of them first.")
        with self.database.transaction() as run:
            run.execute(
                "INSERT OR REPLACE INTO publishers (node, trusted, name, decided_at) VALUES (?, ?, ?, ?)",
                (bytes(node), decision.trusted, decision.name, decision.decided_at),
            )
        self.publishers[node] = decision

    def forget(self, node: NodeId) -> None:
        """Forgets what was said of a publisher: it is a first-time one again."""
        with self.database.transaction() as run:
            run.execute("DELETE FROM publishers WHERE node = ?", (bytes(node),))
        self.publishers.pop(node, None)

    # --- versions -------------------------------------------------------------------------------------------------

    def set_active(self, name: str, version: str | None) -> None:
        """Has a version count as the newest here; None undoes it."""
        self._choose(name, version, self.auto.get(name))

    def set_auto(self, name: str, wanted: str | None) -> None:
        """Has a model kept up to date within a range of versions; None ends that."""
        self._choose(name, self.active.get(name), wanted)

    def _choose(self, name: str, active: str | None, auto: str | None) -> None:
        with self.database.transaction() as run:
            if active is None and auto is None:
                run.execute("DELETE FROM choices WHERE name = ?", (name,))
            else:
                run.execute(
                    "INSERT OR REPLACE INTO choices (name, active, auto) VALUES (?, ?, ?)", (name, active, auto)
                )
        for held, value in ((self.active, active), (self.auto, auto)):
            if value is None:
                held.pop(name, None)
            else:
                held[name] = value

    def note_seen(self, manifests: Iterable[bytes], now: float) -> int:
        """Remembers when manifests were first heard of; returns how many were news."""
        fresh = [manifest for manifest in dict.fromkeys(manifests) if manifest not in self.first_seen][:SEEN_MOST]
        if not fresh:
            return 0
        surplus = max(0, len(self.first_seen) + len(fresh) - SEEN_MOST)
        old = [manifest for manifest, _ in zip(self.first_seen, range(surplus), strict=False)]
        with self.database.transaction() as run:
            run.executemany("DELETE FROM seen WHERE manifest = ?", [(manifest,) for manifest in old])
            run.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?)", [(manifest, now) for manifest in fresh])
        kept = {manifest: at for manifest, at in self.first_seen.items() if manifest not in set(old)} if old else None
        self.first_seen = (self.first_seen if kept is None else kept) | dict.fromkeys(fresh, now)
        return len(fresh)

    # --- private models -------------------------------------------------------------------------------------------

    def is_private(self, manifest: bytes, added_at: float) -> bool:
        """Says whether the mesh is not to hear of a model; one that may be private is while that is not settled."""
        since = self._private_since
        unsettled = since is not None and added_at >= since and manifest not in self._settled
        return manifest in self._private or unsettled

    def begin_private(self, now: float, here: Collection[bytes] = ()) -> None:
        """A private import begins: a kill before `end_private` leaves what came since then private.

        Args:
            now: Unix seconds.
            here: Manifests of the models that are here already.
        """
        with self._lock:
            self._private_imports += 1
            if self._private_since is None:
                since = now - _CLOCK_S
                self.database.kv_put(_PRIVATE_SINCE, repr(since).encode())
                self._settled = frozenset(here)
                self._private_since = since

    def end_private(self, manifest: bytes | None) -> None:
        """A private import ended: its model is private for good; None where there is none or it was here before."""
        with self._lock:
            last = self._private_imports == 1
            with self.database.transaction() as run:
                if manifest is not None:
                    run.execute("INSERT OR IGNORE INTO private VALUES (?)", (manifest,))
                if last:
                    run.execute("DELETE FROM kv WHERE key = ?", (_PRIVATE_SINCE,))
            if manifest is not None:
                self._private.add(manifest)
            self._private_imports -= 1
            if last:
                self._private_since = None

    def make_public(self, manifest: bytes) -> bool:
        """Lets the mesh hear of a model; returns whether it was private."""
        with self.database.transaction() as run:
            run.execute("DELETE FROM private WHERE manifest = ?", (manifest,))
        was = manifest in self._private
        self._private.discard(manifest)
        return was

    def _recover_private(self) -> None:
        since = self.database.kv_get(_PRIVATE_SINCE)
        with self.database.transaction() as run:
            if since is not None:
                run.execute(
                    "INSERT OR IGNORE INTO private SELECT manifest FROM models WHERE added_at >= ?",
                    (float(since.decode()),),
                )
                run.execute("DELETE FROM kv WHERE key = ?", (_PRIVATE_SINCE,))
            run.execute("DELETE FROM private WHERE manifest NOT IN (SELECT id FROM manifests)")

    # --- deprecations ---------------------------------------------------------------------------------------------

    def deprecate(self, said: OwnDeprecation) -> None:
        """Remembers what this node advises against, or that it took that back; the oldest of the latter make room.

        Raises:
            UserError: It is too much.
        """
        key = (said.name, said.versions)
        with self.database.transaction() as run:
            if key not in self.deprecations and len(self.deprecations) >= DEPRECATIONS_MOST:
                withdrawn = [row for row in self.deprecations.values() if row.withdrawn]
                if not withdrawn:
                    raise UserError(
                        f"This node advises against {DEPRECATIONS_MOST} things already.",
                        "Take some of them back first.",
                    )
                oldest = min(withdrawn, key=lambda row: row.decided_at)
                run.execute("DELETE FROM deprecations WHERE name = ? AND versions = ?", (oldest.name, oldest.versions))
                del self.deprecations[oldest.name, oldest.versions]
            run.execute(
                "INSERT OR REPLACE INTO deprecations VALUES (?, ?, ?, ?, ?, ?)",
                (*key, said.reason, said.replacement, said.withdrawn, said.decided_at),
            )
        self.deprecations[key] = said
