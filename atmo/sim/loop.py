"""Virtual time: a heap of (time, sequence, deed, arguments). What is due at one instant comes in the order it was put.

A deed is called with its arguments when its time has come: no table of kinds of events stands between the heap and who
handles them, since the loop turns tens of thousands of times in a second.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Loop:
    """The one queue of a simulated world.

    Attributes:
        now: Virtual seconds since the world began.
        turns: Deeds that have been done.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.turns = 0
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._sequence = 0

    def put(self, time: float, deed: Callable[..., object], *arguments: Any) -> None:
        """Lets a deed be done at `time`, or now where that is past."""
        self._sequence += 1
        heapq.heappush(self._heap, (time if time > self.now else self.now, self._sequence, deed, arguments))

    def run_until(self, end: float) -> None:
        """Does all that is due up to and at `end`; time stands there afterwards."""
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= end:
            self.now, _, deed, arguments = pop(heap)
            self.turns += 1
            deed(*arguments)
        self.now = end
