"""A small HTTP/1.1 client on trio for the servers behind backends: keep-alive, TLS, bounds on everything.

Answers are read by calling `receive`, not by iterating nested async generators, so that giving up in mid-stream closes
the connection there and then. It follows no redirects (they would carry the key elsewhere) and uses no proxy.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import trio

from atmo.backends.http_connection import Broken, ByteStream, Connection, HttpError, Late, PlainStream, Unreachable
from atmo.errors import WireError
from atmo.wire.http1 import CHUNKED, UNTIL_CLOSE, Chunked, ResponseHead

__all__ = ["Broken", "HttpClient", "HttpConfig", "HttpError", "Late", "Response", "Unreachable"]

_BREAKS = re.compile(r"[\r\n\0]")


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """Waiting times and bounds. Values are choices.

    Attributes:
        connect_s: For the connection with its TLS handshake.
        send_s: For sending the request.
        idle_s: Between two pieces of an answer.
        keep_s: How long an unused connection is kept; servers commonly close after 5 to 75 s.
        keep_most: How many unused connections are kept.
    """

    connect_s: float = 5.0
    send_s: float = 60.0
    idle_s: float = 120.0
    keep_s: float = 15.0
    keep_most: int = 32


class Response:
    """An answer whose headers have arrived. Close it, or use it with `async with`, also when it was read to its end.

    Attributes:
        status: HTTP status.
        headers: Names in lower case; of repeated ones the last.
    """

    def __init__(
        self, connection: Connection, head: ResponseHead, idle_s: float, keep: Callable[[Connection], bool]
    ) -> None:
        self.status = head.status
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
        self._connection = connection
        self._left = head.length
        self._chunked = Chunked() if head.length == CHUNKED else None
        self._keep_alive = head.keep_alive
        self._idle_s = idle_s
        self._keep = keep
        self._open = True
        self._at_end = head.length == 0

    async def __aenter__(self) -> Response:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Keeps the connection where the answer was read to its end, else closes it."""
        if self._open:
            self._open = False
            if not (self._at_end and self._keep_alive and self._keep(self._connection)):
                await self._connection.aclose()

    @property
    def content_type(self) -> str:
        """The media type without parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def at_end(self) -> bool:
        """Nothing of the body is left."""
        return self._at_end

    async def receive(self) -> bytes:
        """Returns the next piece of the body, empty at its end.

        Raises:
            Broken: The connection ended before the body did.
            Late: Nothing came for `idle_s`.
        """
        connection = self._connection
        while not self._at_end:
            if not connection.data and not await connection.more(self._idle_s):
                if self._left != UNTIL_CLOSE:
                    raise Broken("broke off in the middle of its answer")
                self._at_end = True
            elif piece := self._taken(connection):
                return piece
        return b""

    def _taken(self, connection: Connection) -> bytes:
        """Returns what is there of the body."""
        data, connection.data = connection.data, b""
        if self._left == UNTIL_CLOSE:
            return data
        if self._chunked is None:
            data, connection.data = data[: self._left], data[self._left :]
            self._left -= len(data)
            self._at_end = not self._left
            return data
        try:
            piece = self._chunked.feed_untrusted(data)
        except WireError as error:
            raise Broken("broke off in the middle of its answer") from error
        connection.data, self._at_end = self._chunked.rest, self._chunked.done
        return piece

    async def read(self, most: int) -> bytes:
        """Returns the rest of the body.

        Raises:
            Broken: It is longer than `most` bytes, or the connection ended before it did.
            Late: Nothing came for `idle_s`.
        """
        pieces: list[bytes] = []
        size = 0
        while piece := await self.receive():
            pieces.append(piece)
            size += len(piece)
            if size > most:
                raise Broken(f"sent more than {most} bytes")
        return b"".join(pieces)


class HttpClient:
    """Requests to one server.

    Args:
        url: `http://host:port/path` or `https://...`; the path is put before that of every request.
        config: Waiting times and bounds.
        tls: For a server with a certificate of its own.
        unix: Path of the socket on this machine where the server is, whatever host the URL names.

    Raises:
        ValueError: The URL is not one.
    """

    def __init__(
        self, url: str, config: HttpConfig = HttpConfig(), tls: ssl.SSLContext | None = None, unix: str = ""
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"{url!r} is not a URL such as http://127.0.0.1:8000/v1")
        self.base = parts.path.rstrip("/")
        self._secure = parts.scheme == "https"
        self._host = parts.hostname
        self._port = parts.port or (443 if self._secure else 80)
        literal = f"[{self._host}]" if ":" in self._host else self._host
        self._host_header = literal if parts.port is None else f"{literal}:{self._port}"
        self._config = config
        self._tls = tls
        self._unix = unix
        self._idle: list[Connection] = []
        self._closed = False

    async def request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None, first_byte_s: float
    ) -> Response:
        """Sends a request and returns the answer when its headers have arrived.

        Args:
            method: `GET` or `POST`.
            path: Starts with a slash.
            headers: Besides Host and Content-Length.
            body: The request's body.
            first_byte_s: How long the answer may take to begin.

        Raises:
            HttpError: The server was not reached, broke off or was late.
        """
        request = self._encoded(method, path, headers, body)
        while True:
            connection = await self._take()
            try:
                await connection.send(request, self._config.send_s)
                head = await connection.head(first_byte_s)
            except Broken:
                await connection.aclose()
                # A kept connection may have been closed by the server meanwhile; nothing was answered on it.
                if connection.used and not connection.received:
                    continue
                raise
            except BaseException:
                await connection.aclose()
                raise
            return Response(connection, head, self._config.idle_s, self._kept)

    def _encoded(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
        names = {"Host": self._host_header, "Accept-Encoding": "identity", "User-Agent": "atmosphere"} | dict(headers)
        if body is not None:
            names["Content-Length"] = str(len(body))
        lines = [f"{method} {self.base}{path} HTTP/1.1", *(f"{name}: {value}" for name, value in names.items())]
        head = "\r\n".join(lines)
        if len(_BREAKS.findall(head)) != 2 * (len(lines) - 1) or " " in path:
            raise ValueError("a path or a header has a line break")
        return head.encode("latin-1") + b"\r\n\r\n" + (body or b"")

    async def aclose(self) -> None:
        """Closes the unused connections; those in use close when they are done."""
        self._closed = True
        while self._idle:
            await self._idle.pop().aclose()

    async def _take(self) -> Connection:
        now = trio.current_time()
        while self._idle:
            connection = self._idle.pop()
            if now - connection.idle_since < self._config.keep_s and not connection.readable():
                return connection
            await connection.aclose()
        return await self._connect()

    async def _connect(self) -> Connection:
        try:
            with trio.fail_after(self._config.connect_s):
                plain = await self._dial()
                try:
                    secure = await self._handshake(plain) if self._secure else None
                except BaseException:
                    await trio.aclose_forcefully(plain)
                    raise
        except trio.TooSlowError:
            raise Unreachable(f"cannot be reached: no connection in {self._config.connect_s:g} s") from None
        except ssl.SSLCertVerificationError as error:
            raise Unreachable(f"has a certificate that is not trusted: {error.verify_message}") from error
        except (trio.BrokenResourceError, OSError) as error:
            reason = _reason(error) or _reason(error.__cause__) or "no connection could be made"
            raise Unreachable(f"cannot be reached: {reason}") from error
        if secure is not None:
            return Connection(secure, plain.socket.is_readable)
        sock = socket.socket(fileno=plain.socket.detach())
        sock.setblocking(False)
        bare = PlainStream(sock)
        return Connection(bare, bare.is_readable)

    async def _dial(self) -> trio.SocketStream:
        if self._unix:
            return await trio.open_unix_socket(self._unix)
        plain = await trio.open_tcp_stream(self._host, self._port)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            await trio.aclose_forcefully(plain)
            raise
        return plain

    async def _handshake(self, plain: trio.SocketStream) -> ByteStream:
        secure = trio.SSLStream(
            plain, self._tls or ssl.create_default_context(), server_hostname=self._host, https_compatible=True
        )
        try:
            await secure.do_handshake()
        except trio.BrokenResourceError as error:
            if isinstance(error.__cause__, ssl.SSLCertVerificationError):
                raise error.__cause__ from None
            raise
        return secure

    def _kept(self, connection: Connection) -> bool:
        """Keeps a connection for the next request, where its answer was read to the end."""
        if self._closed or connection.data or len(self._idle) >= self._config.keep_most:
            return False
        connection.used, connection.received = True, False
        connection.idle_since = trio.current_time()
        self._idle.append(connection)
        return True


def _reason(error: BaseException | None) -> str:
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(_reason, error.exceptions)), "")
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror) and (error.errno or 0) > 0:
        return os.strerror(error.errno or 0)
    return str(getattr(error, "strerror", None) or "")
