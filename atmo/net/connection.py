"""Connections and their streams as tasks use them. The endpoint (`atmo.net.quic`) drives them; they do no socket I/O.

A task writes into aioquic's buffer and says so by `Connection.touch`; the endpoint then transmits once for all that
gathered. What arrives is put into the stream's buffer and wakes its reader; credit goes back when the reader takes it.
A stream stays in the connection's table for as long as aioquic keeps its state, so a late packet never revives it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

import trio
from aioquic.quic import events

from atmo.errors import RemoteError
from atmo.identity import NodeId
from atmo.net.quic_config import EndpointStats, QuicConfig, StreamCode
from atmo.net.quic_core import QuicCore
from atmo.net.udp import to_address
from atmo.wire.address import Address

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
        self._error: RemoteError | None = None
        self._send_error: RemoteError | None = None
        self._readable = trio.lowlevel.ParkingLot()
        self._writable = trio.lowlevel.ParkingLot()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Sends `data`, waiting while the other end or the path is slower than we are.

        After a cancellation it is unknown how much was sent: reset the stream.

        Raises:
            RemoteError: The other end stopped reading, or the connection is gone.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        rest = memoryview(data)
        limit = self.connection.config.send_buffer_bytes
        while True:
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

    async def aclose(self) -> None:
        """Ends our direction cleanly and lets go of the other; does not wait for what was sent to arrive."""
        self._finish_sending()
        self._abandon(StreamCode.CANCELLED)
        self.connection.retire(self)
        await trio.lowlevel.checkpoint()

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
        self._buffer.clear()
        self._error = self._error or StreamReset(self.connection.node_id, code)
        self._receiving = False
        self._readable.unpark_all()
        self.connection.retire(self)
        return self._core.settle(self.stream_id)

    def on_stopped(self, code: int) -> None:
        """The other end reads no more; aioquic has reset our direction already."""
        self._send_error = StreamReset(self.connection.node_id, code)
        self._sending = False
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


class Connection:
    """An authenticated connection to another node.

    Attributes:
        node_id: The other end, proven by its certificate.
        outbound: True when we dialled.
        closed: Set as soon as either end closed it or it died.
        close_reason: Why; empty while it is open.
    """

    def __init__(
        self,
        core: QuicCore,
        config: QuicConfig,
        stats: EndpointStats,
        touch: Callable[[Connection], None],
        now: float,
        opened_from: str,
    ) -> None:
        self.core = core
        self.config = config
        self.stats = stats
        self.outbound = core.outbound
        self.settled = trio.Event()
        self.closed = trio.Event()
        self.close_reason = ""
        self.waiting_senders: set[QuicStream] = set()
        self.half_open = True
        self.opened_from = opened_from
        self.keep_alive_at = math.inf
        self.handshake_until = math.inf if core.outbound else now + config.handshake_s
        self.timer_at = math.inf
        self.queued_timer_at = math.inf
        self._touch = touch
        self._streams: dict[int, QuicStream] = {}
        self._over: set[QuicStream] = set()
        self._incoming: deque[QuicStream] = deque()
        self._acceptable = trio.lowlevel.ParkingLot()
        self._openable = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        name = self.core.peer.short if self.core.peer else "nobody yet"
        return f"<Connection {'to' if self.outbound else 'from'} {name}{' closed' if self.closed.is_set() else ''}>"

    @property
    def node_id(self) -> NodeId:
        """The other end, proven by its certificate."""
        assert self.core.peer is not None, "not authenticated yet"
        return self.core.peer

    @property
    def remote(self) -> Address:
        """Where its packets come from now."""
        return to_address(self.core.peer_address)

    @property
    def rtt_s(self) -> float | None:
        """Smoothed round-trip time in seconds, None before it was measured."""
        return self.core.rtt_s

    @property
    def stream_count(self) -> int:
        """Streams that this end or the other still holds something of."""
        return len(self._streams)

    async def open_stream(self) -> QuicStream:
        """Opens a stream, waiting while as many are open as the other end allows.

        Raises:
            RemoteError: The connection is gone.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self.closed.is_set() and not self.core.can_open():
            await self._openable.park()
        self._check_open()
        stream = QuicStream(self, self.core.open_stream())
        self._streams[stream.stream_id] = stream
        return stream

    async def accept_stream(self) -> QuicStream:
        """Waits for the other end to open a stream and to send something on it.

        Raises:
            RemoteError: The connection is gone.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._incoming and not self.closed.is_set():
            await self._acceptable.park()
        self._check_open()
        return self._incoming.popleft()

    async def aclose(self, reason: str = "") -> None:
        """Closes at once: tells the other end the reason and fails what still runs here. Does not wait for it."""
        self.close(reason)
        await trio.lowlevel.checkpoint()

    # The endpoint's side

    def close(self, reason: str) -> None:
        """As `aclose`, without a checkpoint."""
        if not self.closed.is_set():
            self.core.close(reason)
            self._lost(reason or "closed here")
            self.touch()

    def touch(self) -> None:
        """Something is to be sent: asks the endpoint to transmit soon."""
        self._touch(self)

    def retire(self, stream: QuicStream) -> None:
        """Notes that a stream may be over; it is forgotten when aioquic forgets it."""
        if stream.over:
            self._over.add(stream)

    def heard(self, now: float) -> None:
        """Something arrived: the other end is alive."""
        self.keep_alive_at = now + self.config.keep_alive_s

    def take_events(self) -> list[events.QuicEvent]:
        """Hands events to the streams; returns those about connection ids, which are the endpoint's."""
        ids: list[events.QuicEvent] = []
        transmit = False
        for event in self.core.poll():
            if isinstance(event, events.StreamDataReceived):
                transmit |= self._stream(event.stream_id).on_data(event)
            elif isinstance(event, events.StreamReset):
                transmit |= self._on_reset(event)
            elif isinstance(event, events.StopSendingReceived):
                self._stream(event.stream_id).on_stopped(event.error_code)
                transmit = True
            else:
                ids.append(event)
        if transmit:
            self.touch()
        if self.core.closed and not self.closed.is_set():
            self._lost(self.core.close_reason)
        if self.waiting_senders:
            self.waiting_senders = {each for each in self.waiting_senders if not each.on_room()}
        if self._openable and self.core.can_open():
            self._openable.unpark_all()
        return ids

    def forget_streams(self) -> None:
        """Drops streams that both ends are done with; call after every transmit, which is when aioquic drops them."""
        if self._over:
            for stream in [each for each in self._over if not self.core.is_open(each.stream_id)]:
                self._over.discard(stream)
                self._streams.pop(stream.stream_id, None)

    def next_timer(self) -> float:
        """When `on_timer` is due."""
        return min(self.core.next_timer(), self.keep_alive_at, self.handshake_until)

    def on_timer(self, now: float) -> None:
        """Deadlines of aioquic, of the handshake, and the keep-alive."""
        if now >= self.handshake_until and self.half_open and not self.closed.is_set():
            self.stats.handshakes_late += 1
            self.close("the handshake took too long")
        if now >= self.handshake_until:
            self.handshake_until = math.inf
        if now >= self.keep_alive_at:
            self.keep_alive_at = now + self.config.keep_alive_s
            self.core.ping()
        self.core.handle_timer(now)

    def _stream(self, stream_id: int) -> QuicStream:
        stream = self._streams.get(stream_id)
        if stream is None:
            stream = self._streams[stream_id] = QuicStream(self, stream_id)
            if len(self._incoming) < self.config.max_streams:
                self._incoming.append(stream)
                self._acceptable.unpark()
            else:
                self.stats.streams_refused += 1
                stream.reset(StreamCode.REFUSED)
        return stream

    def _on_reset(self, event: events.StreamReset) -> bool:
        stream = self._streams.get(event.stream_id)
        if stream is None or stream in self._incoming:
            # Nobody here has seen it and nobody ever will: end our direction too, so that it can be forgotten.
            if stream is None:
                stream = self._streams[event.stream_id] = QuicStream(self, event.stream_id)
            else:
                self._incoming.remove(stream)
            stream.on_reset(event.error_code)
            stream.reset(event.error_code)
            return True
        return stream.on_reset(event.error_code)

    def _check_open(self) -> None:
        if self.closed.is_set():
            raise self._error()

    def _error(self) -> RemoteError:
        name = self.core.peer.short if self.core.peer else "a node"
        return RemoteError(f"the connection to {name} is closed: {self.close_reason}")

    def _lost(self, reason: str) -> None:
        self.close_reason = reason
        self.keep_alive_at = math.inf
        self.closed.set()
        self.settled.set()
        error = self._error()
        for stream in self._streams.values():
            stream.on_lost(error)
        self._streams.clear()
        self._over.clear()
        self._incoming.clear()
        self.waiting_senders.clear()
        self._acceptable.unpark_all()
        self._openable.unpark_all()
