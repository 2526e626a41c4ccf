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
    """One direction of all lines: a rule of the network.

    It knows how much work waits, not until when the line is taken: what one node sends or gets is told of here out of
    order, and what begins late must not hold up what is there before it.
    """

    def __init__(self, lines: Lines, outward: bool) -> None:
        self._lines = lines
        self._outward = outward
        self._work: dict[NodeId, tuple[float, float]] = {}  # the latest time it was told of, and seconds of work then
        self.on = False

    def route(self, now: float, source: NodeId, target: NodeId, size: int) -> float:
        node = source if self._outward else target
        waits = self._waits(now, node)
        return LOST if waits > self._lines.of(node).queue_s else self._put(now, node, waits, size)

    def bulk(self, now: float, node: NodeId, size: int) -> float:
        """Returns when `size` bytes are through that get here at `now`."""
        return now + self._put(now, node, self._waits(now, node), size)

    def _waits(self, now: float, node: NodeId) -> float:
        told_at, work = self._work.get(node, (now, 0.0))
        return max(0.0, work - max(0.0, now - told_at))

    def _put(self, now: float, node: NodeId, waits: float, size: int) -> float:
        line = self._lines.of(node)
        told_at, _ = self._work.get(node, (now, 0.0))
        work = waits + size / (line.up_bytes_s if self._outward else line.down_bytes_s)
        self._work[node] = (max(now, told_at), work)
        return work


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

    def send_bulk(self, now: float, source: NodeId, size: int) -> tuple[float, float]:
        """Returns when the first and the last of `size` bytes of bulk leave a node."""
        sent = self._bulk_up.bulk(now, source, size)
        return sent - size / self.of(source).up_bytes_s, sent

    def take_bulk(self, now: float, target: NodeId, size: int) -> float:
        """Returns when `size` bytes of bulk have come in at a node, the first of which is there at `now`.

        It must be asked at that time: what began to come earlier comes first.
        """
        return self._bulk_down.bulk(now, target, size)
