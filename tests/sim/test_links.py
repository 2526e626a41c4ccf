"""Virtual links: reliable, ordered, and honest about what each end can know."""

from __future__ import annotations

from typing import Any

from atmo.clock import Now
from atmo.identity import NodeId
from atmo.peer import LinkAge
from atmo.peer.rules import keeps
from atmo.sim.links import Links, LinksConfig, Port
from atmo.sim.loop import Loop
from atmo.sim.network import LOST, Latency, Network, Partition
from atmo.sim.streams import Streams
from tests.trust.kit import ANNA, BERT

LOW, HIGH = sorted((ANNA.node_id, BERT.node_id))
Told = list[tuple[float, NodeId, str, Any]]


class Script:
    """Drops the packets whose numbers the test names."""

    def __init__(self) -> None:
        self.lost: list[int] = []
        self.count = 0
        self.on = True

    def route(self, now: float, source: NodeId, target: NodeId, size: int) -> float:
        self.count += 1
        return LOST if self.count in self.lost else 0.0


class Room:
    """Two nodes, their links, and all they were told."""

    def __init__(self, **config: float) -> None:
        self.loop, self.partition, self.script = Loop(), Partition(), Script()
        network = Network(self.partition, self.script, Latency(Streams("1"), 0.1, 0.1))
        self.links = Links(self.loop, network, self, LinksConfig(**config))  # type: ignore[arg-type]
        self.told: Told = []
        self.ports = {node: Port(node) for node in (LOW, HIGH)}
        for port in self.ports.values():
            self.links.start(port)

    def arrived(self, port: Port, source: Port, message: Any, size: int) -> None:
        self._tell(port, "arrived", message)

    def link_up(self, port: Port, other: NodeId) -> None:
        self._tell(port, "up", other)

    def link_down(self, port: Port, other: NodeId, reason: str) -> None:
        self._tell(port, "down", reason)

    def dial_failed(self, port: Port, other: NodeId) -> None:
        self._tell(port, "dial failed", other)

    def keeps(self, port: Port, other: NodeId, old: LinkAge, outbound: bool) -> bool:
        return keeps(Now(self.loop.now, 0.0), port.id, other, old, outbound, 5.0)

    def _tell(self, port: Port, what: str, detail: Any) -> None:
        self.told.append((round(self.loop.now, 6), port.id, what, detail))

    def dial(self, source: NodeId, target: NodeId) -> None:
        self.links.dial(self.ports[source], self.ports[target])

    def send(self, source: NodeId, target: NodeId, message: Any) -> None:
        self.links.send(self.ports[source], target, message, 10)

    def hang_up(self, source: NodeId, target: NodeId, reason: str) -> None:
        self.links.hang_up(self.ports[source], target, reason)

    def crash(self, node: NodeId) -> None:
        self.links.crash(self.ports[node])

    def start(self, node: NodeId) -> None:
        self.links.start(self.ports[node])

    def is_linked(self, node: NodeId, other: NodeId) -> bool:
        return other in self.ports[node].ends

    def run(self, until: float = 100.0) -> Told:
        """Lets time pass; returns what the nodes were told meanwhile."""
        begin = len(self.told)
        self.loop.run_until(until)
        return self.told[begin:]

    def linked(self) -> Room:
        self.dial(LOW, HIGH)
        self.run(1.0)
        return self


def messages(told: Told) -> list[Any]:
    return [detail for _, _, what, detail in told if what == "arrived"]


def kinds(told: Told) -> list[tuple[NodeId, str]]:
    return [(node, what) for _, node, what, _ in told]


def test_a_dial_brings_a_link_to_both_ends_after_a_round_trip() -> None:
    room = Room()
    room.dial(LOW, HIGH)
    told = room.run()
    assert told == [(0.2, HIGH, "up", LOW), (0.2, LOW, "up", HIGH)]
    assert room.is_linked(LOW, HIGH)
    assert room.is_linked(HIGH, LOW)


def test_a_lost_handshake_is_tried_again() -> None:
    room = Room()
    room.script.lost = [1, 3]
    room.dial(LOW, HIGH)
    assert [row[0] for row in room.run()] == [0.8, 0.8]


def test_a_dial_that_nobody_answers_fails_in_time() -> None:
    for spoil in ("partition", "crash"):
        room = Room()
        if spoil == "partition":
            room.partition.split([LOW], [HIGH])
        else:
            room.crash(HIGH)
        room.dial(LOW, HIGH)
        assert room.run() == [(5.0, LOW, "dial failed", HIGH)]


def test_messages_arrive_in_order_even_when_one_is_lost() -> None:
    room = Room().linked()
    room.script.lost = [room.script.count + 1, room.script.count + 2]
    for number in range(3):
        room.send(LOW, HIGH, number)
    told = room.run()
    assert messages(told) == [0, 1, 2]
    assert {row[0] for row in told} == {1.7}


def test_a_message_without_a_link_or_room_is_dropped() -> None:
    room = Room()
    room.send(LOW, HIGH, "early")
    assert room.run(1.0) == []
    room = Room(queue=2).linked()
    room.partition.split([LOW], [HIGH])
    for number in range(5):
        room.send(LOW, HIGH, number)
    room.partition.heal()
    assert messages(room.run()) == [0, 1]


