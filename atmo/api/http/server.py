"""Serving the application over HTTP/1.1 on trio, on a socket that is bound before anything else starts.

A server of our own, as measured: docs/ARCHITECTURE.md says why.
"""

from __future__ import annotations

import errno
import logging
import socket
import sys

import trio
from starlette.types import ASGIApp

from atmo.api.http.connection import ServerConnection, Serving, refusal
from atmo.api.http.limits import Connections, HttpLimits
from atmo.errors import RequestError, UserError

GRACE_S = 1.0
"""How long answers under way may take to finish after `shutdown`; Ctrl-C has to end a node within two seconds."""

BACKLOG = 1_024
PROBE_AFTER_S, PROBE_EVERY_S, PROBES = 60, 15, 4
"""A client that vanished without a word is noticed by the system within two minutes. Source: guess."""

ACCEPTED_IN_ROW = 32
"""Connections that are taken before others have their turn. Source: guess."""

NO_FILES_S = 0.1
"""Pause where the system has no file for another connection. Source: trio's `serve_listeners`."""

OTHER_FILES = 256
"""Files that a node has open besides clients and the servers behind it. Source: guess."""

_IN_USE = (errno.EADDRINUSE, errno.EACCES)
_NO_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
log = logging.getLogger("atmo.api.http")


async def serve(
    app: ASGIApp,
    host: str,
    port: int,
    *,
    shutdown: trio.Event | None = None,
    limits: HttpLimits = HttpLimits(),
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves `app` until cancelled, or until `shutdown` is set and what is under way has had `GRACE_S` to finish.

    Args:
        app: The ASGI application; it is not told of the server's life.
        host: Address or name to bind.
        port: TCP port, 0 for any free one.
        shutdown: Ends the server gently; cancelling ends it at once.
        limits: Of a client.
        task_status: Started with the port when connections are accepted.

    Raises:
        UserError: The address cannot be bound.
    """
    stop = trio.Event() if shutdown is None else shutdown
    with bind(host, port, limits.stall_s) as listener:
        server = _Server(app, listener, limits, stop)
        task_status.started(server.port)
        await server.run()


class _Server:
    def __init__(self, app: ASGIApp, listener: socket.socket, limits: HttpLimits, stop: trio.Event) -> None:
        address = listener.getsockname()[:2]
        self.port = int(address[1])
        self._listener = listener
        self._stop = stop
        self._connections = Connections(limits, _most_connections())
        self._serving = Serving(app, limits, self._connections, address, stop.is_set)
        self._open: dict[int, ServerConnection] = {}
        self._ended = trio.Event()

    async def run(self) -> None:
        """Accepts clients until told to stop, then waits for those that are being answered."""
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as accepting:
                nursery.start_soon(self._cancel_when_stopped, accepting)  # noqa: ASYNC111 - it only cancels
                await self._accept(nursery)
            self._listener.close()
            for connection in list(self._open.values()):
                if connection.waiting:
                    connection.close()
            with trio.move_on_after(GRACE_S):
                while self._open:
                    self._ended = trio.Event()
                    await self._ended.wait()
            nursery.cancel_scope.cancel()

    async def _cancel_when_stopped(self, scope: trio.CancelScope) -> None:
        await self._stop.wait()
        scope.cancel()

    async def _accept(self, nursery: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._listener)
            for _ in range(ACCEPTED_IN_ROW):
                try:
                    sock, client = self._listener.accept()
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno in _NO_FILES:
                        log.error("no further client can be taken now: %s", error.strerror)
                        await trio.sleep(NO_FILES_S)
                    break
                self._admit(nursery, sock, client[:2])

    def _admit(self, nursery: trio.Nursery, sock: socket.socket, client: tuple[str, int]) -> None:
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:  # some systems say so where the client has left already
            sock.close()
            return
        number, victim = self._connections.admit(client[0])
        if victim is not None and victim in self._open:
            self._open[victim].close()
        if number is None:
            _turn_away(sock)
            return
        self._open[number] = connection = ServerConnection(self._serving, sock, client, number)
        nursery.start_soon(self._serve, connection, number)

    async def _serve(self, connection: ServerConnection, number: int) -> None:
        try:
            await connection.run()
        finally:
            self._connections.close(number)
            del self._open[number]
            self._ended.set()


def _turn_away(sock: socket.socket) -> None:
    error = RequestError(503, "This node has as many connections as it may: try again shortly.", code="overloaded")
    with sock:
        try:
            sock.send(refusal(error))
        except OSError:
            return  # it was to be closed anyway


def _most_connections() -> int:
    """Returns how many clients the system's limit of open files allows, each with a server behind it."""
    if sys.platform == "win32":
        return sys.maxsize
    import resource

    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if files == resource.RLIM_INFINITY else max(1, (files - OTHER_FILES) // 2)


def bind(host: str, port: int, stall_s: float = HttpLimits().stall_s) -> socket.socket:
    """Returns a listening TCP socket, not blocking.

    Args:
        host: Address or name.
        port: 0 for any free one.
        stall_s: A client that takes nothing for so long is cut off by the system, where it can.

    Raises:
        UserError: Another program has the port, it needs rights we lack, or the host is not of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(
            f"Cannot listen for HTTP on {host}: {error.strerror}.", "Give another --http HOST:PORT."
        ) from error
    try:
        _set_options(listener, stall_s)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        what = "is in use or not allowed" if error.errno in _IN_USE else f"cannot be used: {error.strerror}"
        hint = f"Is a node already running there? Stop what uses it, or give another port: --http {host}:0"
        raise UserError(f"The HTTP port {port} on {host} {what}.", hint) from error
    return listener


def _set_options(listener: socket.socket, stall_s: float) -> None:
    """Sets what accepted connections inherit, so that no call is needed for each."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    values = {"TCP_KEEPIDLE": PROBE_AFTER_S, "TCP_KEEPINTVL": PROBE_EVERY_S, "TCP_KEEPCNT": PROBES}
    for name, value in (*values.items(), ("TCP_USER_TIMEOUT", int(stall_s * 1_000))):
        option = getattr(socket, name, None)
        if option is not None:
            listener.setsockopt(socket.IPPROTO_TCP, option, value)
