"""What becomes of a packet: rules in the order in which it meets them on its way, of which each adds to its delay.

`route` of a rule returns seconds, and `LOST` where the packet ends there. The delays of an uplink, of a distance and of
a downlink add up, which a rule that decides alone could not say; and a float costs nothing where an object for each
packet would cost more than all the rules together.

Links are reliable streams, as QUIC gives them: `sim.links` sends a lost packet again, so that loss shows as delay, and
cuts a link that gets nothing across.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from atmo.identity import NodeId
from atmo.sim.cities import CITIES, RTT_MS
from atmo.sim.streams import Streams

LOST: Final = math.inf
"""The delay of a packet that does not arrive."""

PACKET_BYTES: Final = 1_200
"""UDP payload of one packet. Source: `net.quic_config`."""


class Rule(Protocol):
    """One property of the network.

    Attributes:
        on: Whether it can say anything but 0.0 now: the others are not asked.
    """

    on: bool

    def route(self, now: float, source: NodeId, target: NodeId, size: int) -> float:
        """Returns the seconds that this rule adds to the way of `size` bytes, or `LOST`.

        Args:
            now: Virtual seconds at which the packet gets as far as this rule.
            source, target: Whose it is and for whom.
            size: Bytes on the wire.
        """


class Latency:
    """Every packet takes a time that belongs to its pair of nodes and some jitter.

    Args:
        streams: Of the world.
        least_s, most_s: One-way delays of pairs are spread evenly between these, the same in both directions.
        jitter_s: Up to this much is added to each packet.
    """

    def __init__(self, streams: Streams, least_s: float, most_s: float, jitter_s: float = 0.0) -> None:
        self._streams = streams
        self._least_s = least_s
        self._most_s = most_s
        self._jitter_s = jitter_s
        self._pairs: dict[tuple[NodeId, NodeId], float] = {}
        self.on = True

    def route(self, now: float, source: NodeId, target: NodeId, size: int) -> float:
        pair = (source, target) if source < target else (target, source)
        base = self._pairs.get(pair)
        if base is None:
            drawn = self._streams.fixed("latency", *pair)
            base = self._pairs[pair] = self._least_s + (self._most_s - self._least_s) * drawn
        if self._jitter_s:
            return base + self._streams.of(source, "jitter").random() * self._jitter_s
        return base


class CityLatency:
    """Nodes live in ten cities whose distances were measured (`sim.cities`); half a round trip each way.

    Args:
        streams: Of the world; draws each node's city and its way to the backbone.
        access_s: The way from a node to its city's backbone, spread evenly up to this. Source: guess; within one city
            2.2 ms were measured at most.
        jitter_s: Mean of what is added to each packet, exponentially distributed: mostly little, seldom much. Source:
            guess.
    """

    def __init__(self, streams: Streams, access_s: float = 0.002, jitter_s: float = 0.001) -> None:
        self._streams = streams
        self._access_s = access_s
        self._jitter_s = jitter_s
        self._places: dict[NodeId, tuple[int, float]] = {}
        self._ways = tuple(tuple(rtt / 2_000 for rtt in row) for row in RTT_MS)
        self._draw = streams.shared("jitter").random
        self.on = True

    def place(self, node: NodeId, city: str) -> None:
        """Puts a node in a city, in place of the one that it would draw."""
        self._places[node] = (CITIES.index(city), self._access(node))

    def city(self, node: NodeId) -> str:
        """Returns where a node lives."""
        return CITIES[self._place(node)[0]]

    def route(self, now: float, source: NodeId, target: NodeId, size: int) -> float:
        places = self._places
        here = places.get(source) or self._place(source)
        there = places.get(target) or self._place(target)
        delay = self._ways[here[0]][there[0]] + here[1] + there[1]
        return delay - math.log(1.0 - self._draw()) * self._jitter_s

    def _place(self, node: NodeId) -> tuple[int, float]:
        place = self._places.get(node)
        if place is None:
            drawn = int(self._streams.fixed("city", node) * len(CITIES))
            place = self._places[node] = (drawn, self._access(node))
        return place

    def _access(self, node: NodeId) -> float:
        return self._streams.fixed("access", node) * self._access_s


class Loss:
    """Every packet is lost with the same probability, each for itself.

    Args:
        streams: Of the world.
        rate: From 0 to 1.
    """

    def __init__(self, streams: Streams, rate: float) -> None:
        self._draw = streams.shared("loss").random
        self.set_rate(rate)

    def set_rate(self, rate: float) -> None:
        """Changes it."""
        self.rate = rate
        self.on = rate > 0.0

    def route(self, now: float, source: NodeId, target: NodeId, size: int) -> float:
        return LOST if self._draw() < self.rate else 0.0


class Reordering:
    """Some packets take a longer way, so that later ones overtake them.

    A stream hands out its bytes in order: there a late packet holds up what was sent after it.

    Args:
        streams: Of the world.
        rate: Share of packets.
        by_s: How much longer their way is, spread evenly up to this.
    """

    def __init__(self, streams: Streams, rate: float, by_s: float) -> None:
        self._draw = streams.shared("reordering").random
        self._rate = rate
        self._by_s = by_s
        self.on = rate > 0.0

    def route(self, now: float, source: NodeId, target: NodeId, size: int) -> float:
        return self._draw() * self._by_s if self._draw() < self._rate else 0.0


class Duplication:
    """Some packets come twice. QUIC drops the second one: it costs bytes and time at the receiver, no more.

    Args:
        streams: Of the world.
        rate: Share of packets.
        later: The rules that the copy meets again, such as the receiver's downlink.
    """

    def __init__(self, streams: Streams, rate: float, later: Sequence[Rule] = ()) -> None:
        self._draw = streams.shared("duplication").random
        self._later = later
        self._rate = rate
        self.on = rate > 0.0
        self.copies = 0

    def route(self, now: float, source: NodeId, target: NodeId, size: int) -> float:
        if self._draw() < self._rate:
            self.copies += 1
            for rule in self._later:
                rule.route(now, source, target, size)
        return 0.0


class Partition:
    """Nodes of different sides do not reach each other while it lasts; who is on no side reaches everyone."""

    def __init__(self) -> None:
        self._sides: Mapping[NodeId, int] = {}
        self.on = False

    def split(self, *sides: Sequence[NodeId]) -> None:
        """Begins a partition, in place of the one before."""
        self._sides = {node: number for number, side in enumerate(sides) for node in side}
        self.on = True

    def heal(self) -> None:
        """Ends it."""
        self._sides = {}
        self.on = False

    def route(self, now: float, source: NodeId, target: NodeId, size: int) -> float:
        mine, theirs = self._sides.get(source), self._sides.get(target)
        return LOST if mine is not None and theirs is not None and mine != theirs else 0.0


class OneWay:
    """Asymmetric links: what some nodes send to some others does not arrive, while the other direction works.

    Args:
        streams: Of the world; draws who does not reach whom.
        share: Of all ordered pairs.
    """

    def __init__(self, streams: Streams | None = None, share: float = 0.0) -> None:
        self._streams = streams
        self._share = share
        self._drawn: dict[tuple[NodeId, NodeId], bool] = {}
        self._cut: dict[tuple[NodeId, NodeId], None] = {}
        self.on = share > 0.0

    def cut(self, source: NodeId, target: NodeId) -> None:
        """From now on nothing of `source` reaches `target`."""
        self._cut[source, target] = None
        self.on = True

    def heal(self) -> None:
        """Everything arrives again."""
        self._cut.clear()
        self._share = 0.0
        self.on = False

    def route(self, now: float, source: NodeId, target: NodeId, size: int) -> float:
        if (source, target) in self._cut or (self._share and self._is_drawn(source, target)):
            return LOST
        return 0.0

    def _is_drawn(self, source: NodeId, target: NodeId) -> bool:
        drawn = self._drawn.get((source, target))
        if drawn is None:
            assert self._streams is not None, "a share is drawn from the streams of a world"
            drawn = self._streams.fixed("one-way", source, target) < self._share
            self._drawn[source, target] = drawn
        return drawn


class Network:
    """The rules of a world, in the order in which a packet meets them; without any it arrives at once.

    Args:
        rules: Such as a partition, an uplink, a distance, a downlink.
    """

    def __init__(self, *rules: Rule) -> None:
        self._rules = rules

    def route(self, now: float, source: NodeId, target: NodeId, size: int) -> float:
        """Returns after how many seconds a packet arrives, `LOST` where it never does."""
        delay = 0.0
        for rule in self._rules:
            if rule.on:
                delay += rule.route(now + delay, source, target, size)
                if delay == LOST:
                    return LOST
        return delay
