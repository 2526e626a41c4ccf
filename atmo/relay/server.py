"""The relay: takes connections, has clients prove their keys, and passes datagrams on between them. Keeps nothing."""

from __future__ import annotations

import errno
import logging
import math
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import trio
from trio_websocket import WebSocketConnection, wrap_server_stream

from atmo.errors import UserError, WireError
from atmo.identity import Signer
from atmo.relay.door import Door, DoorConfig, Visit
from atmo.relay.figures import METRICS_TYPE, Levels, RelayStats, render
from atmo.relay.http import SOCKET_PATHS, FirstRequest, answer, read_request_untrusted
from atmo.relay.outbox import Tank
from atmo.relay.protocol import CLOSE_FULL, CLOSE_LEAVING, CLOSE_REFUSED, CLOSE_REPLACED, MESSAGE_BYTES
from atmo.relay.session import Ended, Session, SessionConfig, close, prove
from atmo.relay.stream import RECEIVE_BYTES, UNREACHED, GuardedStream
from atmo.wire.address import host_group

_log = logging.getLogger(__name__)

BACKLOG = 1_024
_FAULT_PERIOD_S = 60.0
_METRICS_S = 1.0
_IN_USE = (errno.EADDRINUSE, errno.EACCES)


@dataclass(frozen=True, slots=True)
class RelayConfig:
    """Bounds of a relay.

    Attributes:
        door: Who may come in.
        session: What one client may do.
        handshake_s: From the TCP connection to the proof, or to the answer to a plain request. Source: as long as
            `atmo.api` gives a request's head.
        budget_bytes: What a connection may send until the proof: an HTTP head and an answer, with margin.
        socket_bytes: The system's buffers of one connection, each way; without it they grow to megabytes for a slow
            reader. Source: choice, 5 MB/s over 50 ms.
        queued_bytes: Of datagrams that wait for all clients together. Source: choice, 500 slow readers.
        sweep_s: How often clients are looked at for pings and silence.
        drain_s: From the word to clients that the relay ends until it closes on those that are still there.
    """

    door: DoorConfig = field(default_factory=DoorConfig)
    session: SessionConfig = field(default_factory=SessionConfig)
    handshake_s: float = 10.0
    budget_bytes: int = 32 * 1024
    socket_bytes: int = 256 * 1024
    queued_bytes: int = 256 * 1024 * 1024
    sweep_s: float = 5.0
    drain_s: float = 5.0


