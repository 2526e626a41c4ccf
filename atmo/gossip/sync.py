"""Replicated records: a table of slots, its own records renewed in time, and the differences healed with neighbours.

A record comes by flood or in a `Records` message; either way `accept_untrusted` decides. On each new link and then
once in a while, a node sends a `Summary` of its slots; the neighbour answers with what is newer or missing there. So a
late joiner or a healed partition learns what it lacks, and lost floods do not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from random import Random

from atmo.clock import Now
from atmo.engine import Effect, Emit, Misbehaved, Outbox, Send, Store
from atmo.errors import WireError
from atmo.gossip.messages import SUMMARY_ENTRIES, Records, Summary, SummaryEntry
from atmo.gossip.records import DOMAIN, NODE, REVOCATION, Record
from atmo.identity import NodeId, Signer
from atmo.wire import limits
from atmo.wire.envelope import open_untrusted, seal
from atmo.wire.schema import pack, unpack_untrusted

Slot = tuple[NodeId, str, str]
STORE_PREFIX = "record/"


@dataclass(frozen=True, slots=True)
class SyncConfig:
    """Periods and bounds.

    Attributes:
        lifetime_s: Of own records. Source: seed 000, entries expire after five minutes without news.
        renew_s: Own records are signed again after this, a third of the lifetime, so that two losses do no harm.
        round_s: Between two summaries to a random neighbour. Source: guess.
        skew_s: Tolerated difference of clocks. Source: the protocol's design.
        records_bytes: Of envelopes in one `Records` message.
    """

    lifetime_s: int = 300
    renew_s: float = 100.0
    round_s: float = 30.0
    skew_s: float = 60.0
    records_bytes: int = 48 * 1024


@dataclass(slots=True)
class SyncStats:
    """Counters since start."""

    accepted: int = 0
    replayed: int = 0
    refused: int = 0
    expired: int = 0
    unknown_author: int = 0
    sent: int = 0


@dataclass(frozen=True, slots=True)
class RecordChanged:
    """A slot has a new record, or lost it (`record` is None)."""

    author: NodeId
    kind: str
    key: str
    record: Record | None


@dataclass(frozen=True, slots=True)
class _Entry:
    record: Record
    envelope: bytes


Authorise = Callable[[Now, NodeId, Record], str | None]
"""Says why this author may not write this record; None when it may. An unknown author is `UNKNOWN_AUTHOR`."""

UNKNOWN_AUTHOR = "unknown author"


def sort_key(slot: Slot) -> bytes:
    """Returns the bytes that order slots in summaries."""
    return b"%b%b\0%b" % (bytes(slot[0]), slot[1].encode(), slot[2].encode())


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
        self._mesh = mesh
        self._epoch = epoch
        self._rng = rng
        self._authorise = authorise
        self._table: dict[Slot, _Entry] = {}
        self._count: dict[NodeId, int] = {}
        self._renew_at: dict[Slot, float] = {}
        self._neighbours: list[NodeId] = []
        self._sequence = 0
        self._next_round = math.inf
        self._next_sweep = math.inf
        self._out = Outbox()
        self.stats = SyncStats()

    # --- commands -------------------------------------------------------------------------------------------------

    def publish(self, now: Now, kind: str, key: str, body: bytes, lifetime_s: int | None = None) -> bytes:
        """Signs a record into our own slot; returns the envelope for the broadcast.

        Raises:
            WireError: The body makes the record too large to travel. Nothing has changed then.
        """
        lifetime = lifetime_s or self._config.lifetime_s
        record = Record(kind, key, self._epoch, self._sequence + 1, int(now.wall), lifetime, body)
        envelope = seal(self._signer, DOMAIN, self._mesh, pack(record))
        if len(envelope) > limits.MESSAGE_BYTES - 1_024:
            raise WireError(f"a record of {len(envelope)} bytes does not fit a message of {limits.MESSAGE_BYTES}")
        self._sequence += 1
        slot = (self._signer.node_id, kind, key)
        self._put(slot, record, envelope)
        if lifetime_s is None:
            self._renew_at[slot] = now.mono + self._config.renew_s
        return envelope

    def withdraw(self, now: Now, kind: str, key: str) -> bytes:
        """Empties our own slot everywhere; returns the envelope for the broadcast."""
        envelope = self.publish(now, kind, key, b"", self._config.lifetime_s)
        self._renew_at.pop((self._signer.node_id, kind, key), None)
        return envelope

    def accept_untrusted(self, now: Now, source: NodeId, envelope: bytes) -> bool:
        """Takes a record from a neighbour into the table.

        Returns:
            Whether it was news: worth passing on.
        """
        try:
            opened = open_untrusted(envelope, DOMAIN, self._mesh)
            record = unpack_untrusted(Record, opened.payload)
        except WireError as error:
            self.stats.refused += 1
            self._out.put(Misbehaved(source, f"record: {error}"))
            return False
        return self._accept(now, source, opened.author, record, envelope)

    def _accept(self, now: Now, source: NodeId, author: NodeId, record: Record, envelope: bytes) -> bool:
        slot = (author, record.kind, record.key)
        held = self._table.get(slot)
        if held and held.record.version >= record.version:
            self.stats.replayed += held.envelope != envelope
            return False
        if self._expiry(record) < now.wall or record.issued_s > now.wall + self._config.skew_s:
            self.stats.expired += 1
            return False
        if author == self._signer.node_id:
            return self._outbid(record)
        refusal = self._authorise(now, author, record)
        if refusal == UNKNOWN_AUTHOR:
            self.stats.unknown_author += 1
            return False
        if refusal or (not held and self._full(author)):
            self.stats.refused += 1
            self._out.put(Misbehaved(source, f"record of {author.short}: {refusal or 'too many records'}"))
            return False
        self.stats.accepted += 1
        self._put(slot, record, envelope)
        return True

    def _outbid(self, record: Record) -> bool:
        """Somebody holds a record of ours that is newer than we know: our epoch was lost. Go past it."""
        self._epoch = max(self._epoch, record.epoch)
        if record.epoch == self._epoch:
            self._sequence = max(self._sequence, record.sequence)
        for slot in self._renew_at:
            self._renew_at[slot] = 0.0
        return False

    def _full(self, author: NodeId) -> bool:
        if author not in self._count:
            return len(self._count) >= limits.AUTHORS
        return self._count[author] >= limits.RECORDS_PER_AUTHOR

    def _put(self, slot: Slot, record: Record, envelope: bytes) -> None:
        if slot not in self._table:
            self._count[slot[0]] = self._count.get(slot[0], 0) + 1
        self._table[slot] = _Entry(record, envelope)
        self._next_sweep = min(self._next_sweep, 0.0)
        if slot[0] != self._signer.node_id or record.kind == REVOCATION:
            self._out.put(Store(store_key(slot), envelope))
        self._out.put(Emit(RecordChanged(*slot, record)))

    def load(self, now: Now, envelopes: Iterable[bytes]) -> None:
        """Takes records kept from an earlier run; what has expired or is wrong is left out in silence.

        Of our own records only revocations come back: everything else is published anew.
        """
        for envelope in envelopes:
            try:
                opened = open_untrusted(envelope, DOMAIN, self._mesh)
                record = unpack_untrusted(Record, opened.payload)
            except WireError:
                continue
            if opened.author != self._signer.node_id:
                self._accept(now, opened.author, opened.author, record, envelope)
            elif record.kind == REVOCATION and self._authorise(now, opened.author, record) is None:
                self._put((opened.author, record.kind, record.key), record, envelope)

    def drop_author(self, author: NodeId) -> None:
        """Forgets the records of a node that was put out of the mesh, save whom it put out itself."""
        for slot in [slot for slot in self._table if slot[0] == author and slot[1] != REVOCATION]:
            self._remove(slot)

    # --- queries --------------------------------------------------------------------------------------------------

    def records(self, now: Now, kind: str) -> Iterator[tuple[NodeId, Record]]:
        """Yields the live, non-empty records of one kind, in the order in which their slots first came."""
        for (author, slot_kind, _), entry in self._table.items():
            if slot_kind == kind and entry.record.body and self._expiry(entry.record) >= now.wall:
                yield author, entry.record

    def record(self, author: NodeId, kind: str, key: str = "") -> Record | None:
        """Returns what one slot holds."""
        entry = self._table.get((author, kind, key))
        return entry.record if entry else None

    def envelopes(self, kind: str) -> Iterator[bytes]:
        """Yields the sealed records of one kind, as they would be sent."""
        for slot, entry in self._table.items():
            if slot[1] == kind:
                yield entry.envelope

    def _expiry(self, record: Record) -> float:
        return record.issued_s + record.lifetime_s + self._config.skew_s

    # --- inputs ---------------------------------------------------------------------------------------------------

    def link_up(self, now: Now, node: NodeId) -> None:
        """A verified neighbour is there: tell it what we hold."""
        if node not in self._neighbours:
            self._neighbours.append(node)
        self._send_summary(node)
        self._next_round = min(self._next_round, now.mono + self._config.round_s)

    def link_down(self, node: NodeId) -> None:
        """A neighbour is gone."""
        if node in self._neighbours:
            self._neighbours.remove(node)

    def receive_summary(self, source: NodeId, summary: Summary) -> None:
        """Sends a neighbour what it lacks in the range of its summary."""
        theirs = {(entry.author, entry.kind, entry.key): (entry.epoch, entry.sequence) for entry in summary.entries}
        lacking = [
            entry
            for slot, entry in self._sorted(summary.after, summary.until)
            if theirs.get(slot, (-1, -1)) < entry.record.version
        ]
        lacking.sort(key=lambda entry: entry.record.kind != NODE)  # who the author is comes before what it says
        for batch in _batches([entry.envelope for entry in lacking], self._config.records_bytes):
            self.stats.sent += len(batch)
            self._out.put(Send(source, Records(batch)))

    def _sorted(self, after: bytes, until: bytes) -> list[tuple[Slot, _Entry]]:
        """Returns the slots of a range in the order of their sort keys."""
        keyed = ((sort_key(slot), slot, entry) for slot, entry in self._table.items())
        inside = [row for row in keyed if row[0] > after and (not until or row[0] <= until)]
        return [(slot, entry) for _, slot, entry in sorted(inside, key=lambda row: row[0])]

    def _send_summary(self, node: NodeId) -> None:
        rows = self._sorted(b"", b"")
        after = b""
        for start in range(0, max(len(rows), 1), SUMMARY_ENTRIES):
            page = rows[start : start + SUMMARY_ENTRIES]
            until = sort_key(page[-1][0]) if start + SUMMARY_ENTRIES < len(rows) else b""
            entries = tuple(SummaryEntry(*slot, *entry.record.version) for slot, entry in page)
            self._out.put(Send(node, Summary(entries, after, until)))
            after = until

    # --- time -----------------------------------------------------------------------------------------------------

    def handle_timer(self, now: Now) -> list[bytes]:
        """Sweeps what expired, renews own records, starts a round; returns renewed envelopes for the broadcast."""
        if now.mono >= self._next_sweep:
            self._sweep(now)
        if now.mono >= self._next_round:
            self._next_round = now.mono + self._config.round_s if self._neighbours else math.inf
            if self._neighbours:
                self._send_summary(self._rng.choice(self._neighbours))
        due = [slot for slot, at in self._renew_at.items() if now.mono >= at]
        return [self.publish(now, kind, key, self._table[slot].record.body) for slot in due for _, kind, key in [slot]]

    def _sweep(self, now: Now) -> None:
        for slot in [slot for slot, entry in self._table.items() if self._expiry(entry.record) < now.wall]:
            self._remove(slot)
        soonest = min((self._expiry(entry.record) for entry in self._table.values()), default=math.inf)
        self._next_sweep = now.mono + max(1.0, soonest - now.wall)

    def _remove(self, slot: Slot) -> None:
        del self._table[slot]
        self._renew_at.pop(slot, None)
        self._count[slot[0]] -= 1
        if not self._count[slot[0]]:
            del self._count[slot[0]]
        self._out.put(Store(store_key(slot), None))
        self._out.put(Emit(RecordChanged(*slot, None)))

    def next_timer(self) -> float:
        return min(self._next_round, self._next_sweep, min(self._renew_at.values(), default=math.inf))

    def drain(self) -> list[Effect]:
        return self._out.drain()


def store_key(slot: Slot) -> str:
    """Returns the key under which a record is kept over restarts."""
    return f"{STORE_PREFIX}{slot[0]}/{slot[1]}/{slot[2]}"


def _batches(envelopes: list[bytes], most_bytes: int) -> Iterator[tuple[bytes, ...]]:
    batch: list[bytes] = []
    size = 0
    for envelope in envelopes:
        if batch and (size + len(envelope) > most_bytes or len(batch) == 64):
            yield tuple(batch)
            batch, size = [], 0
        batch.append(envelope)
        size += len(envelope)
    if batch:
        yield tuple(batch)
