"""Any order of messages, copies, losses, cuts and restarts: comparisons end, and connected tables become equal."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from atmo.gossip.entry import Entry
from atmo.gossip.fingerprints import Fingerprints
from atmo.gossip.reconcile import Reconciler
from atmo.gossip.reconcile_config import ReconcileConfig
from atmo.identity import NodeId
from tests.gossip.kit import at
from tests.gossip.network import Sent, node_id
from tests.gossip.tables import Keeper, entry
from tests.gossip.wire_machine import PICK, WireMachine

NODES = [node_id(number) for number in range(4)]
AUTHORS = [NodeId(bytes([0xA0 + number // 3, number]) + bytes(30)) for number in range(6)]
CONFIG = ReconcileConfig(
    leaf_slots=3, push_bytes=450, much_slots=2, answer_bytes=20_000.0, answer_rate=2_000.0, message_bytes=600
)
ENTRIES = st.builds(
    entry,
    st.sampled_from(AUTHORS),
    st.sampled_from(["", "1", "2"]),
    st.integers(1, 3),
    kind=st.sampled_from(["note", "node", "revocation"]),
    near=st.sampled_from([False, False, False, True]),
)


class Shelves(WireMachine):
    """A few tables; a chain of links at first."""

    def __init__(self) -> None:
        super().__init__()
        self.keepers = {node: Keeper(str(node), CONFIG) for node in NODES}
        for one, two in zip(NODES[1:], NODES[:-1], strict=True):
            self.toggle(one, two)

    def engine(self, node: NodeId) -> Reconciler:
        return self.keepers[node].engine

    def receive(self, sent: Sent) -> None:
        self.keepers[sent.to].receive(at(self.now), sent.source, sent.message)

    @rule(one=st.sampled_from(NODES), two=st.sampled_from(NODES))
    def a_link_comes_or_goes(self, one: NodeId, two: NodeId) -> None:
        if one != two:
            self.toggle(one, two)

    @rule(node=st.sampled_from(NODES), entries=st.lists(ENTRIES, min_size=1, max_size=10))
    def records_come_otherwise(self, node: NodeId, entries: list[Entry]) -> None:
        self.keepers[node].put(*entries)

    @rule(node=st.sampled_from(NODES), pick=PICK)
    def a_record_is_lost(self, node: NodeId, pick: int) -> None:
        table = self.keepers[node].table
        if len(table):
            table.remove([slot for slot, _ in table.items()][pick % len(table)])

    @rule(node=st.sampled_from(NODES))
    def a_node_restarts(self, node: NodeId) -> None:
        for other in self.wires.neighbours(node):
            self.toggle(node, other)
        self.keepers[node] = Keeper(str(node), CONFIG)

    @rule(seconds=st.floats(0, 40))
    def time_passes(self, seconds: float) -> None:
        self.advance(self.now + seconds)

    def engine_due(self, node: NodeId) -> float:
        return self.keepers[node].engine.next_timer()

    def advance(self, end: float, *, deliver: bool = False) -> None:
        for _ in range(5_000):
            self.flush(deliver)
            node = min(NODES, key=self.engine_due)
            due = self.engine_due(node)
            if due > end:
                break
            self.now = max(self.now, due)
            self.keepers[node].engine.handle_timer(at(self.now))
            self.perform(node)
        else:
            raise AssertionError("a timer spins")
        self.now = max(self.now, end)

    def flush(self, deliver: bool) -> None:
        count = 0
        while deliver and len(self.wires):
            self.deliver(self.wires.take(0))
            count += 1
            assert count < 2_000, "two nodes never end to answer each other"

    @invariant()
    def fingerprints_are_right(self) -> None:
        for keeper in self.keepers.values():
            fresh = Fingerprints()
            for _, held in keeper.table.items():
                if not held.record.near:
                    fresh.add(held)
            assert keeper.table.fingerprints.range("", b"") == fresh.range("", b"")

    @invariant()
    def bounds_hold(self) -> None:
        for keeper in self.keepers.values():
            for link in keeper.engine._links.values():
                assert len(link.slots) <= CONFIG.link_wants
                assert len(link.listed) + len(link.ranges) <= 2 * 273

    def teardown(self) -> None:
        near = [slot for keeper in self.keepers.values() for slot, held in keeper.table.items() if held.record.near]
        for keeper in self.keepers.values():
            for slot in near:  # a slot that is near here and not there differs for good
                if keeper.table.get(slot):
                    keeper.table.remove(slot)
        for one, two in zip(NODES[1:], NODES[:-1], strict=True):
            if not self.wires.are_linked(one, two):
                self.toggle(one, two)
        self.advance(self.now + 700, deliver=True)
        assert len({keeper.fingerprint() for keeper in self.keepers.values()}) == 1


Shelves.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestShelves = Shelves.TestCase