def test_a_link_that_gets_nothing_across_dies_at_both_ends() -> None:
    room = Room().linked()
    room.partition.split([LOW], [HIGH])
    room.send(LOW, HIGH, "lost")
    told = room.run()
    assert [(time, what, reason) for time, _, what, reason in told] == [(31.0, "down", "timed out")] * 2
    assert not room.is_linked(LOW, HIGH)


def test_hanging_up_tells_the_other_end_after_what_was_sent_before() -> None:
    room = Room().linked()
    room.send(LOW, HIGH, "last")
    room.hang_up(LOW, HIGH, "enough")
    room.hang_up(LOW, HIGH, "twice")
    told = room.run()
    assert kinds(told) == [(LOW, "down"), (HIGH, "arrived"), (HIGH, "down")]
    assert told[-1][3] == "closed by the other end: enough"


def test_a_lost_farewell_leaves_the_other_end_to_its_timeout() -> None:
    room = Room().linked()
    room.script.lost = [room.script.count + 1]
    room.hang_up(LOW, HIGH, "enough")
    assert [row[0] for row in room.run() if row[1] == HIGH] == [31.0]


def test_who_crashes_tells_nobody_and_hears_nothing() -> None:
    room = Room().linked()
    room.send(HIGH, LOW, "in flight")
    room.dial(LOW, HIGH)
    room.crash(LOW)
    room.send(HIGH, LOW, "into the void")
    assert room.run() == []
    assert room.is_linked(HIGH, LOW)
    room.start(LOW)
    room.dial(LOW, HIGH)
    assert kinds(room.run(200.0)) == [(HIGH, "down"), (HIGH, "up"), (LOW, "up")]


def test_a_handshake_does_not_outlive_either_node() -> None:
    room = Room()
    room.dial(LOW, HIGH)
    room.crash(HIGH)
    room.start(HIGH)
    assert room.run(4.0) == []
    room.dial(LOW, HIGH)
    room.crash(HIGH)
    assert room.run(4.5) == []
    room.partition.split([LOW], [HIGH])
    room.start(HIGH)
    room.dial(LOW, HIGH)
    room.crash(LOW)
    assert room.run() == []


def test_two_who_dial_each_other_at_once_keep_the_link_of_the_smaller_id() -> None:
    for first, second in ((LOW, HIGH), (HIGH, LOW)):
        room = Room()
        room.dial(first, second)
        room.run(0.05)
        room.dial(second, first)
        room.run()
        assert room.is_linked(LOW, HIGH)
        assert room.is_linked(HIGH, LOW)
        room.send(LOW, HIGH, "there")
        room.send(HIGH, LOW, "back")
        assert sorted(messages(room.run(200.0))) == ["back", "there"]


def test_an_end_that_forgot_its_link_gets_a_new_one_and_a_fresh_link_is_not_replaced() -> None:
    room = Room().linked()
    room.script.lost = [room.script.count + 1]
    room.hang_up(HIGH, LOW, "forgotten")
    room.dial(HIGH, LOW)
    told = room.run(3.0)
    assert kinds(told) == [(HIGH, "down"), (HIGH, "up"), (HIGH, "down")], (
        "the link of the smaller id is too young to yield"
    )
    assert "there is a link already" in told[-1][3]
    room.run(8.0)
    room.dial(HIGH, LOW)
    assert kinds(room.run(9.0)) == [(LOW, "down"), (LOW, "up"), (HIGH, "up")]


def test_of_a_large_message_only_the_lost_packets_are_sent_again() -> None:
    room = Room().linked()
    room.script.lost = [room.script.count + 2, room.script.count + 3]
    room.links.send(room.ports[LOW], HIGH, "large", 4_000)
    room.send(LOW, HIGH, "behind")
    told = room.run()
    assert messages(told) == ["large", "behind"]
    assert [row[0] for row in told] == [1.7, 1.7], "its second packet came at the third try"
    room = Room().linked()
    room.partition.split([LOW], [HIGH])
    room.links.send(room.ports[LOW], HIGH, "large", 4_000)
    room.run(2.0)
    room.partition.heal()
    assert messages(room.run()) == ["large"]


def test_the_network_is_never_asked_of_seconds_to_come() -> None:
    """A line would take what is sent then for something that holds up all that is sent until then."""
    room = Room()
    asked: list[tuple[float, float]] = []
    route = room.script.route

    def ask(now: float, source: NodeId, target: NodeId, size: int) -> float:
        asked.append((now, room.loop.now))
        return route(now, source, target, size)

    room.script.route = ask  # type: ignore[method-assign]
    room.linked()
    room.script.lost = [room.script.count + 2, room.script.count + 3]
    room.links.send(room.ports[LOW], HIGH, "large", 4_000)
    room.run(5.0)
    room.hang_up(LOW, HIGH, "enough")
    room.run()
    assert len(asked) == 9
    assert all(then == now for then, now in asked)
