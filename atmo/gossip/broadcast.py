"""Broadcast, first version: flood to every neighbour, forget duplicates.

Right for meshes of tens of nodes. Plumtree takes this place behind the same methods: what `knows` says yes to is
dropped unread, what was judged is remembered, and only what was accepted is passed on with `forward`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

from blake3 import blake3

from atmo.clock import Now
from atmo.engine import Effect, Outbox, Send
from atmo.gossip.messages import Flood
from atmo.identity import NodeId


@dataclass(frozen=True, slots=True)
class BroadcastConfig:
    """Bounds.

    Attributes:
        seen_entries: Message hashes remembered; the oldest goes first. Source: guess, minutes of traffic of 100 nodes.
    """

    seen_entries: int = 8_192


@dataclass(slots=True)
class BroadcastStats:
    """Counters since start."""

    sent: int = 0
    duplicates: int = 0


class Broadcast:
    """Passes envelopes on, each once."""

    def __init__(self, config: BroadcastConfig) -> None:
        self._config = config
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._neighbours: dict[NodeId, None] = {}
        self._out = Outbox()
        self.stats = BroadcastStats()

    def link_up(self, node: NodeId) -> None:
        """A verified neighbour is there."""
        self._neighbours[node] = None

    def link_down(self, node: NodeId) -> None:
        """A neighbour is gone."""
        self._neighbours.pop(node, None)

    def knows(self, envelope: bytes) -> bool:
        """Says whether this envelope was remembered: there is no need to look at it again."""
        name = _name(envelope)
        if name not in self._seen:
            return False
        self._seen.move_to_end(name)
        self.stats.duplicates += 1
        return True

    def remember(self, envelope: bytes) -> None:
        """Remembers an envelope that was judged for good.

        One that was refused for the moment, because its author or its time is not known yet, may come again.
        """
        self._seen[_name(envelope)] = None
        if len(self._seen) > self._config.seen_entries:
            self._seen.popitem(last=False)

    def forward(self, envelope: bytes, source: NodeId | None) -> None:
        """Sends an accepted envelope to all neighbours but the one it came from."""
        for node in self._neighbours:
            if node != source:
                self._out.put(Send(node, Flood(envelope)))
                self.stats.sent += 1

    def handle_timer(self, now: Now) -> None:
        """Nothing is ever due in this version."""

    def next_timer(self) -> float:
        """Returns `math.inf`."""
        return math.inf

    def drain(self) -> list[Effect]:
        return self._out.drain()


def _name(envelope: bytes) -> bytes:
    return blake3(envelope).digest(16)
