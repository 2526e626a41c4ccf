"""A gate with a number of places: who finds none waits, the more urgent first and among equals who came first."""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import trio


class Gate:
    """Places for jobs that should not all run at once.

    Args:
        places: How many there are.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._queue: list[tuple[int, int, trio.Event]] = []
        self._order = count()

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return len(self._queue)

    @property
    def has_room(self) -> bool:
        """Whether a place can be had at once."""
        return self._free > 0

    @asynccontextmanager
    async def place(self, rank: int) -> AsyncIterator[None]:
        """Holds a place for as long as the block runs; lower ranks come first."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._free:
            self._free -= 1
        else:
            await self._wait(rank)
        try:
            yield
        finally:
            self._give()

    async def _wait(self, rank: int) -> None:
        entry = (rank, next(self._order), trio.Event())
        heapq.heappush(self._queue, entry)
        try:
            await entry[2].wait()
        except trio.Cancelled:
            if entry[2].is_set():
                self._give()
            else:
                self._queue.remove(entry)
                heapq.heapify(self._queue)
            raise

    def _give(self) -> None:
        if self._queue:
            heapq.heappop(self._queue)[2].set()
        else:
            self._free += 1
