"""Virtual time: a heap of (time, sequence, node, input). What is due at one instant comes in the order it was put."""

from __future__ import annotations

import heapq
import math
from typing import Any

from atmo.identity import NodeId


class Loop:
    """The one queue of a simulated world.

    Attributes:
        now: Virtual seconds since the world began.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, NodeId, Any]] = []
        self._sequence = 0

    def put(self, time: float, node: NodeId, event: Any) -> None:
        """Lets `event` happen to `node` at `time`, or now where that is past."""
        self._sequence += 1
        heapq.heappush(self._heap, (max(time, self.now), self._sequence, node, event))

    def next_time(self) -> float:
        """Returns when the next input is due, `math.inf` when there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def pop(self) -> tuple[NodeId, Any]:
        """Moves time to the next input and returns it."""
        self.now, _, node, event = heapq.heappop(self._heap)
        return node, event
