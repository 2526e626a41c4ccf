"""Virtual links: reliable, ordered, and honest about what each end can know."""

from __future__ import annotations

from typing import Any

from atmo.clock import Now
from atmo.identity import NodeId
from atmo.peer import LinkAge
from atmo.peer.rules import keeps
from atmo.sim.links import Arrived, DialFailed, Down, Links, LinksConfig, Up
from atmo.sim.loop import Loop
from atmo.sim.network import PASS, Drop, Fate, Latency, Network, Partition
from atmo.sim.streams import Streams
from tests.trust.kit import ANNA, BERT

LOW, HIGH = sorted((ANNA.node_id, BERT.node_id))


class Script:
    """Drops the packets whose numbers the test names."""

    def __init__(self) -> None:
        self.lost: list[int] = []
        self.count = 0

    def route(self, now: float, source: NodeId, target: NodeId, size: int) -> Fate:
        self.count += 1
        return Drop("script") if self.count in self.lost else PASS


class Room:
    """Two nodes, their links, and all they were told."""

    def __init__(self, **config: float) -> None:
        self.loop, self.partition, self.script = Loop(), Partition(), Script()
        network = Network(self.partition, self.script, Latency(Streams("1"), 0.1, 0.1))
        self.links = Links(self.loop, network, self._keeps, LinksConfig(**config))  # type: ignore[arg-type]
        self.told: list[tuple[float, NodeId, Any]] = []
        for node in (LOW, HIGH):
            self.links.start(node)

    def _keeps(self, node: NodeId, other: NodeId, old: LinkAge, outbound: bool) -> bool:
        return keeps(Now(self.loop.now, 0.0), node, other, old, outbound, 5.0)

    def run(self, until: float = 100.0) -> list[tuple[float, NodeId, Any]]:
        """Lets time pass; returns what the nodes were told meanwhile."""
        begin = len(self.told)
        while self.loop.next_time() <= until:
            node, event = self.loop.pop()
            told = self.links.handle(node, event)
            if told is not None:
                self.told.append((round(self.loop.now, 6), node, told))
        self.loop.now = max(self.loop.now, until)
        return self.told[begin:]

    def linked(self) -> Room:
        self.links.dial(LOW, HIGH)
        self.run(1.0)
        return self


def messages(told: list[tuple[float, NodeId, Any]]) -> list[Any]:
    return [event.message for _, _, event in told if isinstance(event, Arrived)]


def kinds(told: list[tuple[float, NodeId, Any]]) -> list[tuple[NodeId, type]]:
    return [(node, type(event)) for _, node, event in told]


def test_a_dial_brings_a_link_to_both_ends_after_a_round_trip() -> None:
    room = Room()
    room.links.dial(LOW, HIGH)
    told = room.run()
    assert [(time, node, type(event)) for time, node, event in told] == [(0.2, HIGH, Up), (0.2, LOW, Up)]
    assert room.links.linked(LOW, HIGH)
    assert room.links.linked(HIGH, LOW)


def test_a_lost_handshake_is_tried_again() -> None:
    room = Room()
    room.script.lost = [1, 3]
    room.links.dial(LOW, HIGH)
    assert [time for time, _, _ in room.run()] == [0.8, 0.8]


def test_a_dial_that_nobody_answers_fails_in_time() -> None:
    for spoil in ("partition", "crash"):
        room = Room()
        if spoil == "partition":
            room.partition.split([LOW], [HIGH])
        else:
            room.links.crash(HIGH)
        room.links.dial(LOW, HIGH)
        ((time, node, event),) = room.run()
        assert (time, node, event) == (5.0, LOW, DialFailed(HIGH))


def test_messages_arrive_in_order_even_when_one_is_lost() -> None:
    room = Room().linked()
    room.script.lost = [room.script.count + 1, room.script.count + 2]
    for number in range(3):
        room.links.send(LOW, HIGH, number, 10)
    told = room.run()
    assert messages(told) == [0, 1, 2]
    assert {time for time, _, _ in told} == {1.7}


