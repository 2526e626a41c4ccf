"""A small HTTP/1.1 client on trio and h11 for the servers behind backends: keep-alive, TLS, bounds on everything.

Answers are read by calling `receive`, not by iterating nested async generators, so that giving up in mid-stream closes
the connection there and then. It follows no redirects (they would carry the key elsewhere) and uses no proxy.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11
import trio

RECEIVE_BYTES = 64 * 1024
MAX_HEADER_BYTES = 64 * 1024
_LOST = (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError, ssl.SSLError, OSError)


class HttpError(Exception):
    """The server was not reached or broke off; the message says which, without the address."""


class Unreachable(HttpError):
    """No connection could be made."""


class Late(HttpError):
    """The server took too long."""


class Broken(HttpError):
    """The connection broke, or what came is not HTTP."""


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
    keep_most: int = 8


@dataclass(slots=True)
class _Connection:
    stream: trio.abc.Stream
    socket: trio.socket.SocketType
    state: h11.Connection
    used: bool = False
    received: bool = False
    answered: bool = False
    idle_since: float = 0.0


class Response:
    """An answer whose headers have arrived. Close it, or use it with `async with`, also when it was read to its end.

    Attributes:
        status: HTTP status.
        headers: Names in lower case; of repeated ones the last.
    """

    def __init__(
        self, connection: _Connection, head: h11.Response, idle_s: float, keep: Callable[[_Connection], bool]
    ) -> None:
        self.status = int(head.status_code)
        self.headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in head.headers}
        self._connection = connection
        self._idle_s = idle_s
        self._keep = keep
        self._open = True
        self._at_end = False

    async def __aenter__(self) -> Response:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Keeps the connection where the answer was read to its end, else closes it."""
        if self._open:
            self._open = False
            if not self._keep(self._connection):
                await trio.aclose_forcefully(self._connection.stream)

    @property
    def content_type(self) -> str:
        """The media type without parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    async def receive(self) -> bytes:
        """Returns the next piece of the body, empty at its end.

        Raises:
            Broken: The connection ended before the body did.
            Late: Nothing came for `idle_s`.
        """
        while not self._at_end:
            event = await _next_event(self._connection, self._idle_s)
            if isinstance(event, h11.Data) and event.data:
                return bytes(event.data)
            self._at_end = isinstance(event, h11.EndOfMessage)
        return b""

    async def read(self, most: int) -> bytes:
        """Returns the rest of the body.

        Raises:
            Broken: It is longer than `most` bytes, or the connection ended before it did.
            Late: Nothing came for `idle_s`.
        """
        body = bytearray()
        while piece := await self.receive():
            body += piece
            if len(body) > most:
                raise Broken(f"sent more than {most} bytes")
        return bytes(body)


class HttpClient:
    """Requests to one server.

    Args:
        url: `http://host:port/path` or `https://...`; the path is put before that of every request.
        config: Waiting times and bounds.
        tls: For a server with a certificate of its own.

    Raises:
        ValueError: The URL is not one.
    """

    def __init__(self, url: str, config: HttpConfig = HttpConfig(), tls: ssl.SSLContext | None = None) -> None:
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
        self._idle: list[_Connection] = []
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
        names = {"Host": self._host_header, "Accept-Encoding": "identity", "User-Agent": "atmosphere"} | dict(headers)
        if body is not None:
            names["Content-Length"] = str(len(body))
        head = h11.Request(method=method, target=self.base + path, headers=list(names.items()))
        while True:
            connection = await self._take()
            try:
                await _send(connection, head, body, self._config.send_s)
                event = await _next_event(connection, first_byte_s)
                while isinstance(event, h11.InformationalResponse):
                    event = await _next_event(connection, first_byte_s)
            except Broken:
                await trio.aclose_forcefully(connection.stream)
                # A kept connection may have been closed by the server meanwhile; nothing was answered on it.
                if connection.used and not connection.received:
                    continue
                raise
            except BaseException:
                await trio.aclose_forcefully(connection.stream)
                raise
            assert isinstance(event, h11.Response)
            connection.answered = True
            return Response(connection, event, self._config.idle_s, self._kept)

    async def aclose(self) -> None:
        """Closes the unused connections; those in use close when they are done."""
        self._closed = True
        while self._idle:
            await trio.aclose_forcefully(self._idle.pop().stream)

    async def _take(self) -> _Connection:
        now = trio.current_time()
        while self._idle:
            connection = self._idle.pop()
            if now - connection.idle_since < self._config.keep_s and not connection.socket.is_readable():
                return connection
            await trio.aclose_forcefully(connection.stream)
        return await self._connect()

    async def _connect(self) -> _Connection:
        try:
            with trio.fail_after(self._config.connect_s):
                plain = await trio.open_tcp_stream(self._host, self._port)
                try:
                    plain.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
                    stream = await self._handshake(plain)
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
        state = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADER_BYTES)
        return _Connection(stream, plain.socket, state)

    async def _handshake(self, plain: trio.SocketStream) -> trio.abc.Stream:
        if not self._secure:
            return plain
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

    def _kept(self, connection: _Connection) -> bool:
        """Keeps a connection for the next request, where its answer was read to the end."""
        state = connection.state
        reusable = state.our_state is h11.DONE and state.their_state is h11.DONE
        if self._closed or not reusable or len(self._idle) >= self._config.keep_most:
            return False
        state.start_next_cycle()
        connection.used, connection.received, connection.answered = True, False, False
        connection.idle_since = trio.current_time()
        self._idle.append(connection)
        return True


def _reason(error: BaseException | None) -> str:
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(_reason, error.exceptions)), "")
    if isinstance(error, OSError) and not isinstance(error, socket.gaierror) and (error.errno or 0) > 0:
        return os.strerror(error.errno or 0)
    return str(getattr(error, "strerror", None) or "")


async def _send(connection: _Connection, head: h11.Request, body: bytes | None, within_s: float) -> None:
    data = connection.state.send(head) or b""
    if body:
        data += connection.state.send(h11.Data(data=body)) or b""
    data += connection.state.send(h11.EndOfMessage()) or b""
    try:
        with trio.fail_after(within_s):
            await connection.stream.send_all(data)
    except trio.TooSlowError:
        raise Late(f"did not take the request within {within_s:g} s") from None
    except _LOST as error:
        raise Broken("closed the connection") from error


async def _next_event(connection: _Connection, within_s: float) -> h11.Event:
    try:
        with trio.fail_after(within_s):
            while True:
                event = connection.state.next_event()
                if event is h11.NEED_DATA:
                    data = await connection.stream.receive_some(RECEIVE_BYTES)
                    connection.received = connection.received or bool(data)
                    connection.state.receive_data(bytes(data))
                elif isinstance(event, h11.ConnectionClosed):
                    raise Broken("closed the connection")
                else:
                    assert not isinstance(event, type)
                    return event
    except trio.TooSlowError:
        raise Late(f"sent nothing for {within_s:g} s") from None
    except h11.RemoteProtocolError as error:
        if connection.answered:
            raise Broken("broke off in the middle of its answer") from error
        raise Broken("does not speak HTTP" if connection.received else "closed the connection") from error
    except _LOST as error:
        raise Broken("closed the connection") from error
