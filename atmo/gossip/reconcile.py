"""Anti-entropy: neighbours compare their tables of records and exchange what differs.

A comparison begins with a `Digest` of the whole table. Who gets a range that differs from its own answers in more
detail: a `Digest` of the sixteen parts, or the `Listing` of small ranges, or a `Want` where it has nothing there at
all. Each answer is more detailed than its question, so a comparison ends after a few messages, and what it costs
depends on what differs. Between the messages there is no state but this: what was listed to a neighbour, so that a
listing in return is an answer, and what was asked of it, so that nobody else is asked for it at the same time.

Both ends pull. What one end lacks in a listing it asks for; what the other lacks, it names in return, unless that is so
little that it is best sent at once.

Who got news by a comparison tells its other neighbours the new digest of its table a moment later. So a healed
partition converges hop by hop, each node paying for each record about once. While much is on its way to a node from one
neighbour, comparisons with the others wait for some seconds: they would list the same once more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from random import Random

from blake3 import blake3

from atmo.clock import Now
from atmo.engine import Effect, Misbehaved, Outbox, Send
from atmo.gossip.allowance import Allowances
from atmo.gossip.entry import Entry, rank
from atmo.gossip.fingerprints import LEVELS, ranges_of
from atmo.gossip.listings import (
    BRANCH_BYTES,
    ENTRY_BYTES,
    LOOK_BYTES,
    NAMES_MOST,
    RANGE_BYTES,
    Version,
    batches,
    compare_untrusted,
    entries_untrusted,
    fault_untrusted,
    is_known,
    named,
    pages,
    scanned,
    split_names,
)
from atmo.gossip.messages import SALT_BYTES, Digest, Listing, Range, Records, Want
from atmo.gossip.reconcile_config import ReconcileConfig, ReconcileStats
from atmo.gossip.reconcile_link import Asked, Link, forget_old
from atmo.gossip.table import RecordTable
from atmo.identity import NodeId


@dataclass(eq=False, slots=True)
class _Answer:
    """What to say to a digest.

    Attributes:
        ranges: To tell in one line, as the other end has nothing there.
        branches: To tell in parts.
        lists: To list.
        asks: To ask for whole.
    """

    ranges: list[str] = field(default_factory=list)
    branches: list[str] = field(default_factory=list)
    lists: list[str] = field(default_factory=list)
    asks: list[Range] = field(default_factory=list)


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
        self._secret = rng.randbytes(32)  # salts are hashes, as from many numbers of this generator the next follow
        self._salts = 0
        self._links: dict[NodeId, Link] = {}
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
        self._links[node] = Link(self._allowances.take(node))
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

    def took(self, now: Now, source: NodeId, count: int, news: int) -> None:
        """The peer has judged the records of one `Records` message.

        Args:
            now: The clocks.
            source: Who sent it.
            count: How many there were.
            news: How many of them were news.
        """
        sender = self._links.get(source)
        if sender:
            sender.sent(now, count)
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
            case Digest():
                self._digest_untrusted(now, source, link, message)
            case Listing():
                self._listing_untrusted(now, source, link, message)
            case _:
                self._want_untrusted(now, source, link, message)

    def _may(self, now: Now, link: Link, size: float) -> bool:
        allowed = link.budget.take(now.mono, size)
        self.stats.refused += not allowed
        return allowed

    def _digest_untrusted(self, now: Now, source: NodeId, link: Link, digest: Digest) -> None:
        """Answers each range that differs with more detail."""
        answer = _Answer()
        for theirs in ranges_of(digest):
            if is_known(theirs.prefix):
                if not theirs.prefix:
                    link.listed.clear()
                    link.digest_at = math.inf
                    link.told = (digest.salt, theirs.fingerprint)
                self._judge(now, answer, theirs, digest.salt)
        much = len(answer.branches) > 1 or len(answer.lists) >= self._config.much_slots
        if much and link.is_put_off(now, self._config, self._links.values()):
            link.told = None
            self._compare_later(now, source)
            return
        size = RANGE_BYTES * len(answer.ranges) + BRANCH_BYTES * len(answer.branches)
        if size and self._may(now, link, size):
            self._send_digest(source, answer.ranges, answer.branches)
        if answer.lists:
            self._list(now, source, link, answer.lists)
        self._ask_for_ranges(now, source, link, answer.asks)

    def _judge(self, now: Now, answer: _Answer, theirs: Range, salt: bytes) -> None:
        """Adds to an answer what there is to say of one range."""
        prefix = theirs.prefix
        mine = self._table.fingerprints.range(prefix, salt)
        if mine.fingerprint == theirs.fingerprint:
            return
        if not mine.count:
            answer.asks.append(theirs)
        elif not theirs.count:
            answer.ranges.append(prefix)
        elif len(prefix) < LEVELS and max(mine.count, theirs.count) > self._config.leaf_slots:
            answer.branches.append(prefix)
        elif not self._is_coming(now, prefix):
            answer.lists.append(prefix)

    def _compare_later(self, now: Now, node: NodeId) -> None:
        self.stats.put_off += 1
        self._compare_at(node, now.mono + self._config.spread_s * self._rng.uniform(0.5, 1.0))

    def _send_digest(self, node: NodeId, ranges: Iterable[str], branches: Iterable[str] = ()) -> Digest:
        self._salts += 1
        salt = blake3(self._salts.to_bytes(8, "big"), key=self._secret).digest(SALT_BYTES)
        prints = self._table.fingerprints
        message = Digest(
            salt,
            tuple(prints.range(prefix, salt) for prefix in ranges),
            tuple(prints.branch(prefix, salt) for prefix in branches) or None,
        )
        self.stats.ranges += len(message.ranges) + 16 * len(message.branches or ())
        self.out.put(Send(node, message))
        return message

    def _list(self, now: Now, node: NodeId, link: Link, prefixes: list[str]) -> None:
        count = sum(map(self._table.fingerprints.count, prefixes))
        if not self._may(now, link, ENTRY_BYTES * (1 + count)):
            return
        link.listed.update(dict.fromkeys(prefixes))
        alive = now.wall - self._config.skew_s
        within = [entry for prefix in prefixes for entry in self._table.within(prefix)]
        self._send_pages(node, prefixes, [entry for entry in within if entry.expires_s >= alive])

    def _send_pages(self, node: NodeId, prefixes: list[str], entries: list[Entry]) -> None:
        self.stats.listed += len(entries)
        for page in pages(prefixes, entries, self._config.message_bytes):
            self.out.put(Send(node, page))

    def _listing_untrusted(self, now: Now, source: NodeId, link: Link, listing: Listing) -> None:
        if not all(map(is_known, listing.prefixes)):
            return
        names = [name for name, _ in entries_untrusted(listing.entries)]
        if not self._may(now, link, ENTRY_BYTES + LOOK_BYTES * scanned(self._table, listing.prefixes, names)):
            return
        lacked, told = compare_untrusted(self._table, listing, now.wall - self._config.skew_s)
        self._ask_for_slots(now, source, link, lacked)
        # What they lack of a listing in return, they ask for.
        told = [entry for entry in told if not link.has_listed(entry)]
        if not told:
            return
        if sum(len(entry.envelope) for entry in told) <= self._config.push_bytes:
            self._send_records(now, source, link, told)
        elif self._may(now, link, ENTRY_BYTES * len(told)):
            self._send_pages(source, [], told)

    def _want_untrusted(self, now: Now, source: NodeId, link: Link, want: Want) -> None:
        names = split_names(want.names)
        prefixes = [prefix for prefix in dict.fromkeys(want.prefixes) if is_known(prefix)]
        looks = scanned(self._table, prefixes, names)
        if not self._may(now, link, RANGE_BYTES * (1 + len(names) + len(want.prefixes)) + LOOK_BYTES * looks):
            return
        wanted = {entry.slot: entry for entry in named(self._table, names)}
        for prefix in prefixes:
            wanted.update((entry.slot, entry) for entry in self._table.within(prefix))
        alive = now.wall - self._config.skew_s
        self._send_records(now, source, link, [entry for entry in wanted.values() if entry.expires_s >= alive])

    def _send_records(self, now: Now, node: NodeId, link: Link, entries: list[Entry]) -> None:
        entries.sort(key=lambda entry: rank(entry.record))
        for batch in batches([entry.envelope for entry in entries], self._config.message_bytes):
            if not self._may(now, link, sum(map(len, batch))):
                return
            self.stats.sent += len(batch)
            self.out.put(Send(node, Records(batch)))

    # --- asking ---------------------------------------------------------------------------------------------------

    def _ask_for_slots(self, now: Now, node: NodeId, link: Link, lacked: Mapping[bytes, Version]) -> None:
        forget_old(now, self._config, link.slots)
        leaves = dict.fromkeys(name[0] for name in lacked)
        coming = {leaf for leaf in leaves if self._is_coming(now, f"{leaf:02x}")}
        names = []
        for name, version in lacked.items():
            asked = link.slots.get(name)
            if len(link.slots) >= self._config.link_wants:
                break
            known = asked is not None and asked.version >= version
            if not known and name[0] not in coming and not self._is_asked(now, name, version):
                link.slots.pop(name, None)
                link.slots[name] = Asked(now.mono, version)
                names.append(name)
        self.stats.wanted += len(names)
        if len(names) >= self._config.much_slots:
            link.expect(now, len(names), self._config.much_s)
        for first in range(0, len(names), NAMES_MOST):
            self.out.put(Send(node, Want(b"".join(names[first : first + NAMES_MOST]))))

    def _ask_for_ranges(self, now: Now, node: NodeId, link: Link, ranges: Iterable[Range]) -> None:
        forget_old(now, self._config, link.ranges)
        prefixes = []
        for part in ranges:
            if part.prefix not in link.ranges and not self._is_coming(now, part.prefix):
                link.ranges[part.prefix] = Asked(now.mono, count=part.count)
                prefixes.append(part.prefix)
        if prefixes:
            self.stats.ranges_wanted += len(prefixes)
            self.out.put(Send(node, Want(b"", tuple(prefixes))))

    def _is_asked(self, now: Now, name: bytes, version: Version) -> bool:
        """Says whether some neighbour was asked for this version or a newer one and may still send it."""
        for link in self._links.values():
            asked = link.slots.get(name)
            if asked and asked.version >= version and link.waits_for(now, self._config, asked):
                return True
        return False

    def _is_coming(self, now: Now, prefix: str) -> bool:
        """Says whether some neighbour was asked for a range, or one around it, and has not sent it all."""
        for end in range(len(prefix) + 1):
            part = prefix[:end]
            for link in self._links.values():
                asked = link.ranges.get(part)
                if (
                    asked
                    and self._table.fingerprints.count(part) < asked.count
                    and link.waits_for(now, self._config, asked)
                ):
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
                    if link.is_put_off(now, self._config, self._links.values()):
                        self._compare_later(now, node)
                    else:
                        self._begin(node, link)
            self._next_digest = min((link.digest_at for link in self._links.values()), default=math.inf)

    def _begin(self, node: NodeId, link: Link) -> None:
        if link.told is not None:
            salt, told = link.told
            if self._table.fingerprints.range("", salt).fingerprint == told:
                return
        link.listed.clear()
        self.stats.rounds += 1
        digest = self._send_digest(node, [""])
        link.told = (digest.salt, digest.ranges[0].fingerprint)

    def next_timer(self) -> float:
        return min(self._next_round, self._next_digest)

    def drain(self) -> list[Effect]:
        return self.out.drain()
