"""The QUIC endpoint of a node: one UDP socket for the connections it dials and those it accepts.

Two tasks run it. The receiver wakes when the socket is readable, reads up to 64 datagrams, hands each to the connection
that its connection id names, then lets every touched connection hand on its events and transmit once. The pump
(`net.pump`) serves the connections whose timer is due or for which a task has written something. Nothing polls; time is
`trio.current_time()`.

    async with open_endpoint(signer, "0.0.0.0", 11450) as endpoint:
        connection = await endpoint.dial(Address("192.0.2.7", 11450), node_id, deadline_s=5)
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

import trio
from aioquic.quic import events

from atmo.errors import RemoteError, leaf_error
from atmo.identity import NodeId, Signer
from atmo.net.accepted import Accepted
from atmo.net.admission import FIXED_BIT, LONG_HEADER_BIT, Admission, Admitted
from atmo.net.certificate import make_credentials
from atmo.net.connection import Connection
from atmo.net.outlet import Outlet
from atmo.net.paths import SendDatagram, VirtualPath, is_virtual
from atmo.net.probing import Probing
from atmo.net.pump import Pump
from atmo.net.quic_config import (
    BULK_DATAGRAMS,
    CONNECTION_ID_BYTES,
    RECEIVE_BYTES,
    SHORTEST_SLEEP_S,
    EndpointStats,
    QuicConfig,
    StreamCode,
)
from atmo.net.quic_core import QuicCore, SocketAddress
from atmo.net.stream import QuicStream, StreamReset
from atmo.net.udp import DatagramSocket, open_udp, to_address
from atmo.reach.config import RELAY
from atmo.reach.probe import MARK
from atmo.wire.address import Address

__all__ = [
    "Address",
    "Connection",
    "Endpoint",
    "EndpointStats",
    "QuicConfig",
    "QuicStream",
    "StreamCode",
    "StreamReset",
    "VirtualPath",
    "open_endpoint",
]

OtherDatagram = Callable[[bytes, Address], None]
OpenSocket = Callable[[str, int, int], Awaitable[DatagramSocket]]


@asynccontextmanager
async def open_endpoint(
    signer: Signer, host: str, port: int, config: QuicConfig = QuicConfig(), open_socket: OpenSocket = open_udp
) -> AsyncIterator[Endpoint]:
    """Opens the UDP socket and serves it until the block ends; then every connection is told and closed.

    Args:
        signer: The node whose id this endpoint proves.
        host: The address to listen on; `::` listens on IPv4 too.
        port: 0 takes a free one.
        config: Limits and timeouts.
        open_socket: As `net.udp.open_udp`; another one makes datagrams that never leave the process.

    Raises:
        UserError: The address cannot be listened on.
    """
    sock = await open_socket(host, port, config.socket_buffer_bytes)
    endpoint = Endpoint(sock, signer, config, open_socket)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(endpoint.receive_forever)
            nursery.start_soon(endpoint.serve_forever)
            try:
                yield endpoint
            finally:
                endpoint.close_all("the node is shutting down")
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise leaf_error(group) from None  # the block's own: the two tasks raise nothing
    finally:
        sock.close()


class Endpoint:
    """Dials, accepts and drives connections; made by `open_endpoint`.

    Attributes:
        local_address: What the socket is bound to.
        stats: Counters since it opened.
        on_other: Called with each datagram that is not QUIC by its first byte (STUN, hole punching), after it was
            counted; it must not block.
        open_socket: Opens further sockets of the same kind.
    """

    def __init__(self, sock: DatagramSocket, signer: Signer, config: QuicConfig, open_socket: OpenSocket) -> None:
        self.node_id = signer.node_id
        self.config = config
        self.stats = EndpointStats()
        self.local_address: Address = to_address(sock.getsockname())
        self.on_other: OtherDatagram | None = None
        self.open_socket = open_socket
        self._socket = sock
        self._credentials = make_credentials(signer)
        self._admission = Admission(config, self.stats)
        self._by_id: dict[bytes, Connection] = {}
        self._connections: dict[Connection, set[bytes]] = {}
        self._accepted = Accepted(config.max_accept_queue, self.stats)
        self._pump = Pump(self._connections.keys(), self._serve)
        self._outlet = Outlet(sock, config, self.stats)
        self.probing = Probing(self._outlet, self.stats, self._touch)
        self._closing = False

    @property
    def connections(self) -> Iterable[Connection]:
        """The authenticated, open connections."""
        return [each for each in self._connections if not each.half_open and not each.closed.is_set()]

    @property
    def connection_count(self) -> int:
        """All connections that cost memory: half-open and closing ones too."""
        return len(self._connections)

    async def dial(self, address: Address | VirtualPath, expected: NodeId, deadline_s: float) -> Connection:
        """Connects to the node `expected` at `address`, or over an open virtual path.

        Raises:
            RemoteError: Nobody answered in time, another node answered, or it refused.
        """
        self.stats.dials += 1
        connection: Connection | None = None
        try:
            with trio.move_on_after(deadline_s):
                connection = self._begin(address, expected)
                await connection.settled.wait()
                if connection.closed.is_set():
                    raise RemoteError(f"{expected.short} at {address} did not connect: {connection.close_reason}")
                return connection
            raise RemoteError(f"no answer from {address} within {deadline_s:g} s")
        except BaseException:
            self.stats.dials_failed += 1
            if connection is not None:
                connection.close("the dial was given up")
            raise

    async def accept(self) -> Connection:
        """Waits for the next authenticated connection from outside."""
        return await self._accepted.take()

    def open_path(self, kind: str, send: SendDatagram) -> VirtualPath:
        """Opens a virtual path, over which this endpoint can dial and accepts what comes.

        Args:
            kind: Such as `forward`.
            send: Carries a datagram to the other end; see `SendDatagram`.

        Raises:
            RemoteError: There are too many.
        """
        return self._outlet.paths.open(kind, send, self._arrived, self._path_gone)

    def send_other(self, data: bytes, address: Address) -> None:
        """Sends a datagram that is not QUIC (bit 0x40 of its first byte unset) from the same socket."""
        self._outlet.send(data, self.target(address))

    def target(self, address: Address) -> SocketAddress:
        """Returns an address as sockets of this endpoint's kind take it.

        Raises:
            RemoteError: They cannot reach it.
        """
        return self._outlet.target(address)

    def may_probe(self, address: Address) -> bool:
        """As `Outlet.may_probe`."""
        return self._outlet.may_probe(address)

    def close_all(self, reason: str) -> None:
        """Closes every connection, each with one datagram, and forgets them; never blocks."""
        self._closing = True
        now = trio.current_time()
        for connection in list(self._connections):
            connection.close(reason)
            self._transmit(connection, now)
            self._forget(connection)
        self._accepted.clear()

    # The receiver

    async def receive_forever(self) -> None:
        """Reads datagrams, many per wake-up."""
        while True:
            await self._socket.wait_readable()
            now = trio.current_time()
            touched: dict[Connection, int] = {}
            for _ in range(self.config.drain_datagrams):
                try:
                    data, address = self._socket.recvfrom(RECEIVE_BYTES)
                except BlockingIOError:
                    break
                except OSError:
                    self.stats.dropped_malformed += 1
                    continue
                self.stats.datagrams_in += 1
                self.stats.bytes_in += len(data)
                connection = self._route(data, address, now)
                if connection is not None:
                    connection.receive(data, address, now)
                    touched[connection] = touched.get(connection, 0) + 1
            for connection, count in touched.items():
                connection.heard(now)
                if count >= BULK_DATAGRAMS:
                    self._serve(connection, now)
                else:
                    self._take_events(connection)
                    self._touch(connection)

    def _route(self, data: bytes, address: SocketAddress, now: float) -> Connection | None:
        """Finds the connection of a datagram, or begins one, or drops it."""
        if not data or not address[1]:
            self.stats.dropped_malformed += 1
            return None
        first = data[0]
        if first == MARK:
            self.probing.take_untrusted(data, address, now)
            return None
        if not first & FIXED_BIT:
            self.stats.dropped_other += 1
            if self.on_other is not None and not is_virtual(address):
                self.on_other(data, to_address(address))
            return None
        if not first & LONG_HEADER_BIT:
            connection = self._by_id.get(data[1 : 1 + CONNECTION_ID_BYTES])
            if connection is None:
                self.stats.dropped_unknown += 1
            return connection
        if len(data) < 7:
            self.stats.dropped_malformed += 1
            return None
        return self._by_id.get(data[6 : 6 + data[5]]) or self._admit(data, address, now)

    def _admit(self, data: bytes, address: SocketAddress, now: float) -> Connection | None:
        remote = to_address(address)
        verdict = self._admission.judge_untrusted(data, remote, now)
        if isinstance(verdict, bytes):
            self._outlet.send(verdict, address)
        if not isinstance(verdict, Admitted):
            return None
        if len(self._connections) >= self.config.max_connections - self.config.kept_for_dials or self._closing:
            self.stats.refused_full += 1
            return None
        core = QuicCore(
            self._credentials,
            self.config,
            datagram_bytes=self._outlet.datagram_bytes(remote),
            original_id=verdict.original_id,
            retry_id=verdict.retry_id,
        )
        core.receive(data, address, now)
        if not core.heard:
            self.stats.dropped_malformed += 1
            self._admission.broke(now)
            return None
        connection = self._adopt(core, now, remote.host)
        self._register(connection, [data[6 : 6 + data[5]], *core.host_ids])
        self._serve(connection, now)
        return None

    def _arrived(self, data: bytes, path: VirtualPath) -> None:
        """Takes a datagram that came over a virtual path."""
        if self._closing or self._outlet.paths.find(path.address) is not path:
            return
        self.stats.virtual_in += 1
        now = trio.current_time()
        connection = self._route(data, path.address, now)
        if connection is not None:
            connection.receive(data, path.address, now)
            connection.heard(now)
            self._take_events(connection)
            self._touch(connection)

    def _path_gone(self, path: VirtualPath, reason: str) -> None:
        if self._outlet.paths.close(path):
            for connection in list(self._connections):
                steering = connection.steering
                works = steering is not None and steering.lost(trio.current_time(), path.address)
                if connection.opened_from == path.host and not works and not (steering and path.kind == RELAY):
                    connection.close(reason)  # who lost its relay finds the other end at another one

    # One connection

    async def serve_forever(self) -> None:
        """Serves each connection in time."""
        await self._pump.run()

    def _touch(self, connection: Connection) -> None:
        self._pump.touch(connection)

    def _serve(self, connection: Connection, now: float) -> None:
        """Hands on events, transmits, and sets the timer anew."""
        self._take_events(connection)
        self._transmit(connection, now)
        self._take_events(connection)
        connection.forget_streams()
        if connection.core.gone:
            self._forget(connection)
            return
        connection.timer_at = max(connection.next_timer(), now + SHORTEST_SLEEP_S)
        self._pump.arm(connection)

    def _take_events(self, connection: Connection) -> None:
        for event in connection.take_events():
            if isinstance(event, events.ConnectionIdIssued):
                self._register(connection, [event.connection_id])
            elif isinstance(event, events.ConnectionIdRetired):
                self._connections[connection].discard(event.connection_id)
                self._by_id.pop(event.connection_id, None)
        if connection.half_open and (connection.core.peer is not None or connection.closed.is_set()):
            self._settle(connection)

    def _settle(self, connection: Connection) -> None:
        """The handshake is over, well or badly."""
        connection.half_open = False
        connection.handshake_until = math.inf
        if connection.core.peer is not None:
            self._handshake_over(connection)
        if connection.core.refused:
            self.stats.refused_identity += 1
        if not connection.closed.is_set():
            connection.settled.set()
            if not connection.outbound:
                self._accepted.offer(connection)

    def _handshake_over(self, connection: Connection) -> None:
        """Has room for another handshake: one that failed takes its place for as long as it takes memory."""
        if connection.handshaking:
            connection.handshaking = False
            self._admission.ended(connection.opened_from)

    def _begin(self, address: Address | VirtualPath, expected: NodeId) -> Connection:
        if len(self._connections) >= self.config.max_connections or self._closing:
            self.stats.refused_full += 1
            raise RemoteError(f"this node has {len(self._connections)} connections, which is its limit")
        now = trio.current_time()
        target, size = self._outlet.target(address), self._outlet.datagram_bytes(address)
        core = QuicCore(self._credentials, self.config, datagram_bytes=size, expected=expected)
        core.connect(target, now)
        connection = self._adopt(core, now, address.host)
        self._register(connection, core.host_ids)
        self._serve(connection, now)
        return connection

    def _adopt(self, core: QuicCore, now: float, host: str) -> Connection:
        connection = Connection(core, self.config, self.stats, self._touch, now, host)
        self._connections[connection] = set()
        if not core.outbound:
            self._admission.begun(host)
        return connection

    def _register(self, connection: Connection, ids: Iterable[bytes]) -> None:
        for each in ids:
            self._by_id[each] = connection
            self._connections[connection].add(each)

    def _forget(self, connection: Connection) -> None:
        for each in self._connections.pop(connection, ()):
            self._by_id.pop(each, None)
        if connection.half_open:
            self._settle(connection)
        self._handshake_over(connection)
        if not connection.outbound:
            self._admission.gone(connection.opened_from)
        self.probing.forget(connection)
        self.stats.internal_errors += connection.core.internal_errors
        self._pump.forget(connection)

    def _transmit(self, connection: Connection, now: float) -> None:
        datagrams = connection.core.transmit(now)
        if connection.steering:
            connection.steering.send(now, datagrams, awaited=connection.core.awaits_answer)
            return
        for data, address in datagrams:
            self._outlet.send(data, address)
