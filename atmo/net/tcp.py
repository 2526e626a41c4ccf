"""TCP beside the endpoint: the listener on the endpoint's port number, and streams that are read into buffers."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import trio

from atmo.errors import RemoteError
from atmo.net.ports import Buffer
from atmo.wire.address import Address

log = logging.getLogger(__name__)

_BACKLOG = 64
"""Connections that the system takes before we do. Source: guess."""

_OPTIONS = [(socket.TCP_NODELAY, 1)]
if hasattr(socket, "TCP_NOTSENT_LOWAT"):
    _OPTIONS.append((socket.TCP_NOTSENT_LOWAT, 256 * 1024))  # 2 ms at 1 Gbit/s; trio sets 16 KiB

STALL_S = 30.0
"""The other end takes or sends at least something within this time. Source: guess; TCP itself gives up later."""


class ByteStream(Protocol):
    """A connection: implemented by `TcpStream`, and by tests in memory. Errors of the network are `RemoteError`."""

    async def send_all(self, data: Buffer) -> None:
        """Sends all of it."""

    async def receive_into(self, room: memoryview) -> int:
        """Receives at least one byte into `room` and returns how many came, 0 at the end."""

    def close(self) -> None:
        """Ends it at once; whoever waits in it gets a `RemoteError`."""


class TcpStream:
    """A TCP connection as a `ByteStream`."""

    def __init__(self, sock: trio.socket.SocketType, stall_s: float = STALL_S) -> None:
        self._socket = sock
        self._stall_s = stall_s
        for option, value in _OPTIONS:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, option, value)

    async def send_all(self, data: Buffer) -> None:
        """See `ByteStream`."""
        left = memoryview(data)
        while left:
            sent = 0
            with self._watched() as scope:
                sent = await self._socket.send(left)
            self._check(scope)
            left = left[sent:]

    async def receive_into(self, room: memoryview) -> int:
        """See `ByteStream`."""
        count = 0
        with self._watched() as scope:
            count = await self._socket.recv_into(room)
        self._check(scope)
        return count

    def close(self) -> None:
        """See `ByteStream`."""
        self._socket.close()

    @contextlib.contextmanager
    def _watched(self) -> Iterator[trio.CancelScope]:
        try:
            with trio.move_on_after(self._stall_s) as scope:
                yield scope
        except (OSError, trio.ClosedResourceError) as error:
            raise RemoteError(f"the TCP connection broke: {error}") from error

    def _check(self, scope: trio.CancelScope) -> None:
        if scope.cancelled_caught:
            raise RemoteError(f"nothing moved on the TCP connection for {self._stall_s:g} s")


async def receive_exactly(stream: ByteStream, count: int) -> bytes | None:
    """Returns so many bytes, None where the stream ends before."""
    data = bytearray(count)
    room = memoryview(data)
    while room:
        received = await stream.receive_into(room)
        if not received:
            return None
        room = room[received:]
    return bytes(data)


async def connect_tcp(address: Address) -> TcpStream:
    """Connects; cancel it to give up.

    Raises:
        RemoteError: Nobody answers there.
    """
    try:
        found = await trio.socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )
        family, kind, protocol, _, where = found[0]
        sock = trio.socket.socket(family, kind, protocol)
    except OSError as error:
        raise RemoteError(f"no TCP connection to {address}: {error.strerror}") from error
    try:
        await sock.connect(where)
    except OSError as error:
        sock.close()
        raise RemoteError(f"no TCP connection to {address}: {error.strerror}") from error
    except BaseException:
        sock.close()
        raise
    return TcpStream(sock)


@dataclass(frozen=True, slots=True)
class TcpDoor:
    """How TCP connections get into this node.

    Attributes:
        listener: None where none come in; others can still be connected to.
        problem: Why, in words; empty where there was no problem.
    """

    listener: trio.SocketListener | None = None
    problem: str = ""

    @property
    def port(self) -> int | None:
        """Where it listens."""
        return int(self.listener.socket.getsockname()[1]) if self.listener is not None else None


@asynccontextmanager
async def open_tcp(address: Address) -> AsyncIterator[TcpDoor]:
    """Listens on the address of the endpoint's UDP socket; where that is impossible the door says why."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    with sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            await sock.bind((address.host, address.port))
            sock.listen(_BACKLOG)
        except OSError as error:
            why = f"TCP {address} cannot be listened on: {error.strerror or error}"
            log.warning("%s: models are sent over QUIC alone, which is slower", why)
            yield TcpDoor(None, why)
        else:
            yield TcpDoor(trio.SocketListener(sock))
