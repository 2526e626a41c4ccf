"""The bytes of one client: what it sent and nobody used yet, what it is sent, and whether it is still there."""

from __future__ import annotations

import socket
from collections.abc import Callable

import trio
from trio.lowlevel import ParkingLot, checkpoint, checkpoint_if_cancelled, notify_closing, wait_readable, wait_writable

RECEIVE_BYTES = 64 * 1024
FAIR_S = 0.005
"""A task that writes and writes, and never has to wait for anything, lets others run so often. Source: guess."""


class Wire:
    """A client's socket. One task reads ahead all the time, so that a client that leaves is noticed at once.

    Args:
        sock: Not blocking.
        ahead_bytes: Beyond so much that nobody used, no more is read.
        stall_s: A client that takes nothing for so long is given up.

    Attributes:
        data: What came and was not used.
        gone: The client has closed its end, or the connection broke.
        on_gone: Called once when that happens.
    """

    def __init__(self, sock: socket.socket, ahead_bytes: int, stall_s: float) -> None:
        self.data = b""
        self.gone = False
        self.on_gone: Callable[[], object] | None = None
        self._sock = sock
        self._ahead_bytes = ahead_bytes
        self._stall_s = stall_s
        self._came = ParkingLot()
        self._used = ParkingLot()
        self._left = ParkingLot()
        self._yield_at = 0.0

    async def read(self) -> None:
        """Reads until the client is gone."""
        sock = self._sock
        while not self.gone:
            while len(self.data) >= self._ahead_bytes and not self.gone:
                await self._used.park()
            try:
                await wait_readable(sock)
                piece = sock.recv(RECEIVE_BYTES)
            except BlockingIOError:
                continue
            except (OSError, trio.ClosedResourceError):
                piece = b""
            if not piece:
                self.lost()
                return
            self.data = self.data + piece if self.data else piece
            self._came.unpark_all()

    def lost(self) -> None:
        """Notes that the client is gone, and wakes whoever waits for it."""
        if self.gone:
            return
        self.gone = True
        for lot in (self._came, self._used, self._left):
            lot.unpark_all()
        notify_closing(self._sock)
        on_gone, self.on_gone = self.on_gone, None
        if on_gone is not None:
            on_gone()

    async def more(self) -> bool:
        """Waits until more has come than is there; False where the client is gone and nothing came."""
        if self.gone:
            return False
        before = len(self.data)
        await self._came.park()
        return len(self.data) > before

    def take(self, most: int | None = None) -> bytes:
        """Returns what is there, `most` bytes of it."""
        data = self.data
        if most is None or most >= len(data):
            self.data = b""
        else:
            data, self.data = data[:most], data[most:]
        self._used.unpark_all()
        return data

    async def until_gone(self, over: Callable[[], bool]) -> None:
        """Returns when the client is gone, or `over` when `nudge` is called."""
        while not self.gone and not over():
            await self._left.park()

    def nudge(self) -> None:
        """Has those look again who wait in `until_gone`."""
        self._left.unpark_all()

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Sends everything; what a client that is gone would have got is dropped."""
        if self.gone:
            await checkpoint()
            return
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.lost()
            await checkpoint()
            return
        if sent < len(data):
            await self._write_rest(memoryview(data)[sent:])
            return
        now = trio.current_time()
        if now < self._yield_at:
            await checkpoint_if_cancelled()
        else:
            self._yield_at = now + FAIR_S
            await checkpoint()

    async def _write_rest(self, rest: memoryview) -> None:
        while rest:
            with trio.move_on_after(self._stall_s) as late:
                try:
                    await wait_writable(self._sock)
                    rest = rest[self._sock.send(rest) :]
                except BlockingIOError:
                    continue
                except (OSError, trio.ClosedResourceError):
                    self.lost()
                    return
            if late.cancelled_caught:
                self.lost()
                return

    async def linger(self, seconds: float) -> None:
        """Ends our direction and drops what the client is still sending, so that it gets to read its answer."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            return
        with trio.move_on_after(seconds):
            while not self.gone:
                self.take()
                await self.more()
