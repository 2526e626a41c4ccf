"""Replicated records: a table of slots, which records count in it, and own ones renewed in time.

A record comes by broadcast or in a `Records` message; either way `accept_untrusted` decides. How it travels is for
`gossip.plumtree`, and what two neighbours lack of each other for `gossip.reconcile`.

A neighbour is only to blame for what no honest node would pass on: bytes that do not decode, a wrong signature, a body
that is not what its kind promises. What depends on clocks, room or on who was heard of first is refused in silence.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from random import Random

from atmo.clock import Now
from atmo.engine import Effect, Emit, Misbehaved, Outbox, Store
from atmo.errors import WireError
from atmo.gossip.entry import Entry, OpenRecord, Slot, entry_of, open_record_untrusted, rank
from atmo.gossip.records import DOMAIN, NODE, Record
from atmo.gossip.sync_config import SyncConfig, SyncStats
from atmo.gossip.table import RecordTable, TableLimits
from atmo.gossip.verdict import Authorise, RecordChanged, Refusal, Signed, Verdict
from atmo.identity import NodeId, Signer
from atmo.trust.records import LASTING
from atmo.wire import limits
from atmo.wire.envelope import seal
from atmo.wire.schema import pack

__all__ = ["Authorise", "RecordChanged", "RecordSync", "Refusal", "Signed", "Verdict", "store_key"]

STORE_PREFIX = "record/"
_OWN_MARGIN_BYTES = 8 * 1024  # own records grow a little with each renewal, as their numbers do

_EPOCH_MARGIN = 2**32
"""Epochs are Unix seconds or a little more: none of ours is a century ahead. Who has our key can write any number, and
past the largest that a record can carry we could write none at all."""

_SEQUENCE_MOST = 2**48
"""The same for sequences: a thousand records a second for 8,900 years."""


class RecordSync:
    """The table of records and the engine that keeps it in step with the mesh.

    Args:
        config: Periods and bounds.
        signer: Signs own records.
        mesh: The mesh id.
        epoch: Of this start of the node; larger than at any start before.
        rng: Chooses neighbours for rounds, spreads renewals.
        authorise: The trust rules.
        open_record: Opens sealed records.

    Attributes:
        table: All records, for `Reconciler`; nobody else changes it.
    """

    def __init__(
        self,
        config: SyncConfig,
        signer: Signer,
        mesh: bytes,
        epoch: int,
        rng: Random,
        authorise: Authorise,
        open_record: OpenRecord = open_record_untrusted,
    ) -> None:
        self._config = config
        self._signer = signer
        self._own = signer.node_id
        self._mesh = mesh
        self._version = (epoch, 0)
        self._rng = rng
        self._authorise = authorise
        self._open_record = open_record
        self._lifetime_s = config.lifetime_s
        self.table = RecordTable(
            TableLimits(limits.AUTHORS, limits.RECORDS_PER_AUTHOR, config.author_bytes, config.table_bytes)
        )
        self._renew_at: dict[Slot, float] = {}
        self._stale: dict[Slot, None] = {}  # own slots that the mesh holds and this run has not written
        self._outbid = False
        self._reclaimed_at = -math.inf
        self._next_reclaim = math.inf
        self._next_renew = math.inf
        self._next_sweep = math.inf
        self.out = Outbox()
        self.stats = SyncStats()

    # --- commands -------------------------------------------------------------------------------------------------

    @property
    def lifetime_s(self) -> int:
        """Of own records from now on."""
        return self._lifetime_s

    def set_lifetime(self, lifetime_s: int) -> None:
        """Sets the lifetime of own records, from the next one on; those that are out are renewed when they are due."""
        self._lifetime_s = lifetime_s

    def publish(
        self, now: Now, kind: str, key: str, body: bytes, lifetime_s: int | None = None, *, near: bool = False
    ) -> None:
        """Signs a record into our own slot; `Signed` tells the envelope.

        Args:
            now: The clocks.
            kind, key: The slot.
            body: What it says.
            lifetime_s: It lives so long and is not renewed; None for a record that is renewed until it is withdrawn.
            near: Only neighbours get it.

        Raises:
            WireError: The record is too large to travel, or this node says too much. Nothing has changed then.
        """
        entry = self._sealed(now, kind, key, body, lifetime_s or self._lifetime_s, near)
        size = len(entry.envelope)
        if size > limits.MESSAGE_BYTES - 1_024:
            raise WireError(f"a record of {size} bytes does not fit a message of {limits.MESSAGE_BYTES}")
        if not self.table.has_room(entry.slot, size + _OWN_MARGIN_BYTES):
            raise WireError(f"a node tells the mesh at most {limits.RECORDS_PER_AUTHOR} records")
        self._put_own(now, entry)
        self._stale.pop(entry.slot, None)
        if lifetime_s is None:
            self._renew_later(now, entry.slot)
            self._next_renew = min(self._next_renew, self._renew_at[entry.slot])

    def withdraw(self, now: Now, kind: str, key: str) -> None:
        """Empties our own slot everywhere; `Signed` tells the envelope."""
        slot = (self._own, kind, key)
        held = self.table.get(slot)
        self._put_own(now, self._sealed(now, kind, key, b"", self._lifetime_s, held is not None and held.record.near))
        self._renew_at.pop(slot, None)

    def _sealed(self, now: Now, kind: str, key: str, body: bytes, lifetime_s: int, near: bool) -> Entry:
        epoch, sequence = self._version
        record = Record(kind, key, epoch, sequence + 1, int(now.wall), lifetime_s, body, near)
        return entry_of(self._own, record, seal(self._signer, DOMAIN, self._mesh, pack(record)))

    def _put_own(self, now: Now, entry: Entry) -> None:
        self._version = entry.record.version
        self._put(now, entry)
        self.out.put(Emit(Signed(entry.envelope, entry.record.near)))

    def _renew_later(self, now: Now, slot: Slot) -> None:
        wait = self._config.renew_s * self._lifetime_s / self._config.lifetime_s
        self._renew_at[slot] = now.mono + wait * self._rng.uniform(1 - self._config.renew_spread, 1)

    def drop_author(self, author: NodeId) -> None:
        """Forgets the records of a node that is no member any more, save whom it put out itself."""
        for slot in self.table.slots_of(author):
            if slot[1] not in LASTING:
                self._remove(slot)
        self.forget(author)

    def forget(self, author: NodeId) -> None:
        """Forgets where a node was last seen."""
        self.out.put(Store(store_key((author, NODE, "")), None))

    # --- acceptance -----------------------------------------------------------------------------------------------

    def accept_untrusted(self, now: Now, source: NodeId, envelope: bytes, *, broadcast: bool = False) -> Verdict:
        """Takes a record from a neighbour into the table where it is news.

        Args:
            now: The clocks.
            source: Who sent it.
            envelope: The record.
            broadcast: It is on its way to everyone, as no near record ever is.
        """
        try:
            entry = self._open_record(envelope, self._mesh)
        except WireError as error:
            return self._broken(source, f"record: {error}")
        if entry.record.near and (broadcast or source != entry.slot[0]):
            return self._broken(source, f"record of {entry.slot[0].short}: it is for the author's neighbours")
        return self._accept(now, source, entry)

    def _accept(self, now: Now, source: NodeId | None, entry: Entry) -> Verdict:
        slot, record = entry.slot, entry.record
        author = slot[0]
        held = self.table.get(slot)
        if held and (held.record.version >= record.version or record.kind in LASTING):  # the first one is final
            self.stats.replayed += held.envelope != entry.envelope
            return Verdict.NEAR if record.near else Verdict.KNOWN
        if entry.expires_s < now.wall - self._config.skew_s:
            self.stats.expired += 1
            return Verdict.REFUSED
        if record.issued_s > now.wall + self._config.skew_s and record.kind not in LASTING:  # those hold at any time
            self.stats.early += 1
            return Verdict.REFUSED
        if author == self._own and record.kind not in LASTING:
            return self._reclaim(now, slot, record)
        if refusal := self._authorise(now, author, record, source is None):
            self.stats.unknown_author += refusal.unknown
            if refusal.fault:
                broken = self._broken(source, f"record of {author.short}: {refusal.reason}")
                return Verdict.UNENTITLED if refusal.sound else broken
            return Verdict.REFUSED
        if not self.table.has_room(slot, len(entry.envelope)):
            self.stats.no_room += 1
            return Verdict.REFUSED
        self.stats.accepted += 1
        self._put(now, entry)
        return Verdict.NEAR if record.near else Verdict.NEWS

    def _broken(self, source: NodeId | None, reason: str) -> Verdict:
        self.stats.refused += 1
        if source is not None:
            self.out.put(Misbehaved(source, reason))
        return Verdict.BROKEN

    def _reclaim(self, now: Now, slot: Slot, record: Record) -> Verdict:
        """The mesh holds a record of ours from another run: go past it, or take it back where this run has none."""
        epoch_most = max(now.wall, self._version[0]) + _EPOCH_MARGIN
        if record.epoch > epoch_most or record.sequence > _SEQUENCE_MOST:
            return Verdict.REFUSED
        self._outbid |= record.version > self._version or slot in self._renew_at
        self._version = max(self._version, record.version)
        self.stats.reclaimed += 1
        lasting = record.kind == NODE  # replaced when this run says its own, never taken back
        if not lasting and slot not in self._renew_at and len(self._stale) < limits.RECORDS_PER_AUTHOR:
            self._stale[slot] = None
        self._next_reclaim = max(now.mono, self._reclaimed_at + self._config.reclaim_s)
        return Verdict.KNOWN

    def _put(self, now: Now, entry: Entry) -> None:
        self.table.put(entry)
        self._next_sweep = min(self._next_sweep, self._sweep_at(now))
        if entry.slot[0] != self._own or entry.record.kind in LASTING:
            self.out.put(Store(store_key(entry.slot), entry.envelope))
        self.out.put(Emit(RecordChanged(*entry.slot, entry.record)))

    def load(self, now: Now, envelopes: Iterable[bytes]) -> list[tuple[NodeId, Record]]:
        """Takes records kept from an earlier run or handed over at joining; what is wrong is left out in silence.

        Of our own records only revocations come back: everything else is published anew.

        Returns:
            Node records that have expired: no news, but where their authors were last.
        """
        entries = []
        for envelope in envelopes:
            try:
                entries.append(self._open_record(envelope, self._mesh))
            except WireError:
                continue
        entries.sort(key=lambda entry: rank(entry.record))
        remembered: dict[NodeId, Record] = {}
        for entry in entries:
            author, kind, _ = entry.slot
            if author != self._own or kind in LASTING:
                self._accept(now, None, entry)
            if self.table.get(entry.slot) is None:
                if author != self._own and kind == NODE and self._is_remembered(now, entry):
                    remembered[author] = entry.record
                else:
                    self.out.put(Store(store_key(entry.slot), None))
        return list(remembered.items())

    def _is_remembered(self, now: Now, entry: Entry) -> bool:
        wall = now.wall - self._config.skew_s
        return wall - self._config.remember_s < entry.expires_s < wall

    # --- queries --------------------------------------------------------------------------------------------------

    def record(self, author: NodeId, kind: str, key: str = "") -> Record | None:
        """Returns what one slot holds."""
        entry = self.table.get((author, kind, key))
        return entry.record if entry else None

    def envelope(self, author: NodeId, kind: str, key: str = "") -> bytes | None:
        """Returns what one slot holds, as signed."""
        entry = self.table.get((author, kind, key))
        return entry.envelope if entry else None

    def envelopes(self, kind: str) -> Iterator[bytes]:
        """Yields the sealed records of one kind, as they would be sent."""
        for slot, entry in self.table.items():
            if slot[1] == kind:
                yield entry.envelope

    def authors(self) -> list[NodeId]:
        """Returns everyone of whom there is a record."""
        return self.table.authors()

    def versions(self) -> dict[Slot, tuple[int, int]]:
        """Returns the version of each slot: two nodes that agree have equal ones."""
        return {slot: entry.record.version for slot, entry in self.table.items()}

    def own_envelopes(self) -> list[bytes]:
        """Returns this node's own records that are for everyone, as they would be sent."""
        return [
            entry.envelope
            for slot in self.table.slots_of(self._own)
            if (entry := self.table.get(slot)) and not entry.record.near
        ]

    def near_envelopes(self) -> list[bytes]:
        """Returns the own records that only neighbours get: a new one is to have them all."""
        entries = (self.table.get(slot) for slot in self.table.slots_of(self._own))
        return [entry.envelope for entry in entries if entry and entry.record.near]

    # --- inputs ---------------------------------------------------------------------------------------------------

    # --- time -----------------------------------------------------------------------------------------------------

    def handle_timer(self, now: Now) -> None:
        """Sweeps what expired, renews own records."""
        if now.mono >= self._next_sweep:
            self._sweep(now)
        if now.mono >= self._next_reclaim:
            self._take_back(now)
        if now.mono >= self._next_renew:
            self._renew(now)

    def _sweep(self, now: Now) -> None:
        for slot in self.table.expired(now.wall - self._config.skew_s):
            if slot in self._renew_at:  # the wall clock jumped, as after a machine slept
                self._renew_at[slot] = self._next_renew = now.mono
            else:
                self._remove(slot)
        self._next_sweep = self._sweep_at(now)

    def _sweep_at(self, now: Now) -> float:
        if not len(self.table):
            return math.inf
        wait = self.table.soonest() + self._config.skew_s - now.wall
        return now.mono + min(max(1.0, wait), self._config.sweep_s)

    def _take_back(self, now: Now) -> None:
        self._reclaimed_at, self._next_reclaim = now.mono, math.inf
        if self._outbid:
            self._outbid = False
            for slot in self._renew_at:
                self._renew_at[slot] = self._next_renew = now.mono
        stale, self._stale = self._stale, {}
        for _, kind, key in stale:
            self.withdraw(now, kind, key)

    def _renew(self, now: Now) -> None:
        for slot in [slot for slot, at in self._renew_at.items() if now.mono >= at]:
            held = self.table.get(slot)
            assert held is not None, "what is renewed is in the table"
            body, near = held.record.body, held.record.near
            self._put_own(now, self._sealed(now, slot[1], slot[2], body, self._lifetime_s, near))
            self._renew_later(now, slot)
        self._next_renew = min(self._renew_at.values(), default=math.inf)

    def _remove(self, slot: Slot) -> None:
        self.table.remove(slot)
        self._renew_at.pop(slot, None)
        if slot[1] != NODE:  # where a node was last is worth knowing after a long sleep or split
            self.out.put(Store(store_key(slot), None))
        self.out.put(Emit(RecordChanged(*slot, None)))

    def next_timer(self) -> float:
        return min(self._next_sweep, self._next_renew, self._next_reclaim)

    def drain(self) -> list[Effect]:
        return self.out.drain()


@lru_cache(maxsize=2**15)
def store_key(slot: Slot) -> str:
    """Returns the key under which a record is kept over restarts."""
    return f"{STORE_PREFIX}{slot[0]}/{slot[1]}/{slot[2]}"
