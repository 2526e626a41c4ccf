"""What HyParView has under way: dials, and requests to be neighbours; and how long to wait after those in vain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from atmo.gossip.hyparview_config import HyParViewConfig
from atmo.identity import NodeId

_IN_VAIN_MOST = 16  # two to this many times the shortest pause is longer than the longest


@dataclass(slots=True)
class Attempt:
    """A dial, or a request to be neighbours.

    Attributes:
        ends: Monotonic seconds at which it has failed.
        slow: Monotonic seconds from which another is made beside it.
        heal: It is to a node that was believed to be gone.
    """

    ends: float
    slow: float
    heal: bool


class Attempts:
    """Dials and requests without an outcome.

    Args:
        config: Periods and bounds.
        rng: Spreads the waits.
    """

    def __init__(self, config: HyParViewConfig, rng: Random) -> None:
        self._config = config
        self._rng = rng
        self._in_vain = 0  # in a row
        self.dialling: dict[NodeId, Attempt] = {}
        self.asked: dict[NodeId, Attempt] = {}
        self.paused = -math.inf  # no other attempt before this, unless there is no neighbour at all
        self.next_end = math.inf  # nothing ends or becomes slow before this

    def dial(self, now_s: float, node: NodeId, heal: bool) -> None:
        """A dial begins."""
        slow = now_s + self._config.slow_s
        self.dialling[node] = Attempt(now_s + self._config.dial_s, slow, heal)
        self.next_end = min(self.next_end, slow)

    def ask(self, now_s: float, node: NodeId, heal: bool) -> None:
        """A linked node is asked to be a neighbour."""
        ends = now_s + self._config.answer_s
        self.asked[node] = Attempt(ends, math.inf, heal)
        self.next_end = min(self.next_end, ends)

    def forget(self, node: NodeId) -> None:
        """Whatever comes of a node does not matter any more."""
        self.dialling.pop(node, None)
        self.asked.pop(node, None)

    def clear(self) -> None:
        """Nothing matters any more."""
        self.dialling.clear()
        self.asked.clear()
        self.next_end = math.inf

    def young(self) -> int:
        """Returns the number of dials that are not slow yet."""
        return sum(attempt.slow < math.inf for attempt in self.dialling.values())

    def overdue(self, now_s: float) -> tuple[list[NodeId], list[NodeId]]:
        """Returns whose dials and whose answers are overdue; the caller ends them. Marks the slow dials."""
        for attempt in self.dialling.values():
            if now_s >= attempt.slow:
                attempt.slow = math.inf
        dials = [node for node, attempt in self.dialling.items() if now_s >= attempt.ends]
        asks = [node for node, attempt in self.asked.items() if now_s >= attempt.ends]
        self.next_end = math.inf
        for attempt in (*self.asked.values(), *self.dialling.values()):
            if now_s < attempt.ends:
                self.next_end = min(self.next_end, attempt.ends, attempt.slow)
        return dials, asks

    def failed(self, now_s: float) -> None:
        """One was in vain: the next one waits a little, longer each time."""
        self._in_vain = min(self._in_vain + 1, _IN_VAIN_MOST)
        pause_s = min(self._config.pause_s * 2.0**self._in_vain, self._config.pause_most_s)
        self.paused = now_s + pause_s * self._rng.uniform(0.5, 1.5)

    def hopeful(self, now_s: float) -> None:
        """One succeeded, or there is somebody new to try: there is nothing to wait for."""
        self._in_vain = 0
        self.paused = now_s
