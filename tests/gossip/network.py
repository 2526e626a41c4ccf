"""Networks of gossip engines without a peer: in virtual time from a seed, or step by step for state machines."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from atmo.clock import Now
from atmo.engine import Effect, Engine, Send
from atmo.identity import NodeId
from tests.gossip.kit import at


def node_id(number: int) -> NodeId:
    """Returns an id; those of different numbers spread over all prefixes."""
    return NodeId(Random(f"node {number}").randbytes(32))


@dataclass(slots=True)
class Host:
    """One node.

    Attributes:
        engine: Fed and drained.
        receive: Takes a message in.
        links: Its neighbours, with the seconds of one way.
        timer_at: When it is woken.
    """

    engine: Engine
    receive: Callable[[Now, NodeId, Any], None]
    links: dict[NodeId, float] = field(default_factory=dict)
    timer_at: float = math.inf


@dataclass(frozen=True, slots=True)
class Sent:
    """A message on its way."""

    at: float
    source: NodeId
    to: NodeId
    message: Any


class Net:
    """Hosts that exchange messages over links with latency; links lose nothing, as QUIC's do not.

    Args:
        seed: Of the latencies.
        one_way_s: The shortest and the longest one. Source: half of the round trips in ../shared/data/city-rtt.csv.
        late: Share of messages that come a retransmission later.
    """

    def __init__(self, seed: str, one_way_s: tuple[float, float] = (0.005, 0.16), late: float = 0.0) -> None:
        self._rng = Random(seed)
        self._one_way_s = one_way_s
        self._late = late
        self._heap: list[tuple[float, int, NodeId, Sent | None]] = []
        self._counter = 0
        self.now = 0.0
        self.hosts: dict[NodeId, Host] = {}
        self.sent: list[Sent] = []
        self.other: list[Effect] = []

    def link(self, one: NodeId, two: NodeId) -> None:
        """Connects two nodes; their engines are told by the caller."""
        latency = self._rng.uniform(*self._one_way_s)
        self.hosts[one].links[two] = self.hosts[two].links[one] = latency

    def remove(self, node: NodeId) -> None:
        """Takes a node and its links out."""
        for other in self.hosts.pop(node).links:
            del self.hosts[other].links[node]

    def settle(self, node: NodeId) -> None:
        """Performs the effects of one node and notes when it wants to be woken."""
        host = self.hosts[node]
        for effect in host.engine.drain():
            if not isinstance(effect, Send):
                self.other.append(effect)
            elif effect.to in host.links:
                self._send(Sent(self.now, node, effect.to, effect.message), host.links[effect.to])
        due = host.engine.next_timer()
        if due < host.timer_at:
            host.timer_at = due
            self._push(max(due, self.now), node, None)

    def _send(self, sent: Sent, delay: float) -> None:
        self.sent.append(sent)
        while self._rng.random() < self._late:
            delay += 0.2
        self._push(self.now + delay, sent.to, sent)

    def _push(self, when: float, node: NodeId, sent: Sent | None) -> None:
        self._counter += 1
        heapq.heappush(self._heap, (when, self._counter, node, sent))

    def run(self, until: float) -> None:
        """Lets time pass."""
        while self._heap and self._heap[0][0] <= until:
            when, _, node, sent = heapq.heappop(self._heap)
            self.now = max(self.now, when)
            host = self.hosts.get(node)
            if host is None:
                continue
            if sent is None:
                if when < host.timer_at:
                    continue  # it was woken in the meantime
                host.timer_at = math.inf
                host.engine.handle_timer(at(self.now))
            elif sent.source in host.links:
                host.receive(at(self.now), sent.source, sent.message)
            self.settle(node)
        self.now = max(self.now, until)


def random_links(nodes: Sequence[NodeId], degree: int, rng: Random) -> list[tuple[NodeId, NodeId]]:
    """Returns the links of a connected graph of about this degree: a ring and random chords."""
    order = list(nodes)
    rng.shuffle(order)
    links: dict[tuple[NodeId, NodeId], None] = {}
    for one, two in zip(order, [*order[1:], order[0]], strict=True):
        links[min(one, two), max(one, two)] = None
    ends = [node for node in nodes for _ in range(degree - 2)]
    rng.shuffle(ends)
    for one, two in zip(ends[::2], ends[1::2], strict=False):
        if one != two:
            links[min(one, two), max(one, two)] = None
    return list(links)


class Wires:
    """Links whose messages are under way until somebody delivers, copies or drops them, in any order."""

    def __init__(self) -> None:
        self._flying: list[Sent] = []
        self._links: dict[tuple[NodeId, NodeId], None] = {}

    def __len__(self) -> int:
        return len(self._flying)

    def are_linked(self, one: NodeId, two: NodeId) -> bool:
        """Says whether there is a link."""
        return (one, two) in self._links

    def neighbours(self, node: NodeId) -> list[NodeId]:
        """Returns who is linked to a node."""
        return [two for one, two in self._links if one == node]

    def up(self, one: NodeId, two: NodeId) -> None:
        """Makes a link."""
        self._links[one, two] = self._links[two, one] = None

    def down(self, one: NodeId, two: NodeId) -> None:
        """Cuts a link; what is under way is lost."""
        del self._links[one, two], self._links[two, one]
        self._flying = [sent for sent in self._flying if {sent.source, sent.to} != {one, two}]

    def send(self, source: NodeId, effect: Send) -> None:
        """Puts a message on its way where there is a link."""
        if self.are_linked(source, effect.to):
            self._flying.append(Sent(0.0, source, effect.to, effect.message))

    def take(self, pick: int, *, copy: bool = False) -> Sent:
        """Returns one of the messages under way, which stays there where it is copied."""
        place = pick % len(self._flying)
        return self._flying[place] if copy else self._flying.pop(place)
