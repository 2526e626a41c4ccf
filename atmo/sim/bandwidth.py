"""How fast nodes send and receive: a queue at each end, in which small messages go before bulk.

Neighbour messages wait for each other in a node's uplink and its downlink, and are lost where the queue is too long.
Chunks of models wait for chunks only: on a real line their packets take turns with those of messages, which are few.
"""

from __future__ import annotations

from dataclasses import dataclass

from atmo.identity import NodeId
from atmo.sim.network import LOST


@dataclass(frozen=True, slots=True)
class Line:
    """The connection of one machine.

    Attributes:
        up_bytes_s, down_bytes_s: Bytes per second.
        queue_s: A packet that would wait longer is lost. Source: guess; a home router's queue holds about half a
            second.
    """

    up_bytes_s: float
    down_bytes_s: float
    queue_s: float = 0.5


FIBRE = Line(125e6, 125e6)
"""One gigabit both ways."""

CABLE = Line(5e6, 31e6)
"""40 Mbit/s up, 250 Mbit/s down. Source: guess at a usual home."""

DSL = Line(1.25e6, 6e6)
"""10 Mbit/s up, 50 Mbit/s down. Source: guess at a usual home."""

MOBILE = Line(0.6e6, 3e6, 1.0)
"""5 Mbit/s up, 24 Mbit/s down. Source: guess."""


class _Queue:
    """One direction of all lines: a rule of the network."""

    def __init__(self, lines: Lines, outward: bool) -> None:
        self._lines = lines
        self._outward = outward
        self._free_at: dict[NodeId, float] = {}
        self.on = False

    def route(self, now: float, source: NodeId, target: NodeId, size: int) -> float:
        node = source if self._outward else target
        line = self._lines.of(node)
        free_at = self._free_at.get(node, 0.0)
        waits = free_at - now if free_at > now else 0.0
        if waits > line.queue_s:
            return LOST
        takes = size / (line.up_bytes_s if self._outward else line.down_bytes_s)
        self._free_at[node] = now + waits + takes
        return waits + takes

    def bulk(self, now: float, node: NodeId, size: int) -> float:
        """Returns when `size` bytes are through, after all that came before."""
        line = self._lines.of(node)
        takes = size / (line.up_bytes_s if self._outward else line.down_bytes_s)
        self._free_at[node] = max(now, self._free_at.get(node, 0.0)) + takes
        return self._free_at[node]


class Lines:
    """The lines of all nodes.

    Args:
        usual: Of a node that has none of its own.

    Attributes:
        up: The rule that a packet meets before its way. Messages wait in no queue before some node has a line of its
            own: the usual one is fast.
        down: The rule that it meets after.
    """

    def __init__(self, usual: Line = FIBRE) -> None:
        self._usual = usual
        self._own: dict[NodeId, Line] = {}
        self.up = _Queue(self, outward=True)
        self.down = _Queue(self, outward=False)
        self._bulk_up = _Queue(self, outward=True)
        self._bulk_down = _Queue(self, outward=False)

    def give(self, node: NodeId, line: Line) -> None:
        """Connects a node by another line than the usual one."""
        self._own[node] = line
        self.up.on = self.down.on = True

    def of(self, node: NodeId) -> Line:
        """Returns the line of a node."""
        return self._own.get(node, self._usual)

    def bulk(self, now: float, source: NodeId, target: NodeId, size: int) -> float:
        """Returns when `size` bytes of bulk have left `source` and come in at `target`, their way not counted."""
        sent = self._bulk_up.bulk(now, source, size)
        started = max(now, sent - size / self.of(source).up_bytes_s)
        return max(sent, self._bulk_down.bulk(started, target, size))
