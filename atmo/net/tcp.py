"""TCP beside the endpoint: the listener on the endpoint's port number, and streams that are read into buffers."""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import sys
import threading
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
    _OPTIONS.append((socket.TCP_NOTSENT_LOWAT, 2**20))  # a chunk, so that a sender wakes once for it; trio sets 16 KiB

STALL_S = 30.0
"""The other end takes or sends at least something within this time. Source: guess; TCP itself gives up later."""


class Stalled(RemoteError):
    """Nothing moved for too long."""


class ByteStream(Protocol):
    """A connection: implemented by `TcpStream`, and by tests in memory. Errors of the network are `RemoteError`.

    It belongs to the loop until a worker thread first sends or receives, and from then on to one thread at a time.
    """

    async def receive_into(self, room: memoryview) -> int:
        """Receives at least one byte into `room` and returns how many came, 0 at the end."""

    def send_blocking(self, data: Buffer) -> None:
        """Sends all of it; in a worker thread."""

    def receive_blocking(self, room: memoryview, least: int) -> int:
        """Receives into `room`, in a worker thread.

        Returns:
            How many bytes came: at least `least`, or fewer at the end.

        Raises:
            Stalled: Nothing came for long.
        """

    def close(self) -> None:
        """Ends it at once; whoever waits in it, in whatever thread, gets a `RemoteError`."""


class TcpStream:
    """A TCP connection as a `ByteStream`.

    Two objects share its descriptor: trio's, and one for threads, which block in the system: with the timeouts of
    Python each call would poll as well, and a chunk would be many calls. Closing shuts the connection down, which wakes
    every thread in it; the last one to leave closes the descriptor, so that none ever reads from another file's.
    """

    def __init__(self, sock: trio.socket.SocketType, stall_s: float = STALL_S) -> None:
        self._socket = sock
        self._stall_s = stall_s
        for option, value in _OPTIONS:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
        self._plain = socket.socket(sock.family, sock.type, sock.proto, fileno=sock.fileno())
        self._blocks = False
        self._lock = threading.Lock()
        self._inside = 0
        self._closed = False

    async def receive_into(self, room: memoryview) -> int:
        """See `ByteStream`."""
        count = 0
        try:
            with trio.move_on_after(self._stall_s) as scope:
                count = await self._socket.recv_into(room)
        except (OSError, trio.ClosedResourceError) as error:
            raise RemoteError(f"the TCP connection broke: {error}") from error
        if scope.cancelled_caught:
            raise self._stalled()
        return count

    def send_blocking(self, data: Buffer) -> None:
        """See `ByteStream`."""
        left = memoryview(data)
        with self._entered():
            while left:
                left = left[self._plain.send(left) :]

    def receive_blocking(self, room: memoryview, least: int) -> int:
        """See `ByteStream`."""
        have, flags = 0, socket.MSG_WAITALL if least == len(room) else 0
        with self._entered():
            while have < least:
                count = self._plain.recv_into(room[have:], 0, flags)
                if not count:
                    break
                have += count
        return have

    def close(self) -> None:
        """See `ByteStream`."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            trio.lowlevel.notify_closing(self._plain)
            with contextlib.suppress(OSError):
                self._plain.shutdown(socket.SHUT_RDWR)
            self._socket.detach()
            if not self._inside:
                self._plain.close()

    @contextlib.contextmanager
    def _entered(self) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise RemoteError("the TCP connection broke: it was closed here")
            self._inside += 1
        try:
            if not self._blocks:
                self._block()
            yield
        except BlockingIOError:
            raise self._stalled() from None
        except OSError as error:
            raise RemoteError(f"the TCP connection broke: {error}") from error
        finally:
            self._leave()

    def _block(self) -> None:
        """Takes the connection from the loop."""
        self._plain.setblocking(True)
        milliseconds = max(1, int(self._stall_s * 1e3))
        if sys.platform == "win32":
            within = struct.pack("=I", milliseconds)
        else:
            within = struct.pack("@ll", milliseconds // 1000, milliseconds % 1000 * 1000)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._plain.setsockopt(socket.SOL_SOCKET, option, within)
        self._blocks = True

    def _leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._closed and not self._inside:
                self._plain.close()

    def _stalled(self) -> Stalled:
        return Stalled(f"nothing moved on the TCP connection for {self._stall_s:g} s")


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
