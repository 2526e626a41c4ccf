"""Any order of messages, copies, losses, cuts and restarts: bounds hold, and links that lose nothing deliver to all."""

from __future__ import annotations

from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from atmo.gossip.messages import Gossip
from atmo.gossip.plumtree import Plumtree
from atmo.gossip.plumtree_config import PlumtreeConfig
from atmo.identity import NodeId
from tests.gossip.kit import at
from tests.gossip.network import Sent, node_id
from tests.gossip.wire_machine import PICK, WireMachine

NODES = [node_id(number) for number in range(5)]
CONFIG = PlumtreeConfig(store_entries=20, seen_entries=60, missing_entries=30)


class Grove(WireMachine):
    """A few engines; a ring of links at first."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.trees: dict[NodeId, Plumtree] = {}
        self.got: dict[NodeId, dict[bytes, None]] = {}
        for node in NODES:
            self.start(node)
        for one, two in zip(NODES, [*NODES[1:], NODES[0]], strict=True):
            self.toggle(one, two)

    def start(self, node: NodeId) -> None:
        self.trees[node] = Plumtree(CONFIG, Random(str(node)))
        self.got[node] = {}

    def engine(self, node: NodeId) -> Plumtree:
        return self.trees[node]

    def receive(self, sent: Sent) -> None:
        tree, message = self.trees[sent.to], sent.message
        if not isinstance(message, Gossip):
            tree.receive(at(self.now), sent.source, message)
        elif tree.knows(message.envelope):
            tree.duplicate(at(self.now), sent.source, message)
        else:
            assert message.envelope not in self.got[sent.to], "news once"
            self.got[sent.to][message.envelope] = None
            tree.delivered(at(self.now), sent.source, message)

    @rule(one=st.sampled_from(NODES), two=st.sampled_from(NODES))
    def a_link_comes_or_goes(self, one: NodeId, two: NodeId) -> None:
        if one != two:
            self.toggle(one, two)

    @rule(node=st.sampled_from(NODES))
    def somebody_publishes(self, node: NodeId) -> None:
        self.publish(node)

    def publish(self, node: NodeId) -> bytes:
        self.count += 1
        envelope = f"record {self.count}".encode()
        self.got[node][envelope] = None
        self.trees[node].publish(at(self.now), envelope)
        self.perform(node)
        return envelope

    @rule(node=st.sampled_from(NODES))
    def anti_entropy_brings_one(self, node: NodeId) -> None:
        envelope = f"record {self.count}".encode()
        self.got[node][envelope] = None
        self.trees[node].remember(envelope)

    @precondition(lambda self: len(self.wires) > 0)
    @rule(pick=PICK)
    def one_is_refused(self, pick: int) -> None:
        sent = self.wires.take(pick)
        if isinstance(sent.message, Gossip):
            self.trees[sent.to].refused(sent.message)
        else:
            self.deliver(sent)

    @rule(node=st.sampled_from(NODES))
    def a_node_restarts(self, node: NodeId) -> None:
        for other in self.wires.neighbours(node):
            self.toggle(node, other)
        self.start(node)

    @rule(seconds=st.floats(0, 5))
    def time_passes(self, seconds: float) -> None:
        self.advance(self.now + seconds)

    def advance(self, end: float, *, deliver: bool = False) -> None:
        for _ in range(20_000):
            while deliver and len(self.wires):
                self.deliver(self.wires.take(0))
            node = min(NODES, key=lambda node: self.trees[node].next_timer())
            due = self.trees[node].next_timer()
            if due > end:
                break
            self.now = max(self.now, due)
            self.trees[node].handle_timer(at(self.now))
            self.perform(node)
        else:
            raise AssertionError("a timer spins, or messages never end")
        self.now = max(self.now, end)

    @invariant()
    def links_are_of_one_kind(self) -> None:
        for node, tree in self.trees.items():
            assert sorted(tree.eager() + tree.lazy()) == sorted(self.wires.neighbours(node))

    @invariant()
    def bounds_hold(self) -> None:
        for tree in self.trees.values():
            assert len(tree._store) <= CONFIG.store_entries
            assert len(tree._seen) + len(tree._seen_before) <= 2 * CONFIG.seen_entries
            assert len(tree._missing) <= CONFIG.missing_entries

    def reachable(self, node: NodeId) -> dict[NodeId, None]:
        reached = {node: None}
        for one in NODES * len(NODES):
            if one in reached:
                reached.update(dict.fromkeys(self.wires.neighbours(one)))
        return reached

    def teardown(self) -> None:
        self.advance(self.now + 10, deliver=True)
        for node in NODES:
            envelope = self.publish(node)
            self.advance(self.now + 10, deliver=True)
            for other in self.reachable(node):
                assert envelope in self.got[other]


Grove.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestGrove = Grove.TestCase
