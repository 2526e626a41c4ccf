"""Connections as tasks use them. The endpoint (`atmo.net.quic`) drives them; they do no socket I/O.

A task that writes says so by `Connection.touch`; the endpoint then transmits once for all that gathered. A stream stays
in the connection's table for as long as aioquic keeps its state, so a late packet never revives it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import trio
from aioquic.quic import events

from atmo.errors import RemoteError
from atmo.identity import NodeId
from atmo.net.paths import is_virtual, kind_of
from atmo.net.quic_config import EndpointStats, QuicConfig, StreamCode
from atmo.net.quic_core import QuicCore, SocketAddress
from atmo.net.steering import Steering, is_local
from atmo.net.stream import QuicStream
from atmo.net.udp import to_address
from atmo.reach.config import DIRECT, LAN
from atmo.reach.probe import Key
from atmo.wire.address import Address

_KEEP_ALIVE_STEP_S = 0.5
"""Keep-alives of all connections are sent at multiples of this: one wake-up for many. Source: guess."""


class Connection:
    """An authenticated connection to another node.

    Attributes:
        node_id: The other end, proven by its certificate.
        outbound: True when we dialled.
        began_at: When it was dialled, or its first packet came, in monotonic seconds.
        admits: Asked for each stream that the other end opens, whatever becomes of it; False has it reset.
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
        self.handshaking = not core.outbound
        """It takes one of the places for incoming handshakes."""
        self.opened_from = opened_from
        self.began_at = now
        self.admits: Callable[[], bool] = lambda: True
        self.keep_alive_at = math.inf
        self.handshake_until = math.inf if core.outbound else now + config.handshake_s
        self.timer_at = math.inf
        self.steering: Steering | None = None
        self.probe_key: Key | None = None
        self.queued_timers: list[float] = []
        """Wake-ups asked for and still to come, latest first."""
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
        """Where its packets go now."""
        return to_address(self.steering.address if self.steering else self.core.peer_address)

    @property
    def path(self) -> str:
        """The kind of path that its packets take now: `lan`, `direct`, `punched`, `relay` or `forward`."""
        if self.steering:
            return self.steering.kind
        address = self.core.peer_address
        if is_virtual(address):
            return kind_of(address)
        return LAN if is_local(to_address(address)) else DIRECT

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

    def receive(self, data: bytes, address: SocketAddress, now: float) -> None:
        """Takes a datagram from an address."""
        if self.steering:
            self.steering.came(address)
            address = self.steering.home
        self.core.receive(data, address, now)

    def heard(self, now: float) -> None:
        """Something arrived: the other end is alive."""
        if not self.closed.is_set():
            self.keep_alive_at = self._next_keep_alive(now)
            if self.steering:
                self.steering.heard(now)
                self._watch_sizes(now)

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
        due = min(self.core.next_timer(), self.keep_alive_at, self.handshake_until)
        return min(due, self.steering.next_timer()) if self.steering and not self.closed.is_set() else due

    def on_timer(self, now: float) -> None:
        """Deadlines of aioquic, of the handshake, and the keep-alive."""
        if now >= self.handshake_until and self.half_open and not self.closed.is_set():
            self.stats.handshakes_late += 1
            self.close("the handshake took too long")
        if now >= self.handshake_until:
            self.handshake_until = math.inf
        if now >= self.keep_alive_at:
            self.keep_alive_at = self._next_keep_alive(now)
            self.core.ping()
        if self.steering and not self.closed.is_set():
            self.steering.handle_timer(now)
        self.core.handle_timer(now)
        self._watch_sizes(now)

    def _next_keep_alive(self, now: float) -> float:
        at = math.ceil((now + self.config.keep_alive_s) / _KEEP_ALIVE_STEP_S) * _KEEP_ALIVE_STEP_S
        return at + _KEEP_ALIVE_STEP_S / 2 if self.outbound else at  # two ends on one machine do not ping at once

    def _watch_sizes(self, now: float) -> None:
        if self.steering and self.core.loses_large and not self.closed.is_set():
            self.steering.suspect(now)

    def _stream(self, stream_id: int) -> QuicStream:
        stream = self._streams.get(stream_id)
        if stream is None:
            stream = self._streams[stream_id] = QuicStream(self, stream_id)
            if self.admits() and len(self._incoming) < self.config.max_streams:
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
                self.admits()
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
