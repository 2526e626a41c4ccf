"""The search for routes: rings, answers along the way back, bounds, and what no honest node sends."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest

from atmo.clock import Now
from atmo.engine import Emit, Misbehaved, Send
from atmo.identity import NodeId
from atmo.peer.messages import MESSAGE_ITEMS
from atmo.peer.routes import (
    MESSAGES,
    RouteAnswer,
    RouteConfig,
    RouteEnded,
    RouteFinder,
    RouteFound,
    RouteQuery,
)
from atmo.wire import codec
from atmo.wire.schema import from_wire_untrusted, to_wire

CONFIG = RouteConfig()
A, B, C, D, E, T = NODES = [NodeId(bytes([number] * 32)) for number in range(1, 7)]
ID = b"q" * 8


def at(seconds: float) -> Now:
    return Now(seconds, 1_000_000 + seconds)


def finder(own: NodeId = A, *links: NodeId, config: RouteConfig = CONFIG) -> RouteFinder:
    made = RouteFinder(config, own, Random(str(own)))
    for node in links:
        made.link_up(at(0), node)
    return made


class Net:
    """Finders joined by links; messages arrive at once, in order."""

    def __init__(self, *pairs: tuple[NodeId, NodeId], config: RouteConfig = CONFIG) -> None:
        self.now = 0.0
        self.nodes = {node: finder(node, config=config) for node in NODES}
        self.events: list[Any] = []
        self.sent = 0
        for one, two in pairs:
            self.nodes[one].link_up(at(0), two)
            self.nodes[two].link_up(at(0), one)

    def run(self, seconds: float = 0.0) -> list[Any]:
        end = self.now + seconds
        while True:
            self.carry()
            due = min(node.next_timer() for node in self.nodes.values())
            if due > end:
                self.now = end
                return self.events
            self.now = max(self.now, due)
            for node in self.nodes.values():
                node.handle_timer(at(self.now))

    def carry(self) -> None:
        moved = True
        while moved:
            moved = False
            for own, node in self.nodes.items():
                for effect in node.drain():
                    moved = True
                    match effect:
                        case Send(to, message):
                            self.sent += 1
                            self.nodes[to].receive(at(self.now), own, message)
                        case Emit(event):
                            self.events.append(event)
                        case _:
                            raise AssertionError(effect)


def test_a_linked_target_is_found_at_once() -> None:
    one = finder(A, T)
    assert one.drain() == []
    number = one.find(at(0), T, 9)
    assert one.drain() == [Emit(RouteFound(number, (T,))), Emit(RouteEnded(number))]
    assert one.next_timer() == math.inf


@pytest.mark.parametrize(("own", "target"), [(A, T), (A, A)])
def test_who_has_no_links_or_looks_for_itself_fails_at_once(own: NodeId, target: NodeId) -> None:
    one = finder(own, *([B] if target == own else []))
    number = one.find(at(0), target, 9)
    assert one.drain() == [Emit(RouteEnded(number))]


def test_a_neighbour_of_a_neighbour_is_found_by_the_small_ring() -> None:
    net = Net((A, B), (A, C), (B, T), (C, D))
    number = net.nodes[A].find(at(0), T, 9)
    assert net.run() == [RouteFound(number, (B, T))]
    assert net.sent == 3  # two queries, one answer


def test_four_hops_are_found_by_the_wide_ring_and_five_are_not() -> None:
    net = Net((A, B), (B, C), (C, D), (D, T))
    number = net.nodes[A].find(at(0), T, 9)
    assert net.run(0.2) == []
    assert net.run(0.2) == [RouteFound(number, (B, C, D, T))]
    assert net.run(9) == [RouteFound(number, (B, C, D, T)), RouteEnded(number)]
    far = Net((A, B), (B, C), (C, D), (D, E), (E, T))
    number = far.nodes[A].find(at(0), T, 9)
    assert far.run(CONFIG.search_s - 0.1) == []
    assert far.run(0.2) == [RouteEnded(number)]
    assert far.nodes[A].next_timer() == math.inf


def test_the_deadline_ends_a_search_early() -> None:
    net = Net((A, B))
    number = net.nodes[A].find(at(0), T, 0.5)
    assert net.run(0.45) == []
    assert net.run(0.1) == [RouteEnded(number)]


def test_each_search_has_its_own_time() -> None:
    one = finder(A, B)
    first = one.find(at(0), T, 0.2)
    one.find(at(0.1), C, 9)
    one.drain()
    one.handle_timer(at(0.1))
    one.handle_timer(at(0.2))
    assert one.drain() == [Emit(RouteEnded(first))]
    assert one.next_timer() == pytest.approx(0.4)


def test_one_route_of_each_neighbour_and_a_few_in_all() -> None:
    net = Net((A, B), (A, C), (A, D), (A, E), (B, T), (C, T), (D, T), (E, T))
    number = net.nodes[A].find(at(0), T, 9)
    found = net.run(9)
    assert found == [*(RouteFound(number, (node, T)) for node in (B, C, D)), RouteEnded(number)]
    assert net.nodes[A].stats.found == 1


def test_a_cancelled_search_tells_nothing_more() -> None:
    one = finder(A, B)
    number = one.find(at(0), T, 9)
    (sent,) = one.drain()
    one.cancel(at(0), number)
    one.cancel(at(0), number)
    assert one.next_timer() == math.inf
    assert isinstance(sent, Send)
    one.receive(at(0.1), B, RouteAnswer(sent.message.query, (B, T)))
    one.handle_timer(at(10))
    assert one.drain() == []
    assert one.stats.dropped_late == 1


def test_the_wide_ring_is_asked_although_a_route_is_there_as_it_may_be_a_lie() -> None:
    one = finder(A, B, C)
    number = one.find(at(0), T, 9)
    sent = [effect for effect in one.drain() if isinstance(effect, Send)]
    one.receive(at(0.1), B, RouteAnswer(sent[0].message.query, (B, T)))
    assert one.next_timer() == pytest.approx(1.1)
    one.drain()
    one.handle_timer(at(1.2))
    wide = [effect.message for effect in one.drain() if isinstance(effect, Send)]
    assert [query.ttl for query in wide] == [2, 2]
    assert wide[0].query != sent[0].message.query
    one.receive(at(1.3), B, RouteAnswer(wide[0].query, (B, T)))
    assert one.drain() == []  # the same once more
    one.receive(at(1.3), C, RouteAnswer(wide[0].query, (C, D, T)))
    assert len(one.drain()) == 1
    one.receive(at(1.3), C, RouteAnswer(wide[0].query, (C, E, T)))
    assert one.drain() == []  # a second one of the same neighbour
    one.handle_timer(at(5))
    assert one.drain() == [Emit(RouteEnded(number))]


def test_searches_at_once_are_bounded() -> None:
    config = RouteConfig(searches_most=2)
    one = finder(A, B, config=config)
    numbers = [one.find(at(0), node, 9) for node in (C, D, E)]
    assert [effect for effect in one.drain() if isinstance(effect, Emit)] == [Emit(RouteEnded(numbers[2]))]


def test_a_query_goes_to_a_sample_of_many_links() -> None:
    many = [NodeId(bytes([100 + number] * 32)) for number in range(40)]
    one = finder(A, *many)
    one.find(at(0), T, 9)
    assert len(one.drain()) == CONFIG.fanout_nodes
    one.receive(at(0), many[0], RouteQuery(ID, T, 2, (B, many[0])[1:]))
    relayed = [effect for effect in one.drain() if isinstance(effect, Send)]
    assert len(relayed) == CONFIG.relay_nodes
    assert all(effect.to != many[0] and effect.message.ttl == 1 for effect in relayed)


def test_the_target_itself_answers() -> None:
    target = finder(T, B)
    target.receive(at(0), B, RouteQuery(ID, T, 0, (A, B)))
    assert target.drain() == [Send(B, RouteAnswer(ID, (B, T)))]


def test_a_query_without_hops_left_ends_here() -> None:
    one = finder(B, A, C)
    one.receive(at(0), A, RouteQuery(ID, T, 0, (A,)))
    assert one.drain() == []


def test_a_query_that_comes_again_is_dropped_until_it_is_forgotten() -> None:
    one = finder(B, A, C, D)
    query = RouteQuery(ID, T, 1, (A,))
    one.receive(at(0), A, query)
    assert len(one.drain()) == 2
    one.receive(at(0), D, RouteQuery(ID, T, 1, (A, D)))
    assert one.drain() == []
    assert one.stats.dropped_again == 1
    one.receive(at(CONFIG.remember_s), A, query)
    assert len(one.drain()) == 2


def test_what_is_remembered_is_bounded() -> None:
    config = RouteConfig(remembered_most=2)
    one = finder(B, A, C, config=config)
    for number in range(3):
        one.receive(at(0), A, RouteQuery(bytes([number] * 8), T, 1, (A,)))
    one.drain()
    for number, expected in ((0, 0), (1, 1), (2, 1)):
        one.receive(at(0), C, RouteAnswer(bytes([number] * 8), (B, C, T)))
        assert len(one.drain()) == expected


def test_a_neighbour_that_asks_too_much_is_not_answered_for_a_while() -> None:
    one = finder(B, A, T)
    for number in range(50):
        one.receive(at(0), A, RouteQuery(number.to_bytes(8, "big"), T, 1, (A,)))
    assert len(one.drain()) == CONFIG.queries_burst
    assert one.stats.dropped_budget == 50 - CONFIG.queries_burst
    one.receive(at(1), A, RouteQuery(ID, T, 1, (A,)))
    assert len(one.drain()) == 1


def test_strangers_and_forwarded_links_are_no_way() -> None:
    one = finder(B, A)
    one.link_up(at(0), T, "forward")
    one.receive(at(0), C, RouteQuery(ID, T, 1, (C,)))
    one.receive(at(0), A, RouteQuery(ID, T, 1, (A,)))
    assert one.drain() == []
    one.link_up(at(0), T)
    one.link_down(at(0), A)
    one.receive(at(0), A, RouteQuery(ID, T, 1, (A,)))
    assert one.drain() == []


@pytest.mark.parametrize(
    "query",
    [
        RouteQuery(b"short", T, 1, (A,)),
        RouteQuery(ID, T, 1, ()),
        RouteQuery(ID, T, 1, (C,)),
        RouteQuery(ID, T, 1, (B, A)),
        RouteQuery(ID, A, 1, (A,)),
        RouteQuery(ID, T, 1, (A, C, A)),
        RouteQuery(ID, T, 3, (A,)),
        RouteQuery(ID, T, 0, (C, D, E, A)),
    ],
)
def test_queries_that_no_honest_node_sends(query: RouteQuery) -> None:
    one = finder(B, A, T)
    one.receive(at(0), A, query)
    (effect,) = one.drain()
    assert isinstance(effect, Misbehaved)
    assert effect.peer == A


@pytest.mark.parametrize(
    ("source", "route"),
    [
        (A, (B, A, T)),
        (C, (B,)),
        (C, (D, C, T)),
        (C, (B, D, T)),
        (C, (B, C, D)),
        (C, (B, C, C, T)),
        (C, (B, C, B, T)),
    ],
)
def test_answers_that_do_not_fit(source: NodeId, route: tuple[NodeId, ...]) -> None:
    one = finder(B, A, C)
    one.receive(at(0), A, RouteQuery(ID, T, 2, (A,)))
    one.drain()
    one.receive(at(0), source, RouteAnswer(ID, route))
    (effect,) = one.drain()
    assert isinstance(effect, Misbehaved)
    assert effect.peer == source


def test_an_answer_to_us_may_not_lead_through_us() -> None:
    one = finder(A, B)
    one.find(at(0), T, 9)
    (sent,) = one.drain()
    assert isinstance(sent, Send)
    one.receive(at(0), B, RouteAnswer(sent.message.query, (B, A, T)))
    (effect,) = one.drain()
    assert isinstance(effect, Misbehaved)


def test_answers_are_passed_back_a_few_times() -> None:
    config = RouteConfig(routes_most=2)
    one = finder(B, A, C, D, E, config=config)
    one.receive(at(0), A, RouteQuery(ID, T, 2, (A,)))
    one.drain()
    for node in (C, D, E):
        one.receive(at(0), node, RouteAnswer(ID, (B, node, T)))
    assert one.drain() == [Send(A, RouteAnswer(ID, (B, node, T))) for node in (C, D)]


def test_the_messages_fit_the_limits_of_the_wire() -> None:
    for message in (RouteQuery(ID, T, 3, (A, B, C, D)), RouteAnswer(ID, (A, B, C, T))):
        assert type(message) in MESSAGES.values()
        data = codec.encode(to_wire(message))
        assert from_wire_untrusted(type(message), codec.decode_untrusted(data, max_items=MESSAGE_ITEMS)) == message
