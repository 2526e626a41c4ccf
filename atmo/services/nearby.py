"""Whom of those that are said to be on this LAN a node dials, and when: a policy without I/O."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from atmo.identity import NodeId


@dataclass(frozen=True, slots=True)
class NearbyConfig:
    """Bounds and times.

    Attributes:
        enough: With fewer neighbours than this a node dials every member that is near, with as many only those whom it
            believes to be away or does not know: so that two halves of a mesh on one LAN meet. Source: guess; HyParView
            finds more by itself as soon as it has one.
        burst: Dials at once. Source: guess.
        every_s: One more dial after each of these. Source: guess: somebody who invents adverts gets 12 dials a minute
            out of a node, each of at most 5 seconds to machines of the LAN.
        yield_s: Of two nodes that hear of each other the one with the larger id waits so long for the other's dial.
            Source: guess; a dial on a LAN takes some milliseconds.
        again_s: After a dial; doubled with each in a row that led to no link. Source: guess.
        again_most_s: At most. Source: guess.
    """

    enough: int = 3
    burst: int = 4
    every_s: float = 5.0
    yield_s: float = 1.0
    again_s: float = 10.0
    again_most_s: float = 600.0


@dataclass(slots=True)
class _Try:
    count: int
    at: float


class Nearby:
    """Says whom to dial. All times are monotonic seconds.

    Args:
        config: Bounds and times.
        own: This node.

    Attributes:
        enough: Neighbours; see `NearbyConfig`.
    """

    def __init__(self, config: NearbyConfig, own: NodeId) -> None:
        self.enough = config.enough
        self._config = config
        self._own = own
        self._tries: dict[NodeId, _Try] = {}
        self._tokens = float(config.burst)
        self._filled_at = -math.inf

    def due(
        self, now: float, wanted: Iterable[NodeId], linked: Collection[NodeId], there: Collection[NodeId]
    ) -> list[NodeId]:
        """Returns whom to dial now; they count as dialled.

        Args:
            now: The time.
            wanted: Whom a link is wanted to, the most welcome first; without those that are linked.
            linked: Who is linked: their failures are forgotten.
            there: Of whom there is an advert; nobody else is remembered.
        """
        config = self._config
        self._tries = {node: old for node, old in self._tries.items() if node in there and node not in linked}
        self._tokens = min(float(config.burst), self._tokens + (now - self._filled_at) / config.every_s)
        self._filled_at = now
        dials = []
        for node in wanted:
            wait = 0.0 if self._own < node else config.yield_s
            entry = self._tries.setdefault(node, _Try(0, now + wait))
            if entry.at <= now and self._tokens >= 1.0:
                self._tokens -= 1.0
                entry.at = now + min(config.again_s * 2.0**entry.count, config.again_most_s)
                entry.count = min(entry.count + 1, 32)
                dials.append(node)
        return dials

    def next_due(self, wanted: Iterable[NodeId]) -> float:
        """Returns when `due` may have something to say; infinite where nobody is wanted."""
        first = min((self._tries[node].at for node in wanted if node in self._tries), default=math.inf)
        token = self._filled_at + max(0.0, 1.0 - self._tokens) * self._config.every_s
        return max(first, token)
