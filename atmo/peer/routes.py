"""Finding a way to a node that cannot be dialled: through neighbours that have a link to it, or to one who has.

A query goes out to the linked nodes, which answer where they are linked to the target and else pass it on for as long
as its hops last; the answer comes back the way that the query went, naming every node of the route. A small ring is
asked first, as most targets have a neighbour among the neighbours of ours. A route proves nothing: whoever uses it
runs an end-to-end handshake with the target (`net.forwarding`), so a node that lies about a route only wastes time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random

from atmo.clock import Now
from atmo.engine import Effect, Emit, Message, Misbehaved, Outbox, Send
from atmo.identity import NodeId
from atmo.peer.route_messages import MESSAGES, QUERY_BYTES, ROUTE_MOST, RouteAnswer, RouteEnded, RouteFound, RouteQuery

__all__ = [
    "MESSAGES",
    "RouteAnswer",
    "RouteConfig",
    "RouteEnded",
    "RouteFinder",
    "RouteFound",
    "RouteQuery",
    "RouteStats",
]

_FORWARD = "forward"


@dataclass(frozen=True, slots=True)
class RouteConfig:
    """Bounds and times of the search for routes.

    Attributes:
        ring_s: The small ring is asked for so long before the wide one. Source: guess: of two hops over the city
            latencies most take less.
        doubt_s: The same after a way was found: it may turn out to be none. Source: guess, three round trips for the
            handshake over it.
        search_s: A search ends after this, whatever its deadline. Source: guess, the small ring, then four hops out and
            back at 0.3 s each, and margin.
        remember_s: An answer to a query that was passed on is passed back for so long; a query that comes again in
            this time is dropped. Source: `search_s` and margin.
        fanout_nodes: Linked nodes that a search asks at once. Source: guess, an active view and some more.
        relay_nodes: Linked nodes that a query is passed on to. Source: HyParView's active view of five, less the
            sender: one search costs at most 8 + 8 * 4 + 8 * 4 * 4 = 168 messages in all of the mesh.
        searches_most: Searches under way here. Source: guess.
        routes_most: Routes told of for one search, and passed back for one query. Source: guess: two may lie.
        remembered_most: Queries remembered, the oldest goes first. Source: guess, about 100 KB.
        queries_per_s: What one neighbour may ask, in the long run. Source: guess.
        queries_burst: What it may ask at once.
    """

    ring_s: float = 0.3
    doubt_s: float = 1.0
    search_s: float = 2.0
    remember_s: float = 3.0
    fanout_nodes: int = 8
    relay_nodes: int = 4
    searches_most: int = 64
    routes_most: int = 3
    remembered_most: int = 1_024
    queries_per_s: float = 8.0
    queries_burst: float = 32.0


@dataclass(slots=True)
class RouteStats:
    """Counters since start.

    Attributes:
        searches: Begun here.
        found: Of these, those that found a way.
        passed_on: Queries of others sent further, each copy counted.
        answered: Queries of others whose target is linked here.
        dropped_again: Queries that came a second time.
        dropped_budget: Queries over a neighbour's budget.
        dropped_late: Answers to queries that are not remembered (any more).
    """

    searches: int = 0
    found: int = 0
    passed_on: int = 0
    answered: int = 0
    dropped_again: int = 0
    dropped_budget: int = 0
    dropped_late: int = 0


@dataclass(slots=True)
class _Search:
    """A search of this node.

    Attributes:
        ring_at: When the wide ring is asked, `math.inf` once it was.
        ends_at: When the search is over.
        queries: Their ids on the wire, one for each ring.
    """

    number: int
    target: NodeId
    ring_at: float
    ends_at: float
    queries: list[bytes] = field(default_factory=list)
    routes: list[tuple[NodeId, ...]] = field(default_factory=list)


@dataclass(slots=True)
class _Passed:
    """A query that went through here, ours or another's.

    Attributes:
        prefix: How each route that answers it begins: what it came through, this node included where it is none of
            ours.
        source: Whom answers go to, None where the search is ours.
        asked: To whom it was sent.
        heard: Who of them has answered: one route of each counts, so that a liar does not crowd out the others.
    """

    target: NodeId
    prefix: tuple[NodeId, ...]
    source: NodeId | None
    search: int
    asked: tuple[NodeId, ...]
    until: float
    heard: tuple[NodeId, ...] = ()


@dataclass(slots=True)
class _Purse:
    """What a neighbour may still ask: a token bucket."""

    tokens: float
    at: float


class RouteFinder:
    """Finds routes for this node and helps others to find theirs.

    Args:
        config: Bounds.
        own: This node.
        rng: Draws ids, and who is asked where there are too many.
    """

    def __init__(self, config: RouteConfig, own: NodeId, rng: Random) -> None:
        self._config = config
        self._own = own
        self._rng = rng
        self._links: dict[NodeId, _Purse] = {}
        self._searches: dict[int, _Search] = {}
        self._passed: dict[bytes, _Passed] = {}  # in the order of their end
        self._number = 0
        self._next = math.inf
        self.out = Outbox()
        self.stats = RouteStats()

    # --- links ----------------------------------------------------------------------------------------------------

    def link_up(self, now: Now, node: NodeId, path: str = "direct") -> None:
        """A verified link is there. One that is forwarded itself (`path` is `forward`) is no way for others."""
        if path != _FORWARD:
            self._links[node] = _Purse(self._config.queries_burst, now.mono)

    def link_down(self, now: Now, node: NodeId) -> None:
        """The link to `node` is gone."""
        self._links.pop(node, None)

    # --- commands -------------------------------------------------------------------------------------------------

    def find(self, now: Now, target: NodeId, deadline: float) -> int:
        """Looks for ways to `target` until the monotonic second `deadline`.

        Returns:
            The number of the search, which `RouteFound` and `RouteEnded` name.
        """
        self._number += 1
        number = self._number
        self.stats.searches += 1
        if target in self._links:
            self.stats.found += 1
            self.out.put(Emit(RouteFound(number, (target,))))
            self.out.put(Emit(RouteEnded(number)))
            return number
        if target == self._own or not self._links or len(self._searches) >= self._config.searches_most:
            self.out.put(Emit(RouteEnded(number)))
            return number
        ends_at = min(deadline, now.mono + self._config.search_s)
        search = _Search(number, target, now.mono + self._config.ring_s, ends_at)
        self._searches[number] = search
        self._ask(now, search, 0)
        self._plan()
        return number

    def cancel(self, now: Now, search: int) -> None:
        """Ends a search whose answer is not needed any more; no event follows."""
        self._end(search)
        self._plan()

    # --- messages -------------------------------------------------------------------------------------------------

    def receive(self, now: Now, source: NodeId, message: Message) -> None:
        """Takes a `RouteQuery` or `RouteAnswer` of a linked node."""
        if source not in self._links:
            return
        if isinstance(message, RouteQuery):
            self._query(now, source, message)
        else:
            self._answer(now, source, message)

    def _query(self, now: Now, source: NodeId, query: RouteQuery) -> None:
        visited = query.visited
        if (
            len(query.query) != QUERY_BYTES
            or not visited
            or visited[-1] != source
            or self._own in visited
            or query.target in visited
            or len(set(visited)) != len(visited)
            or len(visited) + query.ttl >= ROUTE_MOST
        ):
            self.out.put(Misbehaved(source, "a query for a route that cannot be"))
            return
        if not self._pay(now, source):
            self.stats.dropped_budget += 1
            return
        self._tidy(now)
        if query.query in self._passed:
            self.stats.dropped_again += 1
            return
        prefix = (*visited[1:], self._own)
        asked: tuple[NodeId, ...] = ()
        if query.target == self._own:
            self._reply(source, query.query, prefix)
        elif query.target in self._links:
            self._reply(source, query.query, (*prefix, query.target))
        elif query.ttl:
            asked = self._pick(self._config.relay_nodes, visited)
            further = RouteQuery(query.query, query.target, query.ttl - 1, (*visited, self._own))
            for node in asked:
                self.out.put(Send(node, further))
            self.stats.passed_on += len(asked)
        self._remember(now, query.query, _Passed(query.target, prefix, source, 0, asked, 0.0))

    def _reply(self, source: NodeId, query: bytes, route: tuple[NodeId, ...]) -> None:
        self.stats.answered += 1
        self.out.put(Send(source, RouteAnswer(query, route)))

    def _answer(self, now: Now, source: NodeId, answer: RouteAnswer) -> None:
        self._tidy(now)
        passed = self._passed.get(answer.query)
        if passed is None:
            self.stats.dropped_late += 1
            return
        route, start = answer.route, len(passed.prefix)
        if (
            source not in passed.asked
            or len(route) <= start
            or route[:start] != passed.prefix
            or route[start] != source
            or route[-1] != passed.target
            or len(set(route)) != len(route)
            or (passed.source is None and self._own in route)
        ):
            self.out.put(Misbehaved(source, "an answer that does not fit its query for a route"))
            return
        if source in passed.heard or len(passed.heard) >= self._config.routes_most:
            return
        passed.heard += (source,)
        if passed.source is not None:
            self.out.put(Send(passed.source, answer))
        else:
            self._found(now, self._searches[passed.search], route)

    def _found(self, now: Now, search: _Search, route: tuple[NodeId, ...]) -> None:
        if route in search.routes:
            return
        search.routes.append(route)
        if search.ring_at < math.inf:
            search.ring_at = now.mono + self._config.doubt_s
        if len(search.routes) == 1:
            self.stats.found += 1
        self.out.put(Emit(RouteFound(search.number, route)))
        if len(search.routes) >= self._config.routes_most:
            self._end(search.number)
            self.out.put(Emit(RouteEnded(search.number)))
        self._plan()

    # --- time -----------------------------------------------------------------------------------------------------

    def handle_timer(self, now: Now) -> None:
        """Asks further rings, and ends searches whose time is up."""
        if now.mono < self._next:
            return
        for search in list(self._searches.values()):
            if now.mono >= search.ends_at:
                self._end(search.number)
                self.out.put(Emit(RouteEnded(search.number)))
            elif now.mono >= search.ring_at:
                search.ring_at = math.inf
                self._ask(now, search, ROUTE_MOST - 2)
        self._plan()

    def next_timer(self) -> float:
        """When a search wants to go on."""
        return self._next

    def drain(self) -> list[Effect]:
        """Returns and forgets the effects asked for."""
        return self.out.drain()

    # --- internals ------------------------------------------------------------------------------------------------

    def _ask(self, now: Now, search: _Search, ttl: int) -> None:
        query = self._rng.randbytes(QUERY_BYTES)
        asked = self._pick(self._config.fanout_nodes, ())
        for node in asked:
            self.out.put(Send(node, RouteQuery(query, search.target, ttl, (self._own,))))
        search.queries.append(query)
        self._tidy(now)
        self._remember(now, query, _Passed(search.target, (), None, search.number, asked, 0.0))

    def _pick(self, count: int, without: tuple[NodeId, ...]) -> tuple[NodeId, ...]:
        nodes = [node for node in self._links if node not in without]
        return tuple(nodes if len(nodes) <= count else self._rng.sample(nodes, count))

    def _remember(self, now: Now, query: bytes, passed: _Passed) -> None:
        passed.until = now.mono + self._config.remember_s
        self._passed[query] = passed
        if len(self._passed) > self._config.remembered_most:
            del self._passed[next(iter(self._passed))]

    def _tidy(self, now: Now) -> None:
        """Forgets queries of long ago; they stand in the order of their end."""
        while self._passed:
            query = next(iter(self._passed))
            if self._passed[query].until > now.mono:
                return
            del self._passed[query]

    def _pay(self, now: Now, source: NodeId) -> bool:
        purse = self._links[source]
        earned = max(0.0, now.mono - purse.at) * self._config.queries_per_s
        purse.tokens = min(self._config.queries_burst, purse.tokens + earned)
        purse.at = now.mono
        if purse.tokens < 1.0:
            return False
        purse.tokens -= 1.0
        return True

    def _end(self, number: int) -> None:
        search = self._searches.pop(number, None)
        for query in search.queries if search else ():
            self._passed.pop(query, None)

    def _plan(self) -> None:
        self._next = min((min(each.ring_at, each.ends_at) for each in self._searches.values()), default=math.inf)
