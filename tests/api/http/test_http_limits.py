"""A server with small limits on a real socket: each one ends what breaks it, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

from atmo.api.http.limits import HttpLimits
from atmo.api.http.server import serve

WAIT_S = 20.0
CONNECTED = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"


class App:
    """Answers with how long the body was; waits where it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.go_on = trio.Event()
        self.go_on.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked += 1
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            size, more = size + len(message["body"]), message["more_body"]
        await self.go_on.wait()
        body = str(size).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def serving(**limits: Any) -> AsyncIterator[tuple[App, int]]:
    """Serves an application with these limits; yields it and the port."""
    app = App()
    async with trio.open_nursery() as nursery:
        port: int = await nursery.start(partial(serve, app, "127.0.0.1", 0, limits=HttpLimits(**limits)))
        with trio.fail_after(WAIT_S):
            await trio.lowlevel.checkpoint()
            yield app, port
        nursery.cancel_scope.cancel()


async def all_of(stream: trio.SocketStream) -> bytes:
    """Returns what comes until the server closes the connection."""
    found = b""
    try:
        while piece := await stream.receive_some(65_536):
            found += piece
    except trio.BrokenResourceError:
        return found
    return found


async def one_of(stream: trio.SocketStream) -> bytes:
    """Returns the first answer that comes, which ends with a digit."""
    found = b""
    while not (found.partition(b"\r\n\r\n")[2]):
        piece = await stream.receive_some(65_536)
        assert piece, found
        found += piece
    return found


async def answered(port: int, *pieces: bytes, pause_s: float = 0.0) -> bytes:
    """Sends pieces with pauses between, and returns all that comes back until the server closes the connection."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        for piece in pieces:
            try:
                await stream.send_all(piece)
            except trio.BrokenResourceError:
                break
            await trio.sleep(pause_s)
        return await all_of(stream)


async def test_headers_that_come_too_slowly() -> None:
    async with serving(header_s=0.2) as (app, port):
        found = await answered(port, b"GET / HTTP/1.1\r\n", *[b"x: y\r\n"] * 20, pause_s=0.05)
        assert found.startswith(b"HTTP/1.1 408 ")
        assert app.asked == 0


async def test_a_body_that_comes_too_slowly() -> None:
    async with serving(body_grace_s=0.5, body_bytes_s=100.0) as (_, port):
        head = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n"
        assert (await answered(port, head, *[b"x"] * 20, pause_s=0.05)).startswith(b"HTTP/1.1 408 ")
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(head)
            for _ in range(20):
                await stream.send_all(b"x" * 50)
                await trio.sleep(0.02)
            assert (await one_of(stream)).endswith(b"1000")


@pytest.mark.parametrize("asks_first", [False, True])
async def test_a_connection_that_waits_too_long(asks_first: bool) -> None:
    async with serving(**{"idle_s" if asks_first else "fresh_s": 0.1}) as (app, port):
        found = await answered(port, CONNECTED) if asks_first else await answered(port)
        assert found.endswith(b"0") if asks_first else found == b""
        assert app.asked == asks_first


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /" + b"x" * 200 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n", 414),
        (b"x" * 300, 414),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 6 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 600 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 600, 431),
        (b"\r\n" * 20 + b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2001\r\n\r\n", 413),
        (
            b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n7d1\r\n" + b"x" * 2_001 + b"\r\n",
            413,
        ),
    ],
)
async def test_what_is_too_large(request_bytes: bytes, status: int) -> None:
    async with serving(line_bytes=100, header_bytes=500, header_count=5, body_bytes=2_000) as (_, port):
        assert (await answered(port, request_bytes)).startswith(b"HTTP/1.1 %d " % status)
        assert (await answered(port, CONNECTED[:-2] + b"connection: close\r\n\r\n")).endswith(b"0")


async def test_the_longest_idle_connection_makes_room() -> None:
    async with serving(connections=3) as (_, port):
        streams = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(3)]
        for stream in streams:
            await stream.send_all(CONNECTED)
            await one_of(stream)
        async with await trio.open_tcp_stream("127.0.0.1", port) as newest:
            assert await all_of(streams[0]) == b""
            await newest.send_all(CONNECTED)
            assert (await one_of(newest)).endswith(b"0")
            await streams[1].send_all(CONNECTED)
            assert (await one_of(streams[1])).endswith(b"0")
        for stream in streams:
            await stream.aclose()


async def test_where_all_connections_are_busy_the_next_one_is_told() -> None:
    async with serving(connections=2) as (app, port):
        app.go_on = trio.Event()
        async with (
            await trio.open_tcp_stream("127.0.0.1", port) as first,
            await trio.open_tcp_stream("127.0.0.1", port) as second,
        ):
            for stream in (first, second):
                await stream.send_all(CONNECTED)
            while app.asked < 2:
                await trio.sleep(0.01)
            assert (await answered(port)).startswith(b"HTTP/1.1 503 ")
            app.go_on.set()
            assert (await one_of(first)).endswith(b"0")
            assert (await one_of(second)).endswith(b"0")


async def test_what_is_sent_ahead_waits_for_its_turn() -> None:
    async with serving(ahead_bytes=1_000) as (app, port):
        app.go_on = trio.Event()
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(CONNECTED * 20)
            while not app.asked:
                await trio.sleep(0.01)
            await trio.sleep(0.05)
            assert app.asked == 1
            app.go_on.set()
            await stream.send_all(CONNECTED[:-2] + b"connection: close\r\n\r\n")
            assert (await all_of(stream)).count(b"HTTP/1.1 200 ") == 21
