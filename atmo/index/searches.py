"""The lookups under way and the requests that they make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from atmo.clock import Now
from atmo.engine import Ask, Contact, Emit, Message, Misbehaved, Outbox
from atmo.errors import WireError
from atmo.identity import NodeId
from atmo.index.calls import Call, Calls
from atmo.index.config import IndexConfig, IndexStats
from atmo.index.contacts import Table
from atmo.index.events import LookupDone, NodeFound, ProviderFound
from atmo.index.keys import position, to_int
from atmo.index.lookup import Lookup
from atmo.index.messages import FindNode, FindProviders, Found
from atmo.index.publishing import Publication
from atmo.index.records import SealedProvider
from atmo.index.standing import Standing

Judge = Callable[[Now, bytes], SealedProvider | None]
"""Opens a provider record and says whether it counts now; raises `WireError` for what no honest node passes on."""

SPACE = float(2**256)
"""All positions."""


class Query:
    """A lookup and on whose behalf it is.

    Attributes:
        number: 0 for the index's own.
        key: 32 bytes.
        lookup: Its state.
        began: Monotonic seconds.
        want: Providers wanted; 0 when it is about contacts.
        node: The node looked for.
        publication: The own record to be stored.
        found: The providers found.
        seen: Envelopes that were looked at.
        sealed: A record that was found.
        agreed: Holders in a row that had nothing new.
        widened: Everyone in the table was added, as what was found is too sparse.
        full: Nodes asked that hold as many records of the key as fit.
    """

    __slots__ = (
        "agreed", "began", "found", "full", "key", "lookup", "node", "number", "publication", "sealed", "seen", "want",
        "widened",
    )  # fmt: skip

    def __init__(self, number: int, key: bytes, lookup: Lookup, began: float) -> None:
        self.number = number
        self.key = key
        self.lookup = lookup
        self.began = began
        self.want = 0
        self.node: NodeId | None = None
        self.publication: Publication | None = None
        self.found: dict[NodeId, None] = {}
        self.seen: dict[bytes, None] = {}
        self.sealed: SealedProvider | None = None
        self.agreed = 0
        self.widened = False
        self.full: dict[NodeId, None] = {}


class Searches:
    """Runs lookups: asks whom they name, judges what comes back, and says when they are over.

    Args:
        config: Periods and bounds.
        own: This node.
        mesh: The mesh id.
        table: Who is known.
        judge: Opens provider records.
        out: Where effects go.
        stats: Counters.
    """

    def __init__(
        self, config: IndexConfig, own: NodeId, mesh: bytes, table: Table, judge: Judge, out: Outbox, stats: IndexStats
    ) -> None:
        self._config = config
        self._own = own
        self._mesh = mesh
        self._table = table
        self._judge = judge
        self._out = out
        self._stats = stats
        self._queries: dict[int, Query] = {}
        self._number = 0
        self._gap: float | None = None  # of the last lookups: only those who answered count, so it beats the table's
        self._gap_until = 0.0
        self.calls = Calls(config.hedge_s, config.timeout_s)
        self.standing = Standing(config)
        self.contact: Contact | None = None
        self.ended: list[Query] = []
        self.unanswered: list[tuple[Publication, Contact]] = []

    def gap(self) -> float:
        """Returns the share of the space between two neighbours; the whole space where too few are known to tell."""
        k = self._config.k
        nearest = self._table.closest(self._table.place, k)
        if len(nearest) < k or len(self._table) <= k:
            return 1.0
        gap = (nearest[-1].place ^ self._table.place) / SPACE / k  # the dead among them make it too small
        return gap if self._gap is None or 2 * gap < self._gap else self._gap

    def age(self, now: Now) -> None:
        """Forgets how dense lookups found the nodes to be, once that is old."""
        if now.mono >= self._gap_until:
            self._gap = None

    # --- beginning and end --------------------------------------------------------------------------------------------

    def open(self, now: Now, key: bytes, paths: int) -> Query:
        """Returns a new query, which `run` sets going; there may be no room for it."""
        self._number += 1
        radius = int(self.gap() * self._config.k * self._config.sparse * SPACE)
        query = Query(self._number, key, Lookup(self._config, to_int(key), paths, radius), now.mono)
        self._stats.lookups += 1
        return query

    @property
    def room(self) -> bool:
        """There are not too many lookups under way."""
        return len(self._queries) < self._config.lookups

    def run(self, now: Now, query: Query) -> None:
        """Sets a query going from the contacts of our own table."""
        self._queries[query.number] = query
        seeds = self._table.closest(query.lookup.target, self._config.k)
        if len(seeds) < self._config.k:
            known = {entry.contact.node: None for entry in seeds}
            seeds += [entry for entry in self._table.entries() if entry.contact.node not in known]
        query.lookup.begin(self._distances(query, [entry.contact for entry in seeds]))
        self.pump(now, query)

    def cancel(self, number: int) -> None:
        """Ends a query without a word."""
        query = self._queries.pop(number, None)
        if query is not None:
            self.calls.disown(query)

    def pump(self, now: Now, query: Query) -> None:
        """Asks whom the lookup wants asked now, and ends it when there is nothing left to wait for."""
        if query.number not in self._queries:
            return
        lookup = query.lookup
        enough = query.want and (len(query.found) >= query.want or query.agreed >= self._config.agree)
        if not enough and now.mono - query.began < self._config.lookup_s:
            while (candidate := lookup.next()) is not None:
                self._ask_to_find(now, query, candidate.contact)
            if lookup.waiting:
                return
            if not lookup.dense and not query.widened:
                query.widened = True
                lookup.begin(self._distances(query, [entry.contact for entry in self._table.entries()]))
                self.pump(now, query)
                return
        del self._queries[query.number]
        self.calls.disown(query)
        self._measure(now, query)
        self.ended.append(query)

    def _measure(self, now: Now, query: Query) -> None:
        closest = query.lookup.closest(self._config.k)
        if query.lookup.dense:
            for candidate in closest:
                if not self.standing.shuns(now.mono, candidate.contact.node):
                    self._table.seen(now.mono, candidate.contact)
        if query.lookup.dense and not query.want:
            gap = closest[-1].distance / SPACE / len(closest)
            self._gap = gap if self._gap is None else (gap + self._gap) / 2
            self._gap_until = now.mono + self._config.gap_s

    def done(self, now: Now, query: Query) -> None:
        """Tells how a query of somebody else ended."""
        self._stats.lookups_empty += not query.found
        took_s = now.mono - query.began
        self._out.put(Emit(LookupDone(query.number, len(query.found), query.lookup.hops, took_s, query.lookup.asked)))

    # --- asking -------------------------------------------------------------------------------------------------------

    def ask(self, now: Now, contact: Contact, owner: Any, message: Callable[[int], Message]) -> None:
        """Sends a request; `message` makes it of its token."""
        self._stats.asked += 1
        self._out.put(Ask(contact, message(self.calls.open(now.mono, contact, owner))))

    def check(self, now: Now, contact: Contact, target: bytes) -> None:
        """Asks a contact something just to see whether it lives, and who else does near `target`."""
        self.ask(now, contact, None, lambda token: FindNode(token, target, self.contact))

    def _ask_to_find(self, now: Now, query: Query, contact: Contact) -> None:
        kind = FindProviders if query.want else FindNode
        self.ask(now, contact, query, lambda token: kind(token, query.key, self.contact))

    def failed(self, now: Now, node: NodeId) -> None:
        """Nobody answers there."""
        self._lost(now, node)
        for call in self.calls.close_all(node):
            self._give_up(now, call)

    def handle_timer(self, now: Now) -> None:
        """Gives up on requests that had no answer, and lets others go ahead of slow ones."""
        for call, lost in self.calls.due(now.mono):
            if lost:
                self._lost(now, call.contact.node)
                self._give_up(now, call)
            elif isinstance(call.owner, Query):
                call.owner.lookup.slow(call.contact.node)
                self.pump(now, call.owner)

    def _lost(self, now: Now, node: NodeId) -> None:
        self._table.failed(node)
        self.standing.dead(now.mono, node)

    def _give_up(self, now: Now, call: Call) -> None:
        self._stats.failed += 1
        if isinstance(call.owner, Publication):
            self.unanswered.append((call.owner, call.contact))
        elif isinstance(call.owner, Query):
            liar = call.owner.lookup.failed(call.contact.node)
            if liar is not None and self.standing.strike(now.mono, liar):
                self._stats.shunned += 1
                self._table.drop(liar)
            self.pump(now, call.owner)

    # --- answers ------------------------------------------------------------------------------------------------------

    def close(self, now: Now, source: NodeId, token: int) -> Call | None:
        """Returns the request that an answer belongs to: its sender lives. None where there is none, or no more."""
        call = self.calls.close(source, token)
        if call is not None:
            self._stats.answered += 1
            self.standing.alive(source)
            if self._may_enter(now, call):
                self._table.seen(now.mono, call.contact)
        return call

    def _may_enter(self, now: Now, call: Call) -> bool:
        """Says whether who answered gets a place at once: not one that a lookup was just told of, as liars tell of
        liars. Of those only the closest come in, at the end, whom nobody can choose."""
        if self.standing.shuns(now.mono, call.contact.node):
            return False
        return not isinstance(call.owner, Query) or call.contact.node in self._table

    def receive(self, now: Now, source: NodeId, found: Found) -> None:
        """Takes an answer to `FindNode` or `FindProviders`."""
        call = self.close(now, source, found.token)
        if call is None or self.standing.shuns(now.mono, source):
            return
        told = [
            self._table.known(contact)
            for contact in found.contacts
            if contact.node != self._own and contact.addresses and not self.standing.avoids(now.mono, contact.node)
        ]
        taken = 0
        for contact in told:
            taken += self._table.told(contact)
            if taken == self._config.told_most:
                break
        query = call.owner
        if not isinstance(query, Query):
            return
        candidate = query.lookup.answered(source)
        query.lookup.tell(source, self._distances(query, told))
        if found.held >= self._config.key_records:
            query.full[source] = None
        if query.want:
            candidate.empty = not found.providers
            self._take_providers(now, query, source, found, candidate.hops)
        elif query.node is not None:
            for contact in found.contacts:
                if contact.node == query.node:
                    self.found_node(now, query, contact, candidate.hops)
        self.pump(now, query)

    def _distances(self, query: Query, contacts: list[Contact]) -> list[tuple[Contact, int]]:
        target = query.lookup.target
        return [(contact, position(self._mesh, contact.node) ^ target) for contact in contacts]

    def _take_providers(self, now: Now, query: Query, source: NodeId, found: Found, hops: int) -> None:
        before = len(query.found)
        for envelope in found.providers:
            if envelope in query.seen:
                continue
            try:
                sealed = self._judge(now, envelope)
                if sealed is not None and sealed.provider.key != query.key:
                    raise WireError("another key's")
            except WireError as error:
                self._out.put(Misbehaved(source, f"provider record: {error}"))
                return
            query.seen[envelope] = None
            if sealed is not None:
                self.found_provider(now, query, sealed, hops)
        if found.providers and found.held:
            query.agreed = query.agreed + 1 if len(query.found) == before and found.held <= before else 0

    def found_provider(self, now: Now, query: Query, sealed: SealedProvider, hops: int) -> None:
        """A provider record of the key is here: the first one of each provider is news."""
        if sealed.author in query.found or sealed.author == self._own or not sealed.provider.addresses:
            return
        query.found[sealed.author] = None
        query.sealed = query.sealed or sealed
        took_s = now.mono - query.began
        self._out.put(Emit(ProviderFound(query.number, sealed.contact, sealed.provider, hops, took_s)))

    def found_node(self, now: Now, query: Query, contact: Contact, hops: int) -> None:
        """The node looked for is said to be there."""
        query.found[contact.node] = None
        self._out.put(Emit(NodeFound(query.number, contact, hops, now.mono - query.began)))
