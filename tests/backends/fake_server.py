"""A real HTTP server on loopback that speaks what real servers speak, and misbehaves on demand."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import h11
import trio


@dataclass
class Received:
    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Server:
    """What a test sees of the server: what came in, and how answers are given."""

    handlers: dict[str, Callable[[Reply], Awaitable[None]]] = field(default_factory=dict)
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    closed_early: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def on(self, path: str, handler: Callable[[Reply], Awaitable[None]]) -> None:
        self.handlers[path] = handler

    def json(self, path: str, value: Any, status: int = 200) -> None:
        async def answer(reply: Reply) -> None:
            await reply.json(value, status)

        self.on(path, answer)

    def raw(self, path: str, status: int, content_type: str, body: bytes) -> None:
        async def answer(reply: Reply) -> None:
            await reply.whole(status, content_type, body)

        self.on(path, answer)

    def sse(self, path: str, *pieces: bytes, end: bool = True, content_type: str = "text/event-stream") -> None:
        async def answer(reply: Reply) -> None:
            await reply.start(200, content_type)
            for piece in pieces:
                await reply.piece(piece)
            if end:
                await reply.end()
            else:
                await reply.cut()

        self.on(path, answer)


class Reply:
    """One request being answered."""

    def __init__(self, stream: trio.SocketStream, state: h11.Connection, request: Received) -> None:
        self.stream = stream
        self.state = state
        self.request = request

    async def start(self, status: int, content_type: str, *more: tuple[str, str]) -> None:
        headers = [("Content-Type", content_type), ("Transfer-Encoding", "chunked"), *more]
        await self._send(h11.Response(status_code=status, headers=headers))

    async def piece(self, data: bytes) -> None:
        await self._send(h11.Data(data=data))

    async def end(self) -> None:
        await self._send(h11.EndOfMessage())

    async def cut(self) -> None:
        await trio.aclose_forcefully(self.stream)

    async def whole(self, status: int, content_type: str, body: bytes, *more: tuple[str, str]) -> None:
        headers = [("Content-Type", content_type), ("Content-Length", str(len(body))), *more]
        await self._send(h11.Response(status_code=status, headers=headers))
        if body:
            await self._send(h11.Data(data=body))
        await self.end()

    async def json(self, value: Any, status: int = 200) -> None:
        await self.whole(status, "application/json", json.dumps(value).encode())

    async def _send(self, event: h11.Event) -> None:
        data = self.state.send(event)
        if data:
            await self.stream.send_all(data)


@asynccontextmanager
async def serve() -> AsyncIterator[Server]:
    server = Server()

    async def connection(stream: trio.SocketStream) -> None:
        server.connections += 1
        try:
            await _talk(server, stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
            server.closed_early += 1

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, connection, 0)
        server.port = listeners[0].socket.getsockname()[1]
        yield server
        nursery.cancel_scope.cancel()


async def _talk(server: Server, stream: trio.SocketStream) -> None:
    async with stream:
        state = h11.Connection(h11.SERVER)
        while True:
            request = await _request(stream, state)
            if request is None:
                return
            server.received.append(request)
            handler = server.handlers.get(request.path)
            reply = Reply(stream, state, request)
            if handler is None:
                await reply.whole(404, "text/plain", b"404 page not found")
            else:
                await handler(reply)
            if state.our_state is not h11.DONE:
                return
            state.start_next_cycle()


async def _request(stream: trio.SocketStream, state: h11.Connection) -> Received | None:
    head, body = None, b""
    while True:
        event = state.next_event()
        if event is h11.NEED_DATA:
            state.receive_data(await stream.receive_some(65_536))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            headers = {name.decode(): value.decode() for name, value in head.headers}
            is_form = headers.get("content-type", "").startswith("multipart/")
            content = body if is_form else json.loads(body) if body else None
            return Received(head.method.decode(), head.target.decode(), headers, content)
        else:
            return None
