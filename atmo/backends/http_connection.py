"""One connection to a server behind a backend: its bytes, and the heads of answers on it."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import trio
from trio.lowlevel import checkpoint, notify_closing, wait_readable, wait_writable

from atmo.errors import WireError
from atmo.wire.http1 import ResponseHead, response_head_untrusted

RECEIVE_BYTES = 64 * 1024
MAX_HEADER_BYTES = 64 * 1024
MAX_HEADERS = 256
MAX_INTERIM = 16
"""Heads such as `100 Continue` before an answer. Source: guess; servers send one or two."""

_HTTP = b"HTTP/1."
_LOST = (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError, OSError)


class HttpError(Exception):
    """The server was not reached or broke off; the message says which, without the address."""


class Unreachable(HttpError):
    """No connection could be made."""


class Late(HttpError):
    """The server took too long."""


class Broken(HttpError):
    """The connection broke, or what came is not HTTP."""


class ByteStream(Protocol):
    """What a connection is written to and read from, by one task at a time."""

    async def send_all(self, data: bytes) -> None: ...

    async def receive_some(self, most: int) -> bytes | bytearray: ...

    async def aclose(self) -> None: ...


class PlainStream:
    """A TCP socket without what makes `trio.SocketStream` cost twice as much."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def send_all(self, data: bytes) -> None:
        rest = memoryview(data)
        while True:
            try:
                rest = rest[self._sock.send(rest) :]
            except BlockingIOError:
                await wait_writable(self._sock)
            if not rest:
                return

    async def receive_some(self, most: int) -> bytes:
        while True:
            await wait_readable(self._sock)
            try:
                return self._sock.recv(most)
            except BlockingIOError:
                continue

    def is_readable(self) -> bool:
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    async def aclose(self) -> None:
        if self._sock.fileno() >= 0:
            notify_closing(self._sock)
            self._sock.close()
        await checkpoint()


@dataclass(slots=True)
class Connection:
    """One connection.

    Attributes:
        stream: Its bytes.
        readable: Whether something can be read at once: on a kept one, its end, or what nobody asked for.
        data: What came and was not used.
        used: It has answered a request before.
        received: Something came since the last request was sent.
        idle_since: On trio's clock.
    """

    stream: ByteStream
    readable: Callable[[], bool]
    data: bytes = b""
    used: bool = False
    received: bool = False
    idle_since: float = 0.0

    async def send(self, data: bytes, within_s: float) -> None:
        """Sends everything."""
        try:
            with trio.CancelScope(deadline=trio.current_time() + within_s):
                await self.stream.send_all(data)
                return
        except _LOST as error:
            raise Broken("closed the connection") from error
        raise Late(f"did not take the request within {within_s:g} s")

    async def more(self, within_s: float) -> bool:
        """Waits for more of an answer; False where the server has ended the connection."""
        with trio.CancelScope(deadline=trio.current_time() + within_s):
            return await self._more()
        raise Late(f"sent nothing for {within_s:g} s")

    async def _more(self) -> bool:
        try:
            piece = await self.stream.receive_some(RECEIVE_BYTES)
        except _LOST as error:
            raise Broken("closed the connection") from error
        if not piece:
            return False
        self.received = True
        self.data = self.data + piece if self.data else bytes(piece)
        return True

    async def head(self, within_s: float) -> ResponseHead:
        """Returns the next head that is not one such as `100 Continue`."""
        with trio.CancelScope(deadline=trio.current_time() + within_s):
            for _ in range(MAX_INTERIM):
                if (head := await self._head()).status >= 200:
                    return head
            raise Broken("does not come to its answer")
        raise Late(f"sent nothing for {within_s:g} s")

    async def _head(self) -> ResponseHead:
        while (end := self.data.find(b"\r\n\r\n", 0, MAX_HEADER_BYTES + 4)) < 0:
            if len(self.data) > MAX_HEADER_BYTES or not _HTTP.startswith(self.data[: len(_HTTP)]):
                raise Broken("does not speak HTTP")
            if not await self._more():
                raise Broken("does not speak HTTP" if self.data else "closed the connection")
        head, self.data = self.data[:end], self.data[end + 4 :]
        try:
            return response_head_untrusted(head, MAX_HEADERS)
        except WireError as error:
            raise Broken("does not speak HTTP") from error

    async def aclose(self) -> None:
        """Closes it without a farewell."""
        with trio.CancelScope() as scope:
            scope.cancel()
            await self.stream.aclose()
