"""When which connection wants to be woken: a heap with at most a few entries of each."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Container

from atmo.net.connection import Connection

_SLACK = 64
"""Entries of connections that are gone wait for so many, or for many times as many as live."""


class Wakeups:
    """The timers of all connections of an endpoint."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Connection]] = []
        self._sequence = itertools.count()

    @property
    def earliest(self) -> float:
        """When the next one is due, `math.inf` where there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def arm(self, connection: Connection) -> None:
        """Sees to it that there is a wake-up no later than the connection's `timer_at`."""
        at, queued = connection.timer_at, connection.queued_timers
        if at < (queued[-1] if queued else math.inf):
            queued.append(at)
            heapq.heappush(self._heap, (at, next(self._sequence), connection))

    def pop_due(self, now: float) -> Connection | None:
        """Takes out the next one that is due; the connection may have moved its timer since."""
        if not self._heap or self._heap[0][0] > now:
            return None
        connection = heapq.heappop(self._heap)[2]
        connection.queued_timers.pop()
        return connection

    def forget_gone(self, alive: Container[Connection], count: int) -> None:
        """Drops entries of connections that are not among the `count` that live, when they have become many."""
        if len(self._heap) > 8 * count + _SLACK:
            self._heap = [each for each in self._heap if each[2] in alive]
            heapq.heapify(self._heap)
