"""Any order of searches, links, losses, duplicates, delays, restarts and lies: the rules hold, and routes are ways."""

from __future__ import annotations

from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from atmo.clock import Now
from atmo.engine import Emit, Message, Misbehaved, Send
from atmo.identity import NodeId
from atmo.peer.routes import RouteAnswer, RouteConfig, RouteEnded, RouteFinder, RouteFound, RouteQuery

NODES = [NodeId(bytes([number] * 32)) for number in range(1, 8)]
LIAR = NODES[-1]
CONFIG = RouteConfig(searches_most=3, remembered_most=16, fanout_nodes=3, relay_nodes=2)
node_ids = st.sampled_from(NODES)


class Mesh(RuleBasedStateMachine):
    """Seven nodes; the last one says whatever it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.starts = 0
        self.nodes = {node: self.fresh(node) for node in NODES}
        self.links: dict[tuple[NodeId, NodeId], None] = {}
        self.ever: dict[tuple[NodeId, NodeId], None] = {}
        self.flying: list[tuple[NodeId, NodeId, Message]] = []
        self.open: dict[tuple[NodeId, int], tuple[NodeId, float]] = {}
        self.found: dict[tuple[NodeId, int], list[tuple[NodeId, ...]]] = {}

    def fresh(self, node: NodeId) -> RouteFinder:
        self.starts += 1
        return RouteFinder(CONFIG, node, Random(f"{node}{self.starts}"))

    def clock(self) -> Now:
        return Now(self.now, 0.0)

    def perform(self) -> None:
        for node in NODES:
            for effect in self.nodes[node].drain():
                match effect:
                    case Send(to, message):
                        assert (node, to) in self.links
                        if node != LIAR or isinstance(message, RouteQuery):
                            self.flying.append((node, to, message))
                    case Emit(RouteFound(search, route)):
                        self.check(node, search, route)
                    case Emit(RouteEnded(search)):
                        del self.open[(node, search)]
                    case Misbehaved(peer):
                        assert peer == LIAR, "an honest node is blamed"

    def check(self, node: NodeId, search: int, route: tuple[NodeId, ...]) -> None:
        target, _ = self.open[(node, search)]
        routes = self.found[(node, search)]
        assert route not in routes
        assert len(routes) < CONFIG.routes_most
        routes.append(route)
        assert 1 <= len(route) <= 4
        assert route[-1] == target
        assert node not in route
        assert len(set(route)) == len(route)
        if LIAR not in route[:-1]:
            for pair in zip((node, *route), route, strict=False):
                assert pair in self.ever, "a route over a link that never was"

    @rule(one=node_ids, two=node_ids)
    def a_link_comes(self, one: NodeId, two: NodeId) -> None:
        if one != two:
            for pair in ((one, two), (two, one)):
                self.links[pair] = self.ever[pair] = None
                self.nodes[pair[0]].link_up(self.clock(), pair[1])

    @rule(one=node_ids, two=node_ids)
    def a_link_goes(self, one: NodeId, two: NodeId) -> None:
        for pair in ((one, two), (two, one)):
            if self.links.pop(pair, 0) is None:
                self.nodes[pair[0]].link_down(self.clock(), pair[1])
        self.flying = [each for each in self.flying if (each[0], each[1]) in self.links]

    @rule(node=node_ids)
    def a_node_restarts(self, node: NodeId) -> None:
        for other in NODES:
            self.a_link_goes(node, other)
        self.nodes[node] = self.fresh(node)
        for key in [key for key in self.open if key[0] == node]:
            del self.open[key]

    @rule(node=node_ids, wanted=node_ids, within=st.floats(0, 6))
    def a_search_begins(self, node: NodeId, wanted: NodeId, within: float) -> None:
        number = self.nodes[node].find(self.clock(), wanted, self.now + within)
        self.open[(node, number)] = (wanted, self.now + min(within, CONFIG.search_s))
        self.found[(node, number)] = []
        self.perform()

    @precondition(lambda self: self.open)
    @rule(pick=st.integers(0, 99))
    def a_search_is_cancelled(self, pick: int) -> None:
        node, number = key = list(self.open)[pick % len(self.open)]
        self.nodes[node].cancel(self.clock(), number)
        del self.open[key]

    @precondition(lambda self: self.flying)
    @rule(pick=st.integers(0, 99), again=st.booleans())
    def a_message_arrives(self, pick: int, again: bool) -> None:
        index = pick % len(self.flying)
        source, to, message = self.flying[index]
        if not again:
            del self.flying[index]
        self.nodes[to].receive(self.clock(), source, message)
        self.perform()

    @precondition(lambda self: self.flying)
    @rule(pick=st.integers(0, 99))
    def a_message_is_lost(self, pick: int) -> None:
        del self.flying[pick % len(self.flying)]

    @precondition(lambda self: self.flying)
    @rule(pick=st.integers(0, 99), to=node_ids, route=st.lists(node_ids, max_size=4), ttl=st.integers(0, 4))
    def the_liar_lies(self, pick: int, to: NodeId, route: list[NodeId], ttl: int) -> None:
        query = self.flying[pick % len(self.flying)][2].query
        for message in (RouteAnswer(query, tuple(route)), RouteQuery(query, NODES[0], ttl, tuple(route))):
            self.nodes[to].receive(self.clock(), LIAR, message)
        self.perform()

    @rule(seconds=st.floats(0, 5))
    def time_passes(self, seconds: float) -> None:
        end = self.now + seconds
        for _ in range(1_000):
            due = min(node.next_timer() for node in self.nodes.values())
            if due > end:
                break
            self.now = max(self.now, due)
            for node in self.nodes.values():
                node.handle_timer(self.clock())
            self.perform()
        else:
            raise AssertionError("a timer spins")
        self.now = end

    @invariant()
    def searches_end(self) -> None:
        for _, until in self.open.values():
            assert until >= self.now - 1e-9, "a search outlives its deadline"

    @invariant()
    def bounds_are_kept(self) -> None:
        for node in self.nodes.values():
            assert len(node._searches) <= CONFIG.searches_most
            assert len(node._passed) <= CONFIG.remembered_most


Mesh.TestCase.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
TestMesh = Mesh.TestCase
