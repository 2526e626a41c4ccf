"""Anti-entropy: neighbours compare their tables of records and exchange what differs.

A comparison begins with a `Digest` of the whole table. Who gets a range that differs from its own answers in more
detail: a `Digest` of the sixteen parts, or the `Listing` of a small range, or a `Want` where it has nothing there at
all. Each answer is more detailed than its question, so a comparison ends after a few messages, and what it costs
depends on what differs. Between the messages there is no state but this: what was listed to a neighbour, so that a
listing in return is an answer, and what was asked of it, so that nobody else is asked for it at the same time.

Both ends pull. What one end lacks in a listing it asks for; what the other lacks, it lists in return, unless that is so
little that it is best sent at once.

Who got news by a comparison tells its other neighbours the new digest of its table a moment later. So a healed
partition converges hop by hop, each node paying for each record about once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from atmo.clock import Now
from atmo.engine import Effect, Misbehaved, Outbox, Send
from atmo.gossip.allowance import Allowance, Allowances
from atmo.gossip.entry import Entry, Slot, rank
from atmo.gossip.fingerprints import LEVELS, children
from atmo.gossip.listings import ENTRY_BYTES, RANGE_BYTES, Version, batches, compare, fault_untrusted, is_known, pages
from atmo.gossip.messages import SUMMARY_ENTRIES, Digest, Listing, Range, Records, SlotName, Want
from atmo.gossip.reconcile_config import ReconcileConfig, ReconcileStats
from atmo.gossip.table import RecordTable
from atmo.identity import NodeId

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a neighbour was asked for.

    Attributes:
        at: Monotonic seconds.
        version: Of a record, as the neighbour listed it.
        count: Slots of a range; once there are as many, it has come.
    """

    at: float
    version: Version = (0, 0)
    count: int = 0


@dataclass(slots=True)
class _Link:
    """A neighbour.

    Attributes:
        budget: What it still gets in answers.
        digest_at: Monotonic seconds at which it gets the digest of the whole table.
        told: Fingerprint of the last such digest that it got or sent; it answers where its own is another one.
        listed: Ranges that were listed to it in this comparison.
        slots, ranges: What it was asked for, oldest first; some of it has come.
        sent_at: Monotonic seconds of the last records that it sent.
    """

    budget: Allowance
    digest_at: float
    told: bytes | None = None
    listed: dict[str, None] = field(default_factory=dict)
    slots: dict[Slot, _Asked] = field(default_factory=dict)
    ranges: dict[str, _Asked] = field(default_factory=dict)
    sent_at: float = -math.inf


