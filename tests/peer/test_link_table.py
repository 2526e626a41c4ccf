"""The table of links and dials, whoever wants them."""

from __future__ import annotations

from typing import TypeVar

import pytest

from atmo.clock import Now
from atmo.engine import Contact, Dial, Effect, Hangup, Outbox, Send
from atmo.identity import NodeId
from atmo.peer.links import Links, LinksConfig
from atmo.wire.address import Address

E = TypeVar("E")
NODES = [NodeId(bytes([number] * 32)) for number in range(1, 9)]
ANNA, BERT, CLEO = NODES[:3]
CONFIG = LinksConfig(dials=2, waiting=3, most=3, unverified=2, asks=2)
ADDRESS = Address("10.0.0.1", 1)


class Desk:
    """A table with its log."""

    def __init__(self) -> None:
        self.mono = 0.0
        self.out = Outbox()
        self.log: list[Effect] = []
        self.barred: dict[NodeId, None] = {}
        self.neighbours: dict[NodeId, None] = {}
        self.unreachable: list[NodeId] = []
        self.links = Links(
            CONFIG,
            self.out,
            lambda now, node: node not in self.barred,
            self.neighbours.__contains__,
            lambda now, node: self.unreachable.append(node),
        )

    @property
    def now(self) -> Now:
        return Now(self.mono, 0.0)

    def of(self, kind: type[E]) -> list[E]:
        self.log += self.out.drain()
        return [effect for effect in self.log if isinstance(effect, kind)]

    def dial(self, node: NodeId) -> None:
        self.links.dial(self.now, contact(node))

    def up(self, node: NodeId) -> None:
        assert self.links.up(self.now, node, "lan")
        self.links.verified(self.now, node)

    def advance(self, seconds: float) -> None:
        end = self.mono + seconds
        while (due := self.links.next_timer()) <= end:
            self.mono = max(self.mono, due)
            self.links.handle_timer(self.now)
            assert self.links.next_timer() > self.mono
        self.mono = end


def contact(node: NodeId) -> Contact:
    return Contact(node, (ADDRESS,))


def test_no_node_is_dialled_twice_and_only_some_at_once() -> None:
    desk = Desk()
    for node in (*NODES[:4], *NODES[:4]):
        desk.dial(node)
    assert [dial.node for dial in desk.of(Dial)] == NODES[:2]
    assert all(desk.links.is_dialling(node) for node in NODES[:4])
    desk.links.dial_failed(desk.now, ANNA)
    assert desk.unreachable == [ANNA]
    desk.up(BERT)
    assert [dial.node for dial in desk.of(Dial)] == NODES[:4]
    desk.dial(BERT)
    assert len(desk.of(Dial)) == 4
    desk.links.dial_failed(desk.now, ANNA)
    assert desk.unreachable == [ANNA], "it was not being dialled"


def test_what_cannot_be_dialled_fails_at_once() -> None:
    desk = Desk()
    desk.barred[ANNA] = None
    desk.dial(ANNA)
    desk.links.dial(desk.now, Contact(BERT, ()))
    for node in NODES[2:8]:
        desk.dial(node)
    assert desk.unreachable == [ANNA, BERT, NODES[7]]


def test_a_dial_without_an_outcome_has_failed() -> None:
    desk = Desk()
    desk.dial(ANNA)
    desk.advance(CONFIG.dial_s)
    assert desk.unreachable == [ANNA]


def test_messages_wait_for_the_link() -> None:
    desk = Desk()
    for message in "abc":
        desk.links.ask(desk.now, contact(ANNA), message)
    assert desk.of(Send) == []
    desk.up(ANNA)
    desk.links.ask(desk.now, contact(ANNA), "d")
    assert [send.message for send in desk.of(Send)] == ["a", "b", "d"], "the bound cut the third"
    desk.links.hang_up(ANNA, "enough")
    desk.links.ask(desk.now, contact(ANNA), "e")
    assert desk.unreachable == [ANNA]