def test_a_message_without_a_link_or_room_is_dropped() -> None:
    room = Room()
    room.links.send(LOW, HIGH, "early", 10)
    assert room.run(1.0) == []
    room = Room(queue=2).linked()
    room.partition.split([LOW], [HIGH])
    for number in range(5):
        room.links.send(LOW, HIGH, number, 10)
    room.partition.heal()
    assert messages(room.run()) == [0, 1]


def test_a_link_that_gets_nothing_across_dies_at_both_ends() -> None:
    room = Room().linked()
    room.partition.split([LOW], [HIGH])
    room.links.send(LOW, HIGH, "lost", 10)
    told = room.run()
    assert [(time, type(event), event.reason) for time, _, event in told] == [(31.0, Down, "timed out")] * 2
    assert not room.links.linked(LOW, HIGH)


def test_hanging_up_tells_the_other_end_after_what_was_sent_before() -> None:
    room = Room().linked()
    room.links.send(LOW, HIGH, "last", 10)
    room.links.hang_up(LOW, HIGH, "enough")
    room.links.hang_up(LOW, HIGH, "twice")
    told = room.run()
    assert kinds(told) == [(LOW, Down), (HIGH, Arrived), (HIGH, Down)]
    assert told[-1][2].reason == "closed by the other end: enough"


def test_a_lost_farewell_leaves_the_other_end_to_its_timeout() -> None:
    room = Room().linked()
    room.script.lost = [room.script.count + 1]
    room.links.hang_up(LOW, HIGH, "enough")
    assert [time for time, node, _ in room.run() if node == HIGH] == [31.0]


def test_who_crashes_tells_nobody_and_hears_nothing() -> None:
    room = Room().linked()
    room.links.send(HIGH, LOW, "in flight", 10)
    room.links.dial(LOW, HIGH)
    room.links.crash(LOW)
    room.links.send(HIGH, LOW, "into the void", 10)
    assert room.run() == []
    assert room.links.linked(HIGH, LOW)
    room.links.start(LOW)
    room.links.dial(LOW, HIGH)
    assert kinds(room.run(200.0)) == [(HIGH, Down), (HIGH, Up), (LOW, Up)]


def test_a_handshake_does_not_outlive_either_node() -> None:
    room = Room()
    room.links.dial(LOW, HIGH)
    room.links.crash(HIGH)
    room.links.start(HIGH)
    assert room.run(4.0) == []
    room.links.dial(LOW, HIGH)
    room.links.crash(HIGH)
    assert room.run(4.5) == []
    room.partition.split([LOW], [HIGH])
    room.links.start(HIGH)
    room.links.dial(LOW, HIGH)
    room.links.crash(LOW)
    assert room.run() == []


def test_two_who_dial_each_other_at_once_keep_the_link_of_the_smaller_id() -> None:
    for first, second in ((LOW, HIGH), (HIGH, LOW)):
        room = Room()
        room.links.dial(first, second)
        room.run(0.05)
        room.links.dial(second, first)
        room.run()
        assert room.links.linked(LOW, HIGH)
        assert room.links.linked(HIGH, LOW)
        room.links.send(LOW, HIGH, "there", 1)
        room.links.send(HIGH, LOW, "back", 1)
        assert sorted(messages(room.run(200.0))) == ["back", "there"]


def test_an_end_that_forgot_its_link_gets_a_new_one_and_a_fresh_link_is_not_replaced() -> None:
    room = Room().linked()
    room.script.lost = [room.script.count + 1]
    room.links.hang_up(HIGH, LOW, "forgotten")
    room.links.dial(HIGH, LOW)
    told = room.run(3.0)
    assert kinds(told) == [(HIGH, Down), (HIGH, Up), (HIGH, Down)], "the link of the smaller id is too young to yield"
    assert "there is a link already" in told[-1][2].reason
    room.run(8.0)
    room.links.dial(HIGH, LOW)
    assert kinds(room.run(9.0)) == [(LOW, Down), (LOW, Up), (HIGH, Up)]
