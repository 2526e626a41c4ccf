"""A connection that became a WebSocket, between the bytes of a client and an ASGI application."""

from __future__ import annotations

import logging
from typing import Any

import trio
from starlette.types import ASGIApp, Message
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from atmo.api.http.wire import Wire
from atmo.wire.http1 import RequestHead

_TOO_BIG, _LEFT = 1009, 1006
log = logging.getLogger("atmo.api.http")


async def serve_websocket(
    app: ASGIApp, scope: dict[str, Any], head: RequestHead, wire: Wire, message_bytes: int
) -> None:
    """Runs the application for a WebSocket until one of both ends it.

    Args:
        app: The ASGI application.
        scope: Of the request.
        head: The request that asks for it.
        wire: The client.
        message_bytes: The largest message that is taken.
    """
    socket = _WebSocket(wire, message_bytes)
    names = next((value for name, value in head.headers if name == b"sec-websocket-protocol"), b"")
    subprotocols = [name.strip() for name in names.decode("latin-1").split(",") if name.strip()]
    scope |= {"type": "websocket", "scheme": "ws", "subprotocols": subprotocols}
    if not socket.begin(head):
        await wire.write(b"HTTP/1.1 400 \r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        return
    try:
        await app(scope, socket.receive, socket.send)
    except Exception:
        log.exception("%r failed", scope["path"][:128])
    await socket.finish()


class _WebSocket:
    def __init__(self, wire: Wire, message_bytes: int) -> None:
        self._wire = wire
        self._message_bytes = message_bytes
        self._protocol = WSConnection(ConnectionType.SERVER)
        self._waiting: list[Message] = [{"type": "websocket.connect"}]
        self._pieces: list[Any] = []
        self._size = 0
        self._accepted = False
        self._writing = trio.Lock()
        self._closed: int | None = None
        """Why it ended."""

    def begin(self, head: RequestHead) -> bool:
        """Says whether the request is one for a WebSocket."""
        lines = [b"GET %b HTTP/1.1" % head.target, *(b"%b: %b" % header for header in head.headers)]
        try:
            self._protocol.receive_data(b"\r\n".join(lines) + b"\r\n\r\n")
            return any(isinstance(event, Request) for event in self._protocol.events())
        except (RemoteProtocolError, LocalProtocolError):
            return False

    async def receive(self) -> Message:
        """Returns the next message of the client."""
        while not self._waiting:
            if self._closed is not None:
                return {"type": "websocket.disconnect", "code": self._closed, "reason": ""}
            if not self._wire.data and not await self._wire.more():
                self._closed = _LEFT
                continue
            await self._read(self._wire.take())
        return self._waiting.pop(0)

    async def _read(self, data: bytes) -> None:
        try:
            self._protocol.receive_data(data)
            for event in self._protocol.events():
                await self._note(event)
        except RemoteProtocolError as error:
            self._closed = _LEFT
            if error.event_hint is not None:
                await self._write(error.event_hint)

    async def _note(self, event: Event) -> None:
        if self._closed is not None:
            return
        if isinstance(event, Ping):
            await self._write(event.response())
        elif isinstance(event, CloseConnection):
            self._closed = int(event.code)
            await self._write(event.response())
        elif isinstance(event, TextMessage | BytesMessage):
            self._size += len(event.data)
            if self._size > self._message_bytes:
                self._closed = _TOO_BIG
                await self._write(CloseConnection(_TOO_BIG, "the message is too large"))
                return
            if event.data:
                self._pieces.append(event.data)
            if event.message_finished:
                empty: Any = "" if isinstance(event, TextMessage) else b""
                key = "text" if isinstance(event, TextMessage) else "bytes"
                self._waiting.append({"type": "websocket.receive", key: empty.join(self._pieces)})
                self._pieces, self._size = [], 0

    async def send(self, message: Message) -> None:
        """Sends a message of the application."""
        kind = message["type"]
        if kind == "websocket.accept":
            headers = [(name, value) for name, value in message.get("headers", ())]
            self._accepted = True
            await self._write(AcceptConnection(subprotocol=message.get("subprotocol"), extra_headers=headers))
        elif kind == "websocket.close" and not self._accepted:
            self._closed = _LEFT
            headers = [(b"content-length", b"0"), (b"connection", b"close")]
            await self._write(RejectConnection(status_code=403, headers=headers))
        elif kind == "websocket.close" and self._closed is None:
            self._closed = message.get("code") or 1000
            await self._write(CloseConnection(self._closed, message.get("reason") or ""))
        elif kind == "websocket.send" and self._closed is None:
            text = message.get("text")
            await self._write(TextMessage(text) if text is not None else BytesMessage(message["bytes"]))

    async def finish(self) -> None:
        """Ends what the application left open."""
        if self._closed is None:
            await self.send({"type": "websocket.close", "code": 1000 if self._accepted else 1011})

    async def _write(self, event: Event) -> None:
        """Sends one frame; a pong that the reader owes waits until the writer's message is out, and the other way."""
        async with self._writing:
            try:
                data = self._protocol.send(event)
            except LocalProtocolError:
                self._closed = self._closed or _LEFT
                return
            await self._wire.write(data)
