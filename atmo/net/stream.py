"""One QUIC stream as tasks use it: bytes both ways, with back-pressure both ways.

What arrives is put into the stream's buffer and wakes its reader; credit goes back when the reader takes it. A writer
waits while aioquic still holds too much of what it wrote. The connection hands events on and wakes the writers.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

import trio
from aioquic.quic import events

from atmo.errors import RemoteError
from atmo.identity import NodeId
from atmo.net.quic_config import StreamCode

if TYPE_CHECKING:
    from atmo.net.connection import Connection

_READ_BYTES = 64 * 1024
_CODE_TEXT: dict[int, str] = {
    StreamCode.CANCELLED: "the other end gave up",
    StreamCode.UNKNOWN_PROTOCOL: "the other end does not speak this protocol",
    StreamCode.BAD_FRAME: "the other end could not read what we sent",
    StreamCode.FAILED: "the other end failed while answering; its log says why",
    StreamCode.LATE: "the other end ran out of patience",
    StreamCode.REFUSED: "the other end has too many requests under way",
}


class StreamReset(RemoteError):
    """The other end reset the stream or stopped reading it.

    Attributes:
        code: Its reason; a `StreamCode` when it speaks our protocol.
    """

    def __init__(self, node: NodeId, code: int) -> None:
        text = _CODE_TEXT.get(code, f"the other end reset the stream with code {code:#x}")
        super().__init__(f"{node.short}: {text}")
        self.code = code


class QuicStream:
    """A bidirectional byte stream with back-pressure both ways. One task may send while another receives.

    Leaving `async with stream:` by an exception or cancellation resets both directions; leaving it normally ends ours
    and lets go of theirs.
    """

    def __init__(self, connection: Connection, stream_id: int) -> None:
        self.connection = connection
        self.stream_id = stream_id
        self._core = connection.core
        self._buffer = bytearray()
        self._ended = False
        self._receiving = True
        self._sending = True
        self._enough = False
        self._error: RemoteError | None = None
        self._send_error: RemoteError | None = None
        self._readable = trio.lowlevel.ParkingLot()
        self._writable = trio.lowlevel.ParkingLot()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Sends `data`, waiting while the other end or the path is slower than we are.

        When the other end said that it has enough, the rest goes nowhere: it may still be sending an answer. After a
        cancellation it is unknown how much was sent: reset the stream.

        Raises:
            RemoteError: The other end stopped reading, or the connection is gone.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        rest = memoryview(data)
        limit = self.connection.config.send_buffer_bytes
        while not self._enough:
            self._check_sending()
            room = limit - self._core.unsent(self.stream_id)
            if room > 0 and rest:
                self._core.write(self.stream_id, rest[:room])
                rest = rest[room:]
                self.connection.touch()
            if not rest:
                return
            self.connection.waiting_senders.add(self)
            await self._writable.park()

    async def send_eof(self) -> None:
        """Ends our direction; what was sent before still arrives. Nothing happens when it has ended already."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._finish_sending()

    async def receive_some(self, max_bytes: int = _READ_BYTES) -> bytes:
        """Returns at least one byte, or `b""` at the end of the stream.

        Raises:
            RemoteError: The other end reset the stream, or the connection is gone.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._buffer:
            if self._ended:
                self._receiving = False
                self.connection.retire(self)
                return b""
            if self._error is not None:
                raise self._error
            if not self._receiving:
                raise trio.ClosedResourceError("this stream was closed here")
            await self._readable.park()
        if max_bytes >= len(self._buffer):
            data = bytes(self._buffer)
            self._buffer.clear()
        else:
            data = bytes(memoryview(self._buffer)[:max_bytes])
            del self._buffer[:max_bytes]
        if self._core.consume(self.stream_id, len(data)):
            self.connection.touch()
        return data

    def reset(self, code: int = StreamCode.CANCELLED) -> None:
        """Ends both directions abruptly and drops what was received; never blocks."""
        if self._sending:
            self._sending = False
            self._core.reset(self.stream_id, code)
        self._abandon(code)
        self._wake()
        self.connection.retire(self)
        self.connection.touch()

    async def aclose(self, code: int = StreamCode.CANCELLED) -> None:
        """Ends our direction cleanly and lets go of the other; does not wait for what was sent to arrive.

        Args:
            code: What the other end is told if it is still sending.
        """
        self._finish_sending()
        self._abandon(code)
        self.connection.retire(self)
        await trio.lowlevel.checkpoint_if_cancelled()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.aclose()
        else:
            self.reset()

    @property
    def buffered_bytes(self) -> int:
        """Received and not yet taken."""
        return len(self._buffer)

    @property
    def over(self) -> bool:
        """True when this end is done with both directions."""
        return not self._sending and not self._receiving

    # The connection's side

    def on_data(self, event: events.StreamDataReceived) -> bool:
        """Takes received bytes; True asks for a transmit."""
        if event.end_stream:
            self._ended = True
        if not self._receiving:
            return self._core.consume(self.stream_id, len(event.data))
        self._buffer += event.data
        self._readable.unpark_all()
        return False

    def on_reset(self, code: int) -> bool:
        """The other end ended its direction abruptly; True asks for a transmit."""
        if self._receiving:
            self._receiving = False
            self._buffer.clear()
            self._error = StreamReset(self.connection.node_id, code)
        self._readable.unpark_all()
        self.connection.retire(self)
        return self._core.settle(self.stream_id)

    def on_stopped(self, code: int) -> None:
        """The other end reads no more; aioquic has reset our direction already."""
        if self._sending:
            self._sending = False
            self._enough = code == StreamCode.ENOUGH
            self._send_error = StreamReset(self.connection.node_id, code)
        self._writable.unpark_all()
        self.connection.retire(self)

    def on_lost(self, error: RemoteError) -> None:
        """The connection is gone. Bytes that arrived before can still be read."""
        self._error = self._error or error
        self._send_error = self._send_error or error
        self._sending = False
        self._wake()

    def on_room(self) -> bool:
        """Wakes the sender when half the buffer is free; says whether it did."""
        if self._sending and self._core.unsent(self.stream_id) > self.connection.config.send_buffer_bytes // 2:
            return False
        self._writable.unpark_all()
        return True

    def _check_sending(self) -> None:
        if self._send_error is not None:
            raise self._send_error
        if not self._sending:
            raise trio.ClosedResourceError("our direction of this stream has ended")

    def _finish_sending(self) -> None:
        if self._sending:
            self._sending = False
            self._core.write(self.stream_id, b"", end=True)
            self.connection.retire(self)
            self.connection.touch()

    def _abandon(self, code: int) -> None:
        if self._receiving:
            self._receiving = False
            if not self._ended:
                self._core.stop(self.stream_id, code)
            if self._buffer:
                self._core.consume(self.stream_id, len(self._buffer))
                self._buffer.clear()
            self.connection.touch()

    def _wake(self) -> None:
        self._readable.unpark_all()
        self._writable.unpark_all()
