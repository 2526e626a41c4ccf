"""What becomes of a packet: ordered rules, of which the first that does not pass decides.

Links are reliable streams, as QUIC gives them: `sim.links` sends a dropped packet again, so that loss shows as delay,
and cuts a link that gets nothing across.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from atmo.identity import NodeId
from atmo.sim.streams import Streams


@dataclass(frozen=True, slots=True)
class Pass:
    """This rule has nothing to say."""


@dataclass(frozen=True, slots=True)
class Deliver:
    """The packet arrives after `delay_s`."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Drop:
    """The packet is lost."""

    reason: str


Fate = Pass | Deliver | Drop
PASS = Pass()


class Rule(Protocol):
    """One property of the network."""

    def route(self, now: float, source: NodeId, target: NodeId, size: int) -> Fate:
        """Says what becomes of `size` bytes sent at `now` virtual seconds."""


class Latency:
    """Every packet arrives, after a time that belongs to its pair of nodes and some jitter.

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

    def route(self, now: float, source: NodeId, target: NodeId, size: int) -> Fate:
        pair = (source, target) if source < target else (target, source)
        base = self._pairs.get(pair)
        if base is None:
            drawn = self._streams.of(pair[0], f"latency/{pair[1]}").uniform(self._least_s, self._most_s)
            base = self._pairs[pair] = drawn
        jitter = self._streams.of(source, "jitter").uniform(0.0, self._jitter_s) if self._jitter_s else 0.0
        return Deliver(base + jitter)


class Loss:
    """Every packet is lost with the same probability.

    Args:
        streams: Of the world.
        rate: From 0 to 1.
    """

    def __init__(self, streams: Streams, rate: float) -> None:
        self._streams = streams
        self.rate = rate

    def route(self, now: float, source: NodeId, target: NodeId, size: int) -> Fate:
        if self.rate and self._streams.of(source, "loss").random() < self.rate:
            return Drop("loss")
        return PASS


class Partition:
    """Nodes of different sides do not reach each other while it lasts; who is on no side reaches everyone."""

    def __init__(self) -> None:
        self._sides: Mapping[NodeId, int] = {}

    def split(self, *sides: Sequence[NodeId]) -> None:
        """Begins a partition, in place of the one before."""
        self._sides = {node: number for number, side in enumerate(sides) for node in side}

    def heal(self) -> None:
        """Ends it."""
        self._sides = {}

    def route(self, now: float, source: NodeId, target: NodeId, size: int) -> Fate:
        mine, theirs = self._sides.get(source), self._sides.get(target)
        if mine is not None and theirs is not None and mine != theirs:
            return Drop("partition")
        return PASS


class Network:
    """The rules of a world, in order; where none decides, a packet arrives at once.

    Args:
        rules: The first that answers `Deliver` or `Drop` decides.
    """

    def __init__(self, *rules: Rule) -> None:
        self.rules = list(rules)

    def route(self, now: float, source: NodeId, target: NodeId, size: int) -> Deliver | Drop:
        """Says what becomes of a packet."""
        for rule in self.rules:
            fate = rule.route(now, source, target, size)
            if not isinstance(fate, Pass):
                return fate
        return Deliver(0.0)
