"""How many bytes a second went by lately."""

from __future__ import annotations

from collections import deque

STEP_S = 0.5
LEAST_S = 2.0
"""A rate is measured over so long at least: what comes at once at the beginning is no rate."""

STEPS = 10
"""A rate is that of the last five seconds. Source: guess; less jumps with every chunk, more is old news."""


class Meter:
    """Counts bytes over the last seconds."""

    def __init__(self) -> None:
        self._steps: deque[list[float]] = deque(maxlen=STEPS)  # [number of the step, bytes in it]
        self._since: float | None = None

    def add(self, now: float, size: int) -> None:
        """So many bytes went by."""
        if self._since is None:
            self._since = now
        number = now // STEP_S
        if self._steps and self._steps[-1][0] == number:
            self._steps[-1][1] += size
        else:
            self._steps.append([number, size])

    def rate(self, now: float) -> float:
        """Returns bytes per second."""
        if self._since is None:
            return 0.0
        first = now // STEP_S - STEPS + 1
        counted = sum(size for number, size in self._steps if number >= first)
        return counted / max(LEAST_S, min(now - self._since, now - first * STEP_S))