class Reconciler:
    """Keeps the table in step with the neighbours' tables.

    Args:
        config: Periods and bounds.
        table: The records; only read here.
        rng: Chooses neighbours, spreads comparisons in time.
    """

    def __init__(self, config: ReconcileConfig, table: RecordTable, rng: Random) -> None:
        self._config = config
        self._table = table
        self._rng = rng
        self._links: dict[NodeId, _Link] = {}
        self._allowances = Allowances(config.answer_rate, config.answer_bytes)
        self._next_round = math.inf
        self._next_digest = math.inf
        self.out = Outbox()
        self.stats = ReconcileStats()

    # --- links ----------------------------------------------------------------------------------------------------

    def link_up(self, now: Now, node: NodeId) -> None:
        """A node is a new neighbour: compare with it soon."""
        if node in self._links:
            return
        config = self._config
        wait = self._rng.uniform(0.5, 1.0) * (config.greet_s if self._links else config.newcomer_s)
        self._links[node] = _Link(self._allowances.take(node), math.inf)
        self._compare_at(node, now.mono + wait)
        if self._next_round == math.inf:
            self._plan_round(now)

    def link_down(self, now: Now, node: NodeId) -> None:
        """A node is no neighbour any more; what it was asked for may be asked of others."""
        if link := self._links.pop(node, None):
            self._allowances.keep(now.mono, node, link.budget)

    def _compare_at(self, node: NodeId, at: float) -> None:
        link = self._links[node]
        link.digest_at = min(link.digest_at, at)
        self._next_digest = min(self._next_digest, at)

    def took(self, now: Now, source: NodeId, news: int) -> None:
        """The peer has judged the records of one `Records` message.

        Args:
            now: The clocks.
            source: Who sent it.
            news: How many of them were news.
        """
        sender = self._links.get(source)
        if sender:
            sender.sent_at = now.mono
        if not news:
            return
        self.stats.news += news
        for node in self._links:
            wait = self._config.spread_s * self._rng.uniform(0.5, 1.0)
            self._compare_at(node, now.mono + (2 * wait if node == source else wait))

    # --- messages -------------------------------------------------------------------------------------------------

    def receive(self, now: Now, source: NodeId, message: Digest | Listing | Want) -> None:
        """Answers a neighbour; a node that is none, or not yet, gets no answer."""
        link = self._links.get(source)
        if link is None:
            return
        if fault := fault_untrusted(message):
            self.out.put(Misbehaved(source, fault))
            return
        match message:
            case Digest(ranges):
                self._digest(now, source, link, ranges)
            case Listing():
                self._listing(now, source, link, message)
            case _:
                self._want(now, source, link, message)

    def _may(self, now: Now, link: _Link, size: float) -> bool:
        allowed = link.budget.take(now.mono, size)
        self.stats.refused += not allowed
        return allowed

    def _digest(self, now: Now, source: NodeId, link: _Link, ranges: Iterable[Range]) -> None:
        """Answers each range that differs with more detail."""
        finer: list[Range] = []
        lists: list[str] = []
        asks: list[Range] = []
        for theirs in ranges:
            if not is_known(theirs.prefix):
                continue
            if not theirs.prefix:
                link.listed.clear()
                link.digest_at = math.inf
                link.told = theirs.fingerprint
            mine = self._table.fingerprints.range(theirs.prefix)
            if (mine.count, mine.fingerprint) == (theirs.count, theirs.fingerprint):
                continue
            if not mine.count:
                asks.append(theirs)
            elif not theirs.count:
                finer.append(mine)
            elif len(theirs.prefix) < LEVELS and max(mine.count, theirs.count) > self._config.leaf_slots:
                finer.extend(self._table.fingerprints.range(part) for part in children(theirs.prefix))
            elif not self._is_coming(now, theirs.prefix):
                lists.append(theirs.prefix)
        if finer and self._may(now, link, RANGE_BYTES * len(finer)):
            self._send_digest(source, finer)
        for prefix in lists:
            self._list(now, source, link, prefix)
        self._ask_for_ranges(now, source, link, asks)

    def _send_digest(self, node: NodeId, ranges: Iterable[Range]) -> None:
        message = Digest(tuple(ranges))
        self.stats.ranges += len(message.ranges)
        self.out.put(Send(node, message))

    def _list(self, now: Now, node: NodeId, link: _Link, prefix: str) -> None:
        alive = now.wall - self._config.skew_s
        entries = [entry for entry in self._table.within(prefix) if entry.expires_s >= alive]
        if not self._may(now, link, ENTRY_BYTES * (1 + len(entries))):
            return
        link.listed[prefix] = None
        self.stats.listed += len(entries)
        for page in pages(prefix, entries, self._config.message_bytes):
            self.out.put(Send(node, page))

    def _listing(self, now: Now, source: NodeId, link: _Link, listing: Listing) -> None:
        if not is_known(listing.prefix) or not self._may(now, link, ENTRY_BYTES):
            return
        lacked, told = compare(self._table, listing, now.wall - self._config.skew_s)
        self._ask_for_slots(now, source, link, listing.prefix, lacked)
        if not told or listing.prefix in link.listed:  # what they lack of a listing in return, they ask for
            return
        if sum(len(entry.envelope) for entry in told) <= self._config.push_bytes:
            self._send_records(now, source, link, told)
        else:
            self._list(now, source, link, listing.prefix)

    def _want(self, now: Now, source: NodeId, link: _Link, want: Want) -> None:
        if not self._may(now, link, RANGE_BYTES * (1 + len(want.slots) + len(want.prefixes))):
            return
        held = [self._table.get((name.author, name.kind, name.key)) for name in want.slots]
        wanted = {entry.slot: entry for entry in held if entry and not entry.record.near}
        for prefix in want.prefixes:
            if is_known(prefix):
                wanted.update((entry.slot, entry) for entry in self._table.within(prefix))
        alive = now.wall - self._config.skew_s
        self._send_records(now, source, link, [entry for entry in wanted.values() if entry.expires_s >= alive])

    def _send_records(self, now: Now, node: NodeId, link: _Link, entries: list[Entry]) -> None:
        entries.sort(key=lambda entry: rank(entry.record))
        for batch in batches([entry.envelope for entry in entries], self._config.message_bytes):
            if not self._may(now, link, sum(map(len, batch))):
                return
            self.stats.sent += len(batch)
            self.out.put(Send(node, Records(batch)))

    # --- asking ---------------------------------------------------------------------------------------------------

    def _ask_for_slots(self, now: Now, node: NodeId, link: _Link, prefix: str, slots: Mapping[Slot, Version]) -> None:
        if self._is_coming(now, prefix):
            return
        self._forget_old(now, link.slots)
        names = []
        for slot, version in slots.items():
            asked = link.slots.get(slot)
            if len(link.slots) >= self._config.link_wants:
                break
            if not (asked and asked.version >= version) and not self._is_asked(now, slot, version):
                link.slots.pop(slot, None)
                link.slots[slot] = _Asked(now.mono, version)
                names.append(SlotName(*slot))
        self.stats.wanted += len(names)
        for first in range(0, len(names), SUMMARY_ENTRIES):
            self.out.put(Send(node, Want(tuple(names[first : first + SUMMARY_ENTRIES]))))

    def _ask_for_ranges(self, now: Now, node: NodeId, link: _Link, ranges: Iterable[Range]) -> None:
        self._forget_old(now, link.ranges)
        prefixes = []
        for part in ranges:
            if part.prefix not in link.ranges and not self._is_coming(now, part.prefix):
                link.ranges[part.prefix] = _Asked(now.mono, count=part.count)
                prefixes.append(part.prefix)
        if prefixes:
            self.stats.ranges_wanted += len(prefixes)
            self.out.put(Send(node, Want((), tuple(prefixes))))

    def _forget_old(self, now: Now, asked: dict[K, _Asked]) -> None:
        """Forgets what was asked for so long ago that the neighbour may be asked again."""
        while asked:
            oldest = next(iter(asked))
            if now.mono < asked[oldest].at + self._config.shun_s:
                return
            del asked[oldest]

    def _waits(self, now: Now, link: _Link, asked: _Asked) -> bool:
        """Says whether what a neighbour was asked for may still come from it."""
        patience = max(asked.at, link.sent_at) + self._config.want_s
        return now.mono < min(patience, asked.at + self._config.want_most_s)

    def _is_asked(self, now: Now, slot: Slot, version: Version) -> bool:
        """Says whether some neighbour was asked for this version or a newer one and may still send it."""
        for link in self._links.values():
            asked = link.slots.get(slot)
            if asked and asked.version >= version and self._waits(now, link, asked):
                return True
        return False

    def _is_coming(self, now: Now, prefix: str) -> bool:
        """Says whether some neighbour was asked for a range, or one around it, and has not sent it all."""
        for end in range(len(prefix) + 1):
            part = prefix[:end]
            for link in self._links.values():
                asked = link.ranges.get(part)
                if asked and self._table.fingerprints.count(part) < asked.count and self._waits(now, link, asked):
                    return True
        return False

    # --- time -----------------------------------------------------------------------------------------------------

    def _plan_round(self, now: Now) -> None:
        self._next_round = now.mono + self._config.round_s * self._rng.uniform(0.8, 1.2)

    def handle_timer(self, now: Now) -> None:
        """Begins the comparisons that are due."""
        if now.mono >= self._next_round:
            self._next_round = math.inf
            if self._links:
                self._plan_round(now)
                node = self._rng.choice(list(self._links))
                self._links[node].told = None
                self._compare_at(node, now.mono)
        if now.mono >= self._next_digest:
            for node, link in self._links.items():
                if now.mono >= link.digest_at:
                    link.digest_at = math.inf
                    self._begin(node, link)
            self._next_digest = min((link.digest_at for link in self._links.values()), default=math.inf)

    def _begin(self, node: NodeId, link: _Link) -> None:
        whole = self._table.fingerprints.range("")
        if whole.fingerprint != link.told:
            link.told = whole.fingerprint
            link.listed.clear()
            self.stats.rounds += 1
            self._send_digest(node, [whole])

    def next_timer(self) -> float:
        return min(self._next_round, self._next_digest)

    def drain(self) -> list[Effect]:
        return self.out.drain()