class Relay:
    """The relay without its listening sockets.

    Args:
        signer: Its own key, which clients may pin.
        config: Bounds.
        tls: Its certificate; None for plain TCP, for a proxy in front or for tests.
    """

    def __init__(self, signer: Signer, config: RelayConfig = RelayConfig(), tls: ssl.SSLContext | None = None) -> None:
        self.node_id = signer.node_id
        self.stats = RelayStats()
        self._signer = signer
        self._config = config
        self._tls = tls
        self._door = Door(config.door)
        self._sessions: dict[bytes, Session] = {}
        self._tank = Tank(config.queued_bytes)
        self._gone = trio.Event()
        self._draining = False
        self._fault_at = -_FAULT_PERIOD_S
        self._metrics: tuple[float, bytes] = (-_METRICS_S, b"")

    @property
    def levels(self) -> Levels:
        """What is the case now."""
        return Levels(len(self._sessions), self._door.handshakes, self._tank.bytes, self._draining)

    async def attend(self, stream: trio.abc.Stream, host: str) -> None:
        """Serves one connection to its end, whatever comes over it, and closes it.

        Args:
            stream: The TCP connection.
            host: Its other end, as `host_group` writes it.
        """
        self.stats.connections += 1
        visit = self._door.knock(host, trio.current_time())
        try:
            if isinstance(visit, str):
                self.stats.refused[visit] += 1
                return
            try:
                self.stats.ended[await self._attend(stream, visit)] += 1
            finally:
                visit.settled()
        except Exception:  # noqa: BLE001 - counted and logged; a stranger may cause it, so it must not end the relay
            self.stats.faults += 1
            if trio.current_time() >= self._fault_at + _FAULT_PERIOD_S:
                self._fault_at = trio.current_time()
                _log.exception("A connection ended by an error of this program. This is told once a minute at most.")
        finally:
            await trio.aclose_forcefully(stream)

    async def keep(self) -> None:
        """Pings clients and ends silent ones, until cancelled."""
        while True:
            await trio.sleep(self._config.sweep_s)
            mono = trio.current_time()
            for session in list(self._sessions.values()):
                session.care(mono)

    async def drain(self) -> None:
        """Takes no more clients, tells those that are here to move, and ends them after a while."""
        self._draining = True
        for session in self._sessions.values():
            session.drain()
        with trio.move_on_after(self._config.drain_s):
            await self._wait_until_empty()
        for session in list(self._sessions.values()):
            session.end(Ended("drained", CLOSE_LEAVING, "this relay ends"))
        with trio.move_on_after(self._config.session.close_s + 1.0):
            await self._wait_until_empty()

    async def _wait_until_empty(self) -> None:
        while self._sessions:
            self._gone = trio.Event()
            await self._gone.wait()

    async def _attend(self, plain: trio.abc.Stream, visit: Visit) -> str:
        """Serves a connection that was let in; returns why it ended."""
        with trio.CancelScope(deadline=trio.current_time() + self._config.handshake_s) as scope:
            try:
                stream = await self._secured(plain)
                request = await read_request_untrusted(stream)
                if request is None:
                    return "unproved"
                if request.upgrade and request.path in SOCKET_PATHS:
                    guarded = GuardedStream(stream, self._config.budget_bytes, request.raw)
                    return await self._converse(guarded, visit, scope)
                await stream.send_all(self._answered(request))
            except UNREACHED:
                return "unproved"
            except WireError:
                return "not_http"
            return "http"
        return "late"

    async def _secured(self, plain: trio.abc.Stream) -> trio.abc.Stream:
        if self._tls is None:
            return plain
        secure = trio.SSLStream(plain, self._tls, server_side=True, https_compatible=True)
        await secure.do_handshake()
        return secure

    async def _converse(self, stream: GuardedStream, visit: Visit, scope: trio.CancelScope) -> str:
        try:
            async with trio.open_nursery() as nursery:
                proposal = await wrap_server_stream(nursery, stream, 1, MESSAGE_BYTES, RECEIVE_BYTES)
                connection = await proposal.accept()
                stream.watch(connection)
                await self._prove_and_serve(connection, stream, visit, scope)
                nursery.cancel_scope.cancel()
        except* UNREACHED:
            pass  # `visit.ended` says at which point
        return visit.ended

    async def _prove_and_serve(
        self, connection: WebSocketConnection, stream: GuardedStream, visit: Visit, scope: trio.CancelScope
    ) -> None:
        config = self._config.session
        try:
            node, welcome = await prove(connection, self._signer)
        except WireError as error:
            visit.ended = "authentication"
            await close(connection, Ended("authentication", CLOSE_REFUSED, str(error)), config.close_s)
            return
        scope.deadline = math.inf
        visit.settled()
        session = Session(node, visit.host, connection, stream, config, self.stats, self._tank)
        refusal = self._seat(session)
        if refusal is not None:
            visit.ended = "full"
            self.stats.refused[refusal] += 1
            await close(connection, Ended("full", CLOSE_FULL, f"no room here: {refusal}"), config.close_s)
            return
        try:
            await session.run(welcome, self._sessions.get)
        finally:
            visit.ended = session.ended.reason
            if self._sessions.get(node) is session:
                self._leave(session)

    def _seat(self, session: Session) -> str | None:
        """Registers a client; of two connections of one node the newer one stays, as the older may be dead."""
        if self._draining:
            return "draining"
        older = self._sessions.get(session.node)
        if older is not None:
            self._leave(older)
            older.end(Ended("replaced", CLOSE_REPLACED, "another connection of this node has come"))
        refusal = self._door.seat(session.host)
        if refusal is None:
            self._sessions[session.node] = session
            self.stats.authenticated += 1
        return refusal

    def _leave(self, session: Session) -> None:
        del self._sessions[session.node]
        self._door.left(session.host)
        self._gone.set()

    def _answered(self, request: FirstRequest) -> bytes:
        if request.path not in ("/metrics", "/health"):
            return answer(404, b"There is nothing here. This is a relay of Atmosphere: /metrics, /health.\n")
        if request.method not in ("GET", "HEAD"):
            return answer(405, b"Only GET.\n")
        head_only = request.method == "HEAD"
        if request.path == "/metrics":
            return answer(200, self._metrics_text(), METRICS_TYPE, head_only)
        return answer(503, b"draining\n", head_only=head_only) if self._draining else answer(200, b"ok\n")

    def _metrics_text(self) -> bytes:
        mono = trio.current_time()
        if mono >= self._metrics[0] + _METRICS_S:
            self._metrics = (mono, render(self.stats, self.levels))
        return self._metrics[1]


def bind(host: str, port: int, socket_bytes: int) -> list[trio.SocketListener]:
    """Returns listening sockets on all addresses of a host, whose connections have bounded buffers.

    Raises:
        UserError: Another program has the port, it needs rights we lack, or the host is not of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise UserError(f"Cannot listen on {host}: {error.strerror}.", "Give another --listen HOST:PORT.") from error
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in found:
            sockets.append(sock := socket.socket(family, kind, protocol))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, socket_bytes)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, socket_bytes)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, len(found) > 1)
            sock.bind((address[0], sockets[0].getsockname()[1] or port, *address[2:]))
            sock.listen(BACKLOG)
    except OSError as error:
        for sock in sockets:
            sock.close()
        what = "is in use or not allowed" if error.errno in _IN_USE else f"cannot be used: {error.strerror}"
        raise UserError(f"The port {port} on {host} {what}.", f"Give another one: --listen {host}:0") from error
    return [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in sockets]


async def serve_relay(
    relay: Relay,
    listeners: Sequence[trio.SocketListener],
    stop: trio.Event,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves until `stop` is set, and then until the clients are gone or `drain_s` is over; cancelling ends it at once.

    Args:
        relay: The relay.
        listeners: Of `bind`; closed at the end.
        stop: Has the relay drain.
        task_status: Started when connections are taken.
    """

    async def attend(stream: trio.SocketStream) -> None:
        try:
            host = host_group(stream.socket.getpeername()[0])
        except OSError:
            return  # gone already
        await relay.attend(stream, host)

    async with trio.open_nursery() as clients:
        async with trio.open_nursery() as doors:
            await doors.start(partial(trio.serve_listeners, attend, list(listeners), handler_nursery=clients))
            clients.start_soon(relay.keep)
            task_status.started()
            await stop.wait()
            doors.cancel_scope.cancel()
        await relay.drain()
        clients.cancel_scope.cancel()
