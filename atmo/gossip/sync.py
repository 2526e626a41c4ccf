"""Replicated records: a table of slots, its own records renewed in time, and the differences healed with neighbours.

A record comes by flood or in a `Records` message; either way `accept_untrusted` decides. On each new link and then
once in a while, a node sends a `Summary` of its slots; the neighbour answers with what is newer or missing there. So a
late joiner or a healed partition learns what it lacks, and lost floods do not matter.

A neighbour is only to blame for what no honest node would pass on: bytes that do not decode, a wrong signature, a body
that is not what its kind promises. What depends on clocks, room or on who was heard of first is refused in silence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from random import Random

from atmo.clock import Now
from atmo.engine import Effect, Emit, Misbehaved, Outbox, Send, Store
from atmo.errors import WireError
from atmo.gossip.messages import Records, Summary
from atmo.gossip.records import DOMAIN, NODE, RECORD_ITEMS, REVOCATION, Record, check_record_untrusted
from atmo.gossip.summaries import SummaryPace, batches, lacking, rank, summary_pages
from atmo.gossip.sync_config import SyncConfig, SyncStats
from atmo.gossip.table import Entry, RecordTable, Slot, TableLimits
from atmo.identity import NodeId, Signer
from atmo.wire import limits
from atmo.wire.envelope import open_untrusted, seal
from atmo.wire.schema import pack, unpack_untrusted

STORE_PREFIX = "record/"
_OWN_MARGIN_BYTES = 8 * 1024  # own records grow a little with each renewal, as their numbers do

_EPOCH_MARGIN = 2**32
"""Epochs are Unix seconds or a little more: none of ours is a century ahead. Who has our key can write any number, and
past the largest that a record can carry we could write none at all."""

_SEQUENCE_MOST = 2**48
"""The same for sequences: a thousand records a second for 8,900 years."""


@dataclass(frozen=True, slots=True)
class RecordChanged:
    """A slot has a new record, or lost it (`record` is None)."""

    author: NodeId
    kind: str
    key: str
    record: Record | None


@dataclass(frozen=True, slots=True)
class Signed:
    """This node wrote a record: it is to be told to everyone."""

    envelope: bytes


class Verdict(Enum):
    """What became of a record: news to pass on, known already, refused here and now, broken for everyone, or well made
    by one who may not write it."""

    NEWS = 1
    KNOWN = 2
    REFUSED = 3
    BROKEN = 4
    UNENTITLED = 5


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an author may not write a record.

    Attributes:
        reason: For people.
        fault: No honest node passes it on, so whoever did is to blame.
        unknown: Only because the author is not known yet.
        sound: The record is well made, only its author has not the right.
    """

    reason: str
    fault: bool = False
    unknown: bool = False
    sound: bool = False


Authorise = Callable[[Now, NodeId, Record, bool], Refusal | None]
"""Says why this author may not write this record, None when it may; the last argument says that it was accepted in an
earlier run."""