def test_messages_to_whom_no_link_comes_are_dropped() -> None:
    desk = Desk()
    desk.links.ask(desk.now, contact(ANNA), "a")
    assert desk.links.up(desk.now, ANNA, "lan")
    desk.links.down(desk.now, ANNA)
    assert desk.unreachable == [ANNA]
    desk.up(ANNA)
    assert desk.of(Send) == []
    desk.links.ask(desk.now, contact(BERT), "b")
    desk.links.forget(BERT)
    desk.up(BERT)
    assert desk.of(Send) == []


def test_a_link_without_a_hello_is_closed() -> None:
    desk = Desk()
    assert desk.links.up(desk.now, ANNA, "lan")
    desk.advance(CONFIG.hello_s + 0.1)
    assert desk.of(Hangup) == [Hangup(ANNA, "no Hello in time")]
    assert not desk.links.is_ready(ANNA)
    desk.links.hang_up(ANNA, "again")
    assert len(desk.of(Hangup)) == 1
    desk.links.down(desk.now, ANNA)
    assert desk.links.nodes() == []
    assert desk.links.down(desk.now, ANNA) is None


def test_strangers_are_bounded() -> None:
    desk = Desk()
    assert [desk.links.up(desk.now, node, "lan") is not None for node in NODES[:3]] == [True, True, False]


def test_the_idlest_spare_link_makes_room_and_neighbours_never_do() -> None:
    desk = Desk()
    for node in NODES[:3]:
        desk.up(node)
        desk.mono += 1
    desk.neighbours[ANNA] = None
    desk.links.hold(desk.now, BERT)
    desk.up(NODES[3])
    assert desk.of(Hangup) == [Hangup(CLEO, "making room for another link")]
    desk.links.down(desk.now, CLEO)
    desk.neighbours[NODES[3]] = None
    desk.up(NODES[4])
    assert desk.of(Hangup)[-1] == Hangup(NODES[4], "making room for another link")
    assert desk.links.ready() == [ANNA, BERT, NODES[3]]
    assert desk.links.up(desk.now, NODES[5], "lan")
    desk.links.hold(desk.now, NODES[5])
    desk.links.verified(desk.now, NODES[5])
    assert desk.links.is_ready(NODES[5]), "somebody needs it, as all others"


def test_strangers_crowd_nobody_out() -> None:
    """Neither links of members nor what this node dials: keys cost strangers nothing."""
    desk = Desk()
    for node in NODES[:3]:
        desk.up(node)
    desk.dial(NODES[6])
    desk.dial(NODES[7])
    for node in NODES[3:6]:
        desk.links.up(desk.now, node, "lan")
    assert desk.of(Hangup) == [Hangup(NODES[5], "too many links at once")]
    assert desk.links.ready() == NODES[:3]
    for node in NODES[6:]:
        desk.up(node)
        desk.mono += 1
    assert desk.of(Hangup)[1:] == [Hangup(node, "making room for another link") for node in NODES[:2]]
    assert desk.links.ready() == [CLEO, *NODES[6:]]


@pytest.mark.parametrize("dialled", [True, False])
def test_a_link_nobody_needs_is_closed_first_by_who_dialled(dialled: bool) -> None:
    desk = Desk()
    if dialled:
        desk.dial(ANNA)
    desk.up(ANNA)
    desk.up(BERT)
    desk.neighbours[BERT] = None
    patience = CONFIG.idle_s * (1 if dialled else 2)
    desk.advance(patience - 1)
    assert desk.of(Hangup) == []
    desk.advance(CONFIG.look_s + 1)
    assert desk.of(Hangup) == [Hangup(ANNA, "idle")]
    desk.links.down(desk.now, ANNA)
    desk.links.down(desk.now, BERT)
    desk.advance(100)
    assert desk.links.next_timer() > 1e9


def test_a_held_link_stays() -> None:
    desk = Desk()
    desk.up(ANNA)
    desk.links.hold(desk.now, ANNA)
    desk.links.hold(desk.now, BERT)
    desk.advance(1_000)
    desk.links.release(desk.now, ANNA)
    desk.links.release(desk.now, ANNA)
    desk.links.release(desk.now, BERT)
    assert desk.of(Hangup) == []
    desk.advance(1_000)
    assert desk.of(Hangup) == [Hangup(ANNA, "idle")]
