"""WebSockets on our HTTP server, with wsproto at the other end."""

from __future__ import annotations

from typing import Any

import trio
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.frame_protocol import Opcode

from atmo.api.routing import Application, Router
from tests.api.face import application
from tests.api.http.test_http_server import Client, client_of, served


class Peer:
    """A client that speaks WebSocket."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.protocol = WSConnection(ConnectionType.CLIENT)
        self.waiting: list[Event] = []

    async def open(self, target: str = "/ws", **more: Any) -> Event:
        await self.send(Request(host="127.0.0.1", target=target, **more))
        return await self.next()

    async def send(self, event: Event) -> None:
        await self.client.send(self.protocol.send(event))

    async def next(self) -> Event:
        with trio.fail_after(5):
            while not self.waiting:
                data = await self.client.stream.receive_some()
                self.protocol.receive_data(data or None)
                self.waiting += self.protocol.events()
        return self.waiting.pop(0)


def make_app(left: list[int]) -> Application:
    router = Router()

    @router.websocket("/ws")
    async def ws(socket: WebSocket) -> None:
        await socket.accept("chat" if "chat" in socket.scope["subprotocols"] else None, [(b"x-own", b"yes")])
        try:
            while True:
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    raise WebSocketDisconnect(message["code"])
                if message.get("text") == "end":
                    await socket.close(4000, "as you wish")
                    return
                if message.get("text") == "fail":
                    raise ValueError("told in the log")
                if message.get("text") is not None:
                    await socket.send_text(message["text"][::-1])
                else:
                    await socket.send_bytes(message["bytes"][::-1])
        except WebSocketDisconnect as error:
            left.append(error.code)

    return application(router)


async def test_messages_of_both_kinds_and_in_pieces() -> None:
    left: list[int] = []
    async with client_of(make_app(left)) as client:
        peer = Peer(client)
        accepted = await peer.open(subprotocols=["other", "chat"])
        assert isinstance(accepted, AcceptConnection)
        assert accepted.subprotocol == "chat"
        assert (b"x-own", b"yes") in accepted.extra_headers
        await peer.send(TextMessage("abc"))
        assert await peer.next() == TextMessage("cba")
        await peer.send(BytesMessage(b"x", message_finished=False))
        await peer.send(Ping(b"there?"))
        await peer.send(BytesMessage(b"", message_finished=False))
        await peer.send(BytesMessage(b"yz"))
        assert await peer.next() == Pong(b"there?")
        assert await peer.next() == BytesMessage(b"zyx")
        await peer.send(CloseConnection(1000))
        assert isinstance(await peer.next(), CloseConnection)
        assert await client.rest() == b""
    assert left == [1000]


async def test_the_application_ends_it() -> None:
    async with served(make_app([])) as connect:
        for word, code in (("end", 4000), ("fail", 1000)):
            peer = Peer(await connect())
            await peer.open()
            await peer.send(TextMessage(word))
            closed = await peer.next()
            assert isinstance(closed, CloseConnection)
            assert closed.code == code


async def test_the_client_vanishes_or_talks_nonsense() -> None:
    left: list[int] = []
    async with served(make_app(left)) as connect:
        peer = Peer(await connect())
        await peer.open()
        await peer.client.stream.aclose()
        peer = Peer(await connect())
        await peer.open()
        await peer.client.send(b"\xff\xff\xff\xff\xff\xff\xff\xff")
        closed = await peer.next()
        assert isinstance(closed, CloseConnection)
        assert closed.code == 1002
        with trio.fail_after(5):
            while len(left) < 2:
                await trio.sleep(0.01)
    assert sorted(left) == [1002, 1006]


async def test_a_message_that_is_too_large() -> None:
    async with client_of(make_app([])) as client:
        peer = Peer(client)
        await peer.open()
        piece = bytes(300_000)
        for number in range(4):
            opcode = Opcode.BINARY if not number else Opcode.CONTINUATION
            await client.send(bytes([opcode.value, 0x80 | 127]) + len(piece).to_bytes(8, "big") + bytes(4) + piece)
        closed = await peer.next()
        assert isinstance(closed, CloseConnection)
        assert closed.code == 1009


async def test_no_such_route_and_no_application() -> None:
    async with served(make_app([])) as connect:
        assert await Peer(await connect()).open("/nowhere") == RejectConnection(
            status_code=403, headers=[(b"content-length", b"0"), (b"connection", b"close")], has_body=True
        )

    async def silent(_scope: Scope, receive: Receive, _send: Send) -> None:
        assert (await receive())["type"] == "websocket.connect"

    async with served(silent) as connect:
        assert isinstance(await Peer(await connect()).open(), RejectConnection)
