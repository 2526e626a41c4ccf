"""One connection of a client: its requests one after the other, within times and sizes."""

from __future__ import annotations

import logging
import math
import socket
from collections.abc import Callable
from dataclasses import dataclass

import trio
from starlette.types import ASGIApp

from atmo.api.http.asgi import ServerExchange, http_scope, too_large
from atmo.api.http.limits import Connections, HttpLimits
from atmo.api.http.websocket import serve_websocket
from atmo.api.http.wire import Wire
from atmo.errors import RequestError, WireError
from atmo.gateway.jsontext import dump
from atmo.wire.http1 import RequestHead, request_head_untrusted

LINGER_S = 2.0
"""For a client that still sends a body nobody wants, to read its answer. Source: nginx's lingering_timeout is 5 s."""

EMPTY_LINES = 4
"""Before a request: old clients send one after a body (RFC 9112, section 2.2). Source: guess."""

_EMPTY = b"\r\n"
log = logging.getLogger("atmo.api.http")


@dataclass(slots=True)
class Serving:
    """What all connections of a server share.

    Attributes:
        app: The ASGI application.
        limits: Of a client.
        connections: Which are open.
        address: The server's own.
        stopping: No further requests are taken.
    """

    app: ASGIApp
    limits: HttpLimits
    connections: Connections
    address: tuple[str, int]
    stopping: Callable[[], bool]


class ServerConnection:
    """Serves one client until it leaves, or breaks a limit, or the server ends.

    Args:
        serving: What all connections share.
        sock: The client, not blocking.
        client: Its address.
        number: Of this connection in `Connections`.

    Attributes:
        waiting: It has no request under way.
    """

    def __init__(self, serving: Serving, sock: socket.socket, client: tuple[str, int], number: int) -> None:
        self._serving = serving
        self._sock = sock
        self._client = client
        self._number = number
        self._wire = Wire(sock, serving.limits.ahead_bytes, serving.limits.stall_s)
        self._scope = trio.CancelScope()
        self._exchange: ServerExchange | None = None
        self.waiting = True

    async def run(self) -> None:
        """Serves, and closes the socket."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._wire.read)
                with self._scope:
                    await self._requests()
                if self._scope.cancelled_caught and not self._serving.stopping():
                    await self._tell_late()
                nursery.cancel_scope.cancel()
        finally:
            self._sock.close()

    def close(self) -> None:
        """Ends the connection; an answer under way is broken off."""
        self._wire.lost()
        self._scope.cancel()

    async def _requests(self) -> None:
        serving = self._serving
        self._expire(trio.current_time() + serving.limits.fresh_s)
        in_row = 0
        while not serving.stopping():
            try:
                head = await self._head()
            except RequestError as error:
                await self._refuse(error)
                return
            if head is None:
                return
            self.waiting = False
            serving.connections.busy(self._number)
            self._expire(math.inf)
            if not await self._answer(head):
                return
            serving.connections.idle(self._number)
            self.waiting = True
            self._expire(trio.current_time() + serving.limits.idle_s)
            in_row = in_row + 1 if self._wire.data else 0
            if in_row >= serving.limits.in_row:
                in_row = 0
                await trio.lowlevel.checkpoint()

    def _expire(self, at: float) -> None:
        self._scope.deadline = at

    async def _head(self) -> RequestHead | None:
        """Returns the next request, None where no further one comes."""
        wire, limits, begun, empty = self._wire, self._serving.limits, False, 0
        while True:
            while empty < EMPTY_LINES and wire.data.startswith(_EMPTY):
                wire.take(len(_EMPTY))
                empty += 1
            end = wire.data.find(b"\r\n\r\n", 0, limits.header_bytes + 4)
            line = wire.data.find(b"\r\n", 0, limits.line_bytes + 2)
            if line < 0 and len(wire.data) >= limits.line_bytes + 2:
                raise RequestError(414, "The request's path is too long.", code="path_too_long")
            if end >= 0:
                head = wire.take(end + 4)[:end]
                if head.count(b"\r\n") > limits.header_count:
                    raise _too_many(limits)
                try:
                    return request_head_untrusted(head, limits.header_count)
                except WireError as error:
                    raise RequestError(
                        400, f"This is no request that is understood: {error}.", code="bad_request"
                    ) from error
            if len(wire.data) >= limits.header_bytes + 4:
                raise _too_many(limits)
            if wire.data and not begun:
                begun = True
                self._expire(trio.current_time() + limits.header_s)
            if not await wire.more():
                return None

    async def _answer(self, head: RequestHead) -> bool:
        """Answers a request; says whether another one may follow."""
        serving, wire = self._serving, self._wire
        if head.length > serving.limits.body_bytes:
            await self._refuse(too_large(serving.limits))
            return False
        try:
            scope = http_scope(head, self._client, serving.address)
        except WireError as error:
            await self._refuse(
                RequestError(400, f"This is no request that is understood: {error}.", code="bad_request")
            )
            return False
        if head.websocket:
            await serve_websocket(serving.app, scope, head, wire, serving.limits.message_bytes)
            return False
        exchange = ServerExchange(wire, head, serving.limits, serving.stopping(), self._expire)
        self._exchange = exchange
        try:
            await exchange.run(serving.app, scope)
        except Exception:
            log.exception("%r failed", scope["path"][:128])
        self._exchange = None
        if wire.gone:
            return False
        if not exchange.started:
            await self._refuse(
                exchange.fault or RequestError(500, "Nothing was answered.", kind="api_error", code="internal_error")
            )
        if not exchange.complete:
            return False
        if exchange.unread:
            if not await exchange.drain():
                await wire.linger(LINGER_S)
                return False
            self._expire(math.inf)
        return exchange.keep

    async def _refuse(self, error: RequestError) -> None:
        """Answers what never reaches the application; the connection ends after it."""
        self._expire(math.inf)
        await self._wire.write(refusal(error))
        await self._wire.linger(LINGER_S)

    async def _tell_late(self) -> None:
        """Answers a request that did not come in time; who sent nothing at all is told nothing."""
        exchange, self._exchange = self._exchange, None
        if (exchange is None and not self._wire.data) or (exchange is not None and exchange.started):
            return
        self._scope = trio.CancelScope()
        await self._refuse(RequestError(408, "The request came too slowly.", code="request_timeout"))


def refusal(error: RequestError) -> bytes:
    """Returns an answer to a client that is told an error and then left."""
    body = dump(error.body())
    head = f"HTTP/1.1 {error.status} \r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"connection: close\r\n\r\n" + body


def _too_many(limits: HttpLimits) -> RequestError:
    message = f"The request has more than {limits.header_count} headers, or {limits.header_bytes} bytes of them."
    return RequestError(431, message, code="headers_too_large")
