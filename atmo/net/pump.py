"""The task of an endpoint that serves its connections: those whose timer is due, and those that have something to send.

It sleeps until the earliest timer, or until a task has written something, and then serves exactly the connections
concerned.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import trio

from atmo.net.connection import Connection
from atmo.net.wakeups import Wakeups


class Pump:
    """Wakes for connections.

    Args:
        connections: Those that live.
        serve: Hands on what happened to one, and transmits.
    """

    def __init__(self, connections: Collection[Connection], serve: Callable[[Connection, float], None]) -> None:
        self.wakeups = Wakeups()
        self._connections = connections
        self._serve = serve
        self._dirty: dict[Connection, None] = {}
        self._idle = trio.lowlevel.ParkingLot()
        self._sleep = trio.CancelScope()

    async def run(self) -> None:
        """Fires timers when they are due and transmits for tasks that wrote, until cancelled."""
        while True:
            with trio.CancelScope() as self._sleep:
                self._sleep.deadline = self.wakeups.earliest
                if not self._dirty:
                    await self._idle.park()
            # The tasks that were woken together with this one run first, so that what they write goes out in one go.
            await trio.lowlevel.cancel_shielded_checkpoint()
            now = trio.current_time()
            self._fire_timers(now)
            dirty, self._dirty = self._dirty, {}
            for connection in dirty:
                if connection in self._connections:
                    self._serve(connection, now)

    def _fire_timers(self, now: float) -> None:
        while (connection := self.wakeups.pop_due(now)) is not None:
            if connection not in self._connections:
                continue
            if connection.timer_at <= now:
                connection.on_timer(now)
                self._dirty[connection] = None
            else:
                self.arm(connection)

    def arm(self, connection: Connection) -> None:
        """Sees to it that it wakes in time for a connection."""
        self.wakeups.arm(connection)
        self._sleep.deadline = min(self._sleep.deadline, self.wakeups.earliest)

    def touch(self, connection: Connection) -> None:
        """A connection is to be served soon."""
        if not self._dirty:
            self._idle.unpark_all()
        self._dirty[connection] = None

    def forget(self, connection: Connection) -> None:
        """A connection lives no more."""
        self._dirty.pop(connection, None)
        self.wakeups.forget_gone(self._connections, len(self._connections))
