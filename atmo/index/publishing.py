"""Own provider records: when each is stored again, at whom, and whether that needs a lookup."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random

from atmo.identity import NodeId
from atmo.index.config import IndexConfig
from atmo.wire.address import Contact


@dataclass(slots=True, eq=False)
class Publication:
    """One key that this node provides.

    Attributes:
        key: 32 bytes.
        due: Monotonic seconds at which it is stored again, unless that is under way.
        version: Of its newest record.
        envelope: That record, while it is being stored.
        holders: Who keeps it.
        pending: Holders that have not answered yet; None while nothing is being stored.
        direct: Renewals since the last lookup.
        failures: Attempts in a row that nobody took.
        looking: A lookup for its place is under way.
    """

    key: bytes
    due: float
    version: tuple[int, int] = (0, 0)
    envelope: bytes = b""
    holders: dict[NodeId, Contact] = field(default_factory=dict)
    pending: int = 0
    asked: int = 0
    direct: int = 0
    failures: int = 0
    looking: bool = False

    @property
    def busy(self) -> bool:
        """It is being stored."""
        return self.looking or self.pending > 0


class Publisher:
    """The schedule of all own records.

    Args:
        config: Periods and bounds.
        rng: Spreads renewals.
    """

    def __init__(self, config: IndexConfig, rng: Random) -> None:
        self._config = config
        self._rng = rng
        self._rows: dict[bytes, Publication] = {}
        self._busy = 0
        self._next_due = math.inf

    def get(self, key: bytes) -> Publication | None:
        """Returns what is published under a key."""
        return self._rows.get(key)

    def keys(self) -> list[bytes]:
        """Returns all keys that are published."""
        return list(self._rows)

    def add(self, mono: float, key: bytes) -> bool:
        """Publishes a key from now on, at once; returns False where there are too many."""
        if key not in self._rows:
            if len(self._rows) >= self._config.publications_most:
                return False
            self._rows[key] = Publication(key, mono)
        else:
            self._rows[key].due = mono
        self._reckon()
        return True

    def remove(self, key: bytes) -> Publication | None:
        """Publishes a key no longer; returns what there was."""
        row = self._rows.pop(key, None)
        if row is not None and row.busy:
            self._busy -= 1
        self._reckon()
        return row

    def hurry(self, mono: float) -> None:
        """Stores everything again soon, as what the records say has changed."""
        for number, row in enumerate(self._rows.values()):
            row.due = min(row.due, mono + number * 0.5)
            row.direct = 0
        self._reckon()

    # --- one after another --------------------------------------------------------------------------------------------

    def start(self, mono: float) -> Publication | None:
        """Returns the next one to be stored now, marked as busy; None when none is due or enough are busy."""
        if mono < self._next_due:
            return None
        row = min((row for row in self._rows.values() if not row.busy), key=_due)
        row.looking = True
        self._busy += 1
        self._reckon()
        return row

    def is_direct(self, row: Publication) -> bool:
        """Says whether the known holders are enough this time."""
        return (
            row.direct < self._config.direct_most and len(row.holders) > min(self._config.k, self._config.replicas) // 2
        )

    def store(self, row: Publication, contacts: list[Contact]) -> None:
        """The record goes to these now."""
        row.looking = False
        row.holders = {}
        row.pending = row.asked = len(contacts)

    def answered(self, mono: float, row: Publication, contact: Contact, kept_s: int) -> bool:
        """One of them answered, or will not (`kept_s` 0).

        Returns:
            Whether this was the last one and too few of the known holders are left: a lookup is needed.
        """
        if self._rows.get(row.key) is not row:
            return False
        row.pending -= 1
        if kept_s >= self._config.renew_s:
            row.holders[contact.node] = contact
        if row.pending:
            return False
        if row.direct and len(row.holders) < 0.75 * row.asked:
            row.direct = 0
            row.looking = True
            return True
        self.finish(mono, row)
        return False

    def finish(self, mono: float, row: Publication, *, full: bool = False) -> None:
        """Plans the next time.

        Args:
            mono: Monotonic seconds now.
            row: Which.
            full: The record is not needed, as there are as many of its key as fit.
        """
        row.looking, row.pending, row.envelope = False, 0, b""
        config = self._config
        row.failures = 0 if row.holders or full else min(row.failures + 1, 16)
        wait = config.renew_s if not row.failures else min(config.renew_s, config.retry_s * 2.0 ** (row.failures - 1))
        row.due = mono + wait * self._rng.uniform(0.9, 1.0)
        if self._rows.get(row.key) is row:
            self._busy -= 1
        self._reckon()

    def _reckon(self) -> None:
        self._next_due = math.inf
        if self._busy < self._config.publishing:
            self._next_due = min((row.due for row in self._rows.values() if not row.busy), default=math.inf)

    def next_due(self) -> float:
        """Returns when the next one is to be stored."""
        return self._next_due


def _due(row: Publication) -> float:
    return row.due
