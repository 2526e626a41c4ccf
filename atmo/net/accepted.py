"""The connections from outside that are authenticated and that nobody has taken yet."""

from __future__ import annotations

from collections import deque

import trio

from atmo.net.connection import Connection
from atmo.net.quic_config import EndpointStats


class Accepted:
    """A bounded queue.

    Args:
        most: Connections that may wait.
        stats: Counts.
    """

    def __init__(self, most: int, stats: EndpointStats) -> None:
        self._most = most
        self._stats = stats
        self._queue: deque[Connection] = deque()
        self._acceptable = trio.lowlevel.ParkingLot()

    async def take(self) -> Connection:
        """Waits for the next one that is still open."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            while not self._queue:
                await self._acceptable.park()
            connection = self._queue.popleft()
            if not connection.closed.is_set():
                return connection

    def offer(self, connection: Connection) -> None:
        """Adds one, or closes it where too many wait."""
        if len(self._queue) >= self._most:
            self._stats.refused_full += 1
            connection.close("too many connections wait here")
            return
        self._stats.accepted += 1
        self._queue.append(connection)
        self._acceptable.unpark()

    def clear(self) -> None:
        """Forgets those that wait."""
        self._queue.clear()
