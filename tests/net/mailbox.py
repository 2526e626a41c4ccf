"""The reading half of a UDP socket in memory: what arrived waits in order."""

from __future__ import annotations

from collections import deque

import trio

from atmo.net.quic_core import SocketAddress


class Mailbox:
    """Implements what `DatagramSocket` says of reading; who fills it unparks the readers."""

    _arrived: deque[tuple[bytes, SocketAddress]]
    _readers: trio.lowlevel.ParkingLot

    def recvfrom(self, most: int, /) -> tuple[bytes, SocketAddress]:
        if not self._arrived:
            raise BlockingIOError
        data, source = self._arrived.popleft()
        return data[:most], source

    async def wait_readable(self) -> None:
        if self._arrived:
            await trio.lowlevel.checkpoint()
        else:
            await self._readers.park()

    def close(self) -> None:
        self._arrived.clear()