class RecordSync:
    """The table of records and the engine that keeps it in step with the mesh.

    Args:
        config: Periods and bounds.
        signer: Signs own records.
        mesh: The mesh id.
        epoch: Of this start of the node; larger than at any start before.
        rng: Chooses neighbours for rounds.
        authorise: The trust rules.
    """

    def __init__(
        self, config: SyncConfig, signer: Signer, mesh: bytes, epoch: int, rng: Random, authorise: Authorise
    ) -> None:
        self._config = config
        self._signer = signer
        self._own = signer.node_id
        self._mesh = mesh
        self._version = (epoch, 0)
        self._rng = rng
        self._authorise = authorise
        self._table = RecordTable(
            TableLimits(limits.AUTHORS, limits.RECORDS_PER_AUTHOR, config.author_bytes, config.table_bytes)
        )
        self._renew_at: dict[Slot, float] = {}
        self._neighbours: dict[NodeId, SummaryPace] = {}
        self._stale: dict[Slot, None] = {}  # own slots that the mesh holds and this run has not written
        self._outbid = False
        self._reclaimed_at = -math.inf
        self._next_reclaim = math.inf
        self._next_renew = math.inf
        self._next_round = math.inf
        self._next_sweep = math.inf
        self._out = Outbox()
        self.stats = SyncStats()

    # --- commands -------------------------------------------------------------------------------------------------

    def publish(self, now: Now, kind: str, key: str, body: bytes, lifetime_s: int | None = None) -> None:
        """Signs a record into our own slot; `Signed` tells the envelope.

        Args:
            now: The clocks.
            kind, key: The slot.
            body: What it says.
            lifetime_s: It lives so long and is not renewed; None for a record that is renewed until it is withdrawn.

        Raises:
            WireError: The record is too large to travel, or this node says too much. Nothing has changed then.
        """
        slot = (self._own, kind, key)
        record, envelope = self._sealed(now, kind, key, body, lifetime_s or self._config.lifetime_s)
        if len(envelope) > limits.MESSAGE_BYTES - 1_024:
            raise WireError(f"a record of {len(envelope)} bytes does not fit a message of {limits.MESSAGE_BYTES}")
        if not self._table.has_room(slot, len(envelope) + _OWN_MARGIN_BYTES):
            raise WireError(f"a node tells the mesh at most {limits.RECORDS_PER_AUTHOR} records")
        self._put_own(now, slot, record, envelope)
        self._stale.pop(slot, None)
        if lifetime_s is None:
            self._renew_at[slot] = now.mono + self._config.renew_s
            self._next_renew = min(self._next_renew, self._renew_at[slot])

    def withdraw(self, now: Now, kind: str, key: str) -> None:
        """Empties our own slot everywhere; `Signed` tells the envelope."""
        slot = (self._own, kind, key)
        record, envelope = self._sealed(now, kind, key, b"", self._config.lifetime_s)
        self._put_own(now, slot, record, envelope)
        self._renew_at.pop(slot, None)

    def _sealed(self, now: Now, kind: str, key: str, body: bytes, lifetime_s: int) -> tuple[Record, bytes]:
        epoch, sequence = self._version
        record = Record(kind, key, epoch, sequence + 1, int(now.wall), lifetime_s, body)
        return record, seal(self._signer, DOMAIN, self._mesh, pack(record))

    def _put_own(self, now: Now, slot: Slot, record: Record, envelope: bytes) -> None:
        self._version = record.version
        self._put(now, slot, record, envelope)
        self._out.put(Emit(Signed(envelope)))

    def drop_author(self, author: NodeId) -> None:
        """Forgets the records of a node that is no member any more, save whom it put out itself."""
        for slot in self._table.slots_of(author):
            if slot[1] != REVOCATION:
                self._remove(slot)
        self.forget(author)

    def forget(self, author: NodeId) -> None:
        """Forgets where a node was last seen."""
        self._out.put(Store(store_key((author, NODE, "")), None))

    # --- acceptance -----------------------------------------------------------------------------------------------

    def accept_untrusted(self, now: Now, source: NodeId, envelope: bytes) -> Verdict:
        """Takes a record from a neighbour into the table where it is news."""
        try:
            opened = open_untrusted(envelope, DOMAIN, self._mesh)
            record = unpack_untrusted(Record, opened.payload, max_items=RECORD_ITEMS)
            check_record_untrusted(record)
        except WireError as error:
            return self._broken(source, f"record: {error}")
        return self._accept(now, source, opened.author, record, envelope)

    def _accept(self, now: Now, source: NodeId | None, author: NodeId, record: Record, envelope: bytes) -> Verdict:
        slot = (author, record.kind, record.key)
        held = self._table.get(slot)
        if held and (held.record.version >= record.version or record.kind == REVOCATION):  # the first one is final
            self.stats.replayed += held.envelope != envelope
            return Verdict.KNOWN
        if self._expiry(record) < now.wall:
            self.stats.expired += 1
            return Verdict.REFUSED
        if record.issued_s > now.wall + self._config.skew_s and record.kind != REVOCATION:  # those hold at any time
            self.stats.early += 1
            return Verdict.REFUSED
        if author == self._own and record.kind != REVOCATION:
            return self._reclaim(now, slot, record)
        if refusal := self._authorise(now, author, record, source is None):
            self.stats.unknown_author += refusal.unknown
            if refusal.fault:
                broken = self._broken(source, f"record of {author.short}: {refusal.reason}")
                return Verdict.UNENTITLED if refusal.sound else broken
            return Verdict.REFUSED
        if not self._table.has_room(slot, len(envelope)):
            self.stats.no_room += 1
            return Verdict.REFUSED
        self.stats.accepted += 1
        self._put(now, slot, record, envelope)
        return Verdict.NEWS

    def _broken(self, source: NodeId | None, reason: str) -> Verdict:
        self.stats.refused += 1
        if source is not None:
            self._out.put(Misbehaved(source, reason))
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

    def _put(self, now: Now, slot: Slot, record: Record, envelope: bytes) -> None:
        self._table.put(slot, Entry(record, envelope, self._expiry(record)))
        self._next_sweep = min(self._next_sweep, self._sweep_at(now))
        if slot[0] != self._own or record.kind == REVOCATION:
            self._out.put(Store(store_key(slot), envelope))
        self._out.put(Emit(RecordChanged(*slot, record)))

    def load(self, now: Now, envelopes: Iterable[bytes]) -> list[tuple[NodeId, Record]]:
        """Takes records kept from an earlier run or handed over at joining; what is wrong is left out in silence.

        Of our own records only revocations come back: everything else is published anew.

        Returns:
            Node records that have expired: no news, but where their authors were last.
        """
        opened = []
        for envelope in envelopes:
            try:
                sealed = open_untrusted(envelope, DOMAIN, self._mesh)
                record = unpack_untrusted(Record, sealed.payload, max_items=RECORD_ITEMS)
                check_record_untrusted(record)
            except WireError:
                continue
            opened.append((sealed.author, record, envelope))
        opened.sort(key=lambda row: rank(row[1]))
        remembered: dict[NodeId, Record] = {}
        for author, record, envelope in opened:
            slot = (author, record.kind, record.key)
            if author != self._own or record.kind == REVOCATION:
                self._accept(now, None, author, record, envelope)
            if self._table.get(slot) is None:
                if author != self._own and record.kind == NODE and self._is_remembered(now, record):
                    remembered[author] = record
                else:
                    self._out.put(Store(store_key(slot), None))
        return list(remembered.items())

    def _is_remembered(self, now: Now, record: Record) -> bool:
        return now.wall - self._config.remember_s < self._expiry(record) < now.wall

    # --- queries --------------------------------------------------------------------------------------------------

    def record(self, author: NodeId, kind: str, key: str = "") -> Record | None:
        """Returns what one slot holds."""
        entry = self._table.get((author, kind, key))
        return entry.record if entry else None

    def envelopes(self, kind: str) -> Iterator[bytes]:
        """Yields the sealed records of one kind, as they would be sent."""
        for slot, entry in self._table.items():
            if slot[1] == kind:
                yield entry.envelope

    def authors(self) -> list[NodeId]:
        """Returns everyone of whom there is a record."""
        return self._table.authors()

    def versions(self) -> dict[Slot, tuple[int, int]]:
        """Returns the version of each slot: two nodes that agree have equal ones."""
        return {slot: entry.record.version for slot, entry in self._table.items()}

    def _expiry(self, record: Record) -> float:
        return record.issued_s + record.lifetime_s + self._config.skew_s

    # --- inputs ---------------------------------------------------------------------------------------------------

    def link_up(self, now: Now, node: NodeId) -> None:
        """A verified neighbour is there: tell it what we hold."""
        self._neighbours[node] = SummaryPace(self._config.summary_gap_s)
        self._send_summary(node)
        self._next_round = min(self._next_round, now.mono + self._config.round_s)

    def link_down(self, node: NodeId) -> None:
        """A neighbour is gone."""
        self._neighbours.pop(node, None)

    def receive_summary(self, now: Now, source: NodeId, summary: Summary) -> None:
        """Sends a neighbour what it lacks in the range of its summary."""
        if not self._neighbours[source].admits(now, summary):
            self.stats.summaries_ignored += 1
            return
        for batch in batches(lacking(self._table, summary, now.wall), self._config.message_bytes):
            self.stats.sent += len(batch)
            self._out.put(Send(source, Records(batch)))

    def _send_summary(self, node: NodeId) -> None:
        for page in summary_pages(self._table.between(b"", b""), self._config.message_bytes):
            self._out.put(Send(node, page))

    # --- time -----------------------------------------------------------------------------------------------------

    def handle_timer(self, now: Now) -> None:
        """Sweeps what expired, renews own records, starts a round."""
        if now.mono >= self._next_sweep:
            self._sweep(now)
        if now.mono >= self._next_round:
            self._next_round = now.mono + self._config.round_s if self._neighbours else math.inf
            if self._neighbours:
                self._send_summary(self._rng.choice(list(self._neighbours)))
        if now.mono >= self._next_reclaim:
            self._take_back(now)
        if now.mono >= self._next_renew:
            self._renew(now)

    def _sweep(self, now: Now) -> None:
        for slot in self._table.expired(now.wall):
            if slot in self._renew_at:  # the wall clock jumped, as after a machine slept
                self._renew_at[slot] = self._next_renew = now.mono
            else:
                self._remove(slot)
        self._next_sweep = self._sweep_at(now)

    def _sweep_at(self, now: Now) -> float:
        if not len(self._table):
            return math.inf
        return now.mono + min(max(1.0, self._table.soonest() - now.wall), self._config.sweep_s)

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
            held = self._table.get(slot)
            assert held is not None, "what is renewed is in the table"
            record, envelope = self._sealed(now, slot[1], slot[2], held.record.body, self._config.lifetime_s)
            self._put_own(now, slot, record, envelope)
            self._renew_at[slot] = now.mono + self._config.renew_s
        self._next_renew = min(self._renew_at.values(), default=math.inf)

    def _remove(self, slot: Slot) -> None:
        self._table.remove(slot)
        self._renew_at.pop(slot, None)
        if slot[1] != NODE:  # where a node was last is worth knowing after a long sleep or split
            self._out.put(Store(store_key(slot), None))
        self._out.put(Emit(RecordChanged(*slot, None)))

    def next_timer(self) -> float:
        return min(self._next_round, self._next_sweep, self._next_renew, self._next_reclaim)

    def drain(self) -> list[Effect]:
        return self._out.drain()


def store_key(slot: Slot) -> str:
    """Returns the key under which a record is kept over restarts."""
    return f"{STORE_PREFIX}{slot[0]}/{slot[1]}/{slot[2]}"
