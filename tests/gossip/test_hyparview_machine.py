"""A network of views in which anything happens: bounds hold at every step, and in the end all are one mesh again."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from atmo.engine import Misbehaved
from atmo.gossip.hyparview_config import HyParViewConfig
from atmo.gossip.messages import Disconnect, ForwardJoin, Neighbour, NeighbourAnswer, Shuffle, ShuffleAnswer
from atmo.wire.address import Contact
from tests.gossip.hyparview_kit import Network, at, contact, node

COUNT = 8
CONFIG = HyParViewConfig(active=3, active_least=2, passive=4, book=12, dials=3, dials_most=6, protected=1)

numbers = st.integers(0, COUNT - 1)
contacts = st.builds(contact, st.integers(0, COUNT + 2), st.integers(1, 2)) | st.builds(
    Contact, st.builds(node, numbers), st.just(())
)
routes = st.lists(st.builds(node, numbers), max_size=9).map(tuple)
several = st.lists(contacts, max_size=8).map(tuple)
said = (
    st.builds(Neighbour, contacts, st.booleans(), st.booleans())
    | st.builds(NeighbourAnswer, st.booleans())
    | st.builds(ForwardJoin, contacts, st.integers(0, 8))
    | st.just(Disconnect())
    | st.builds(Shuffle, several, st.integers(0, 8), routes)
    | st.builds(ShuffleAnswer, several, routes)
)


class Mesh(RuleBasedStateMachine):
    """Eight nodes, three neighbours each."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Network("machine", CONFIG)
        self.liars = False

    def pending(self) -> list[int]:
        return [index for index, (_, _, event) in enumerate(self.net.heap) if event[0] == "message"]

    # --- nodes and links ------------------------------------------------------------------------------------------

    @rule(number=numbers, known=st.lists(numbers, max_size=4), stale=st.booleans())
    def a_node_starts(self, number: int, known: list[int], stale: bool) -> None:
        if node(number) in self.net.stations:
            self.net.kill(number)
        self.net.start(number, [contact(other) for other in known], stale=stale)

    @rule()
    def all_start(self) -> None:
        for number in range(COUNT):
            if node(number) not in self.net.stations:
                self.net.start(number, [contact(other) for other in range(COUNT)])

    @rule(number=numbers)
    def a_node_dies(self, number: int) -> None:
        if node(number) in self.net.stations:
            self.net.kill(number)

    @rule(number=numbers)
    def a_node_leaves(self, number: int) -> None:
        if station := self.net.stations.get(node(number)):
            station.view.leave(at(self.net.now))
            self.net.perform(station)
            assert not station.view.active
            self.net.kill(number)

    @rule(pick=st.integers(0, 99))
    def a_link_breaks(self, pick: int) -> None:
        if self.net.links:
            self.net.cut(*list(self.net.links)[pick % len(self.net.links)])

    @rule(one=numbers, other=numbers)
    def a_link_is_made_for_something_else(self, one: int, other: int) -> None:
        near, far = self.net.stations.get(node(one)), self.net.stations.get(node(other))
        if near and far and near is not far and not self.net.apart(near.node, far.node):
            self.net.connect(near, far)

    @rule(sides=st.lists(st.integers(0, 1), min_size=COUNT, max_size=COUNT))
    def the_network_splits(self, sides: list[int]) -> None:
        self.net.split({node(number): side for number, side in enumerate(sides)})

    @rule()
    def the_network_heals(self) -> None:
        self.net.split({})

    # --- messages -------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.pending())
    @rule(pick=st.integers(0, 99))
    def a_message_is_lost(self, pick: int) -> None:
        waiting = self.pending()
        when, counter, _ = self.net.heap[waiting[pick % len(waiting)]]
        self.net.heap[waiting[pick % len(waiting)]] = (when, counter, ("nothing",))

    @precondition(lambda self: self.pending())
    @rule(pick=st.integers(0, 99), after=st.floats(0, 5))
    def a_message_comes_twice(self, pick: int, after: float) -> None:
        waiting = self.pending()
        _, _, event = self.net.heap[waiting[pick % len(waiting)]]
        self.net.push(self.net.now + after, *event)

    @rule(one=numbers, other=numbers, message=said)
    def a_member_lies(self, one: int, other: int, message: object) -> None:
        station = self.net.stations.get(node(other))
        if station and (node(one), node(other)) in self.net.links:
            station.view.receive(at(self.net.now), node(one), message)  # type: ignore[arg-type]
            effects = [effect for effect in station.view.drain() if not isinstance(effect, Misbehaved)]
            for effect in effects:
                self.net.effect(station, effect)
            self.net.perform(station)

    # --- what else is told ----------------------------------------------------------------------------------------

    @rule(number=numbers, other=st.integers(0, COUNT + 2), port=st.integers(1, 2), stale=st.booleans())
    def a_record_comes(self, number: int, other: int, port: int, stale: bool) -> None:
        if station := self.net.stations.get(node(number)):
            station.view.learn(at(self.net.now), contact(other, port), stale=stale)
            self.net.perform(station)

    @rule(number=numbers, other=numbers, what=st.sampled_from(["gone", "suspect", "trust", "forget"]))
    def something_is_told(self, number: int, other: int, what: str) -> None:
        station = self.net.stations.get(node(number))
        if station is None or station.node == node(other):
            return
        if what == "forget":
            station.view.forget(at(self.net.now), node(other))
            self.net.perform(station)
            assert node(other) not in station.view.known
            self.net.cut(station.node, node(other))
            return
        getattr(station.view, what)(at(self.net.now), node(other))
        self.net.perform(station)

    @rule(seconds=st.floats(0, 40))
    def time_passes(self, seconds: float) -> None:
        self.net.run(seconds)

    @rule(steps=st.integers(1, 20))
    def a_little_happens(self, steps: int) -> None:
        for _ in range(steps):
            if self.net.heap:
                self.net.step()

    @invariant()
    def the_rules_hold(self) -> None:
        self.net.check()
        for station in self.net.stations.values():
            assert len(station.view.known) <= CONFIG.book
            assert station.node not in station.view.known
            assert station.view.dialling() <= CONFIG.dials_most

    # --- in the end -----------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Faults end, records are renewed, and expire where they do not come: all become one mesh."""
        self.net.split({})
        for station in self.net.stations.values():
            for other in list(station.view.active):
                station.view.trust(at(self.net.now), other)
        for _ in range(30):
            self.renew()
            self.net.run(60)
            self.net.check()
            if len(self.net.components()) <= 1 and not self.net.asymmetric():
                return
        raise AssertionError(f"no one mesh: {self.net.components()}, {self.net.asymmetric()}")

    def renew(self) -> None:
        """Everyone hears of those whom broadcasts reach, and learns that others are gone."""
        for station in self.net.stations.values():
            part = self.net.part(station.node)
            for number in range(COUNT):
                other = node(number)
                if other in part:
                    station.view.learn(at(self.net.now), contact(number))
                elif other in self.net.stations:
                    station.view.learn(at(self.net.now), contact(number), stale=True)
                    station.view.gone(at(self.net.now), other)
                else:
                    station.view.gone(at(self.net.now), other)
            self.net.perform(station)


Mesh.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestMesh = Mesh.TestCase
