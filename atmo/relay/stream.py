"""What is below a WebSocket here: it bounds what trio-websocket does not, pieces of a message and all that is none."""

from __future__ import annotations

import ssl
from typing import Final

import trio
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection
from wsproto.utilities import ProtocolError

from atmo.relay.pace import Pace

RECEIVE_BYTES: Final = 64 * 1024
"""What one read takes at most: a full message in one or two."""

FRAGMENTS_MOST: Final = 4_096
"""Pieces of one message: with 16 bytes each they make the longest. Source: choice; TCP's smallest segments have 536."""

IDLE_BYTES_PER_S: Final = 4_096.0
IDLE_BURST_BYTES: Final = 4.0 * RECEIVE_BYTES
"""Of what is no message: pings, and frames in pieces. A ping of six bytes costs as much as a message of a thousand.

The burst has to hold the messages that one read brings before they are counted."""

_FRAME_BYTES = 14
"""Source: RFC 6455 section 5.2, the longest header of a frame."""

LOST: Final = (ConnectionClosed, HandshakeError, ProtocolError, trio.BrokenResourceError, trio.ClosedResourceError)
"""What trio-websocket and streams raise when the other end is gone or speaks no WebSocket."""

UNREACHED: Final = (*LOST, OSError, ssl.SSLError)


class GuardedStream(trio.abc.Stream):
    """A stream that remembers when it last brought something (`heard`) and whether it has `ended`.

    Args:
        stream: The one below.
        budget_bytes: What it may bring until `trust` is called; then it counts as broken.
        first: Bytes that were read from it already, and come again.
    """

    def __init__(self, stream: trio.abc.Stream, budget_bytes: int, first: bytes = b"") -> None:
        self._stream = stream
        self._first = first
        self._budget: int | None = budget_bytes
        self.heard = trio.current_time()
        self._pace = Pace(IDLE_BYTES_PER_S, IDLE_BURST_BYTES, self.heard)
        self._wait_s = 0.0
        self._socket: WebSocketConnection | None = None
        self.ended = trio.Event()

    def watch(self, socket: WebSocketConnection) -> None:
        """Bounds in how many fragments a message of `socket`, which reads this stream, may come.

        trio-websocket bounds the bytes of a message only, and keeps empty fragments without end.
        """
        self._socket = socket

    def trust(self) -> None:
        """Lifts the budget: the other end has proved who it is."""
        self._budget = None

    def took(self, message_bytes: int) -> None:
        """A whole message of so many bytes was taken out; what is no message is read slowly."""
        self._pace.credit(message_bytes + _FRAME_BYTES)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """See `trio.abc.ReceiveStream`.

        Raises:
            trio.BrokenResourceError: Also where it brings more than it may, or a message in too many fragments.
        """
        if self._first:
            await trio.lowlevel.checkpoint()
            data, self._first = self._first, b""
        else:
            if self._socket is not None and len(self._socket._message_parts) > FRAGMENTS_MOST:
                raise trio.BrokenResourceError(f"a message in more than {FRAGMENTS_MOST} fragments")
            if self._wait_s:
                await trio.sleep(self._wait_s)
            data = bytes(await self._stream.receive_some(max_bytes))
        if not data:
            self.ended.set()
        self.heard = trio.current_time()
        self._wait_s = self._pace.charge(self.heard, len(data))
        if self._budget is not None:
            self._budget -= len(data)
            if self._budget < 0:
                raise trio.BrokenResourceError("too many bytes before the other end proved who it is")
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See `trio.abc.SendStream`."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """See `trio.abc.SendStream`."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """See `trio.abc.AsyncResource`."""
        await self._stream.aclose()
