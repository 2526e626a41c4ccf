"""Our HTTP server with plain ASGI applications, byte by byte."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest
import trio
from starlette.types import Receive, Scope, Send

from atmo.api.http.asgi import GONE
from atmo.api.http.limits import HttpLimits
from atmo.api.http.server import serve

App = Callable[[Scope, Receive, Send], Awaitable[None]]
QUICK = HttpLimits(header_s=0.1, fresh_s=0.1, idle_s=0.1, body_grace_s=0.1, body_bytes_s=1e9, stall_s=0.2)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the path and the body, in as many chunks as came."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-method", scope["method"].encode())]})
    more = True
    await send({"type": "http.response.body", "body": scope["path"].encode() + b"?", "more_body": True})
    await send({"type": "http.response.body", "body": scope["query_string"] + b"|", "more_body": True})
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return
        more = message["more_body"]
        await send({"type": "http.response.body", "body": message["body"], "more_body": more})
    assert (await receive())["type"] == "http.disconnect"


async def hello(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Answers without a look at the body."""
    headers = [(b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})


class Client:
    """A socket."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def until(self, end: bytes) -> bytes:
        """Reads until `end` has come."""
        data = b""
        with trio.fail_after(5):
            while not data.endswith(end):
                piece = await self.stream.receive_some()
                assert piece, data
                data += piece
        return data

    async def rest(self) -> bytes:
        """Reads until the server closes."""
        data = b""
        with trio.fail_after(5):
            try:
                while piece := await self.stream.receive_some():
                    data += piece
            except trio.BrokenResourceError:
                pass
        return data


@asynccontextmanager
async def served(app: App, limits: HttpLimits = HttpLimits()) -> AsyncIterator[Callable[[], Awaitable[Client]]]:
    async with trio.open_nursery() as nursery:
        port = await nursery.start(partial(serve, app, "127.0.0.1", 0, limits=limits))
        streams = []

        async def connect() -> Client:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            streams.append(stream)
            return Client(stream)

        yield connect
        for stream in streams:
            await trio.aclose_forcefully(stream)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def client_of(app: App, limits: HttpLimits = HttpLimits()) -> AsyncIterator[Client]:
    async with served(app, limits) as connect:
        yield await connect()


async def test_bodies_in_every_form() -> None:
    async with client_of(echo) as client:
        await client.send(b"POST /a%20b?c=%20d HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nxyz")
        answer = await client.until(b"0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\nx-method: POST\r\ntransfer-encoding: chunked\r\ndate: ")
        assert answer.endswith(b"5\r\n/a b?\r\n7\r\nc=%20d|\r\n3\r\nxyz\r\n0\r\n\r\n")
        await client.send(b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
        await client.until(b"ab\r\n")
        await client.send(b"1\r\nc\r\n0\r\n\r\nGET http://host/next HTTP/1.1\r\n\r\n")
        assert b"1\r\nc\r\n0\r\n\r\nHTTP/1.1 200" in await client.until(b"1\r\n|\r\n0\r\n\r\n")


async def test_requests_in_a_row_are_answered_in_order() -> None:
    async with client_of(echo, replace(HttpLimits(), in_row=2)) as client:
        count = 50
        await client.send(b"".join(b"\r\nGET /%d HTTP/1.1\r\n\r\n" % number for number in range(count)))
        answer = await client.until(b"/49?\r\n1\r\n|\r\n0\r\n\r\n")
        assert [answer.count(b"/%d?" % number) for number in range(count)] == [1] * count


async def test_ahead_of_an_answer_only_so_much_is_read() -> None:
    release = trio.Event()

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        await release.wait()
        await hello(scope, receive, send)

    async with client_of(waits) as client:
        client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8_192)
        request = b"GET / HTTP/1.1\r\nx: " + b"y" * 1_000 + b"\r\n\r\n"
        sent = 0
        with trio.move_on_after(0.3):
            while True:
                await client.send(request * 100)
                sent += 100 * len(request)
        assert sent < 32 * 2**20
        release.set()
        assert b"hello" in await client.until(b"hello")


async def test_continue_is_told_when_the_body_is_wanted() -> None:
    async with client_of(echo) as client:
        await client.send(b"POST / HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        await client.until(b"|\r\n")
        await client.send(b"ok")
        await client.until(b"2\r\nok\r\n0\r\n\r\n")

    async def reads(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await hello(scope, receive, send)

    async with client_of(reads) as client:
        await client.send(b"POST / HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"ok")
        await client.until(b"hello")


async def test_a_body_that_nobody_read() -> None:
    async with served(hello) as connect:
        client = await connect()
        for _ in range(2):
            await client.send(b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\n")
            await client.until(b"hello")
            await client.send(b"late")
        client = await connect()
        await client.send(b"POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n")
        assert (await client.rest()).endswith(b"hello")
        client = await connect()
        await client.send(b"POST / HTTP/1.1\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n")
        assert (await client.rest()).endswith(b"hello")


@pytest.mark.parametrize("status", [200, 204, 304])
async def test_answers_without_a_body(status: int) -> None:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": b"hello"})

    async with client_of(app) as client:
        await client.send(b"HEAD / HTTP/1.1\r\n\r\nHEAD / HTTP/1.1\r\nConnection: close\r\n\r\n")
        answer = await client.rest()
        assert answer.count(b"HTTP/1.1 %d" % status) == 2
        assert b"hello" not in answer


async def test_an_old_client_reads_until_the_end() -> None:
    async with client_of(echo) as client:
        await client.send(b"GET /old HTTP/1.0\r\n\r\n")
        answer = await client.rest()
        assert b"connection: close" in answer
        assert answer.endswith(b"\r\n\r\n/old?|")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\nbad header\r\n\r\n", 400),
        (b"GET nowhere HTTP/1.1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nnot chunks\r\n", 400),
        (b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 101 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * 40_000, 431),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", 400),
    ],
)
async def test_what_is_refused(request_bytes: bytes, status: int) -> None:
    async def reads(scope: Scope, receive: Receive, send: Send) -> None:
        if (await receive())["type"] == "http.request":
            await hello(scope, receive, send)

    async with served(reads) as connect:
        client = await connect()
        await client.send(request_bytes)
        assert (await client.rest()).startswith(b"HTTP/1.1 %d " % status)
        client = await connect()
        await client.send(b"GET / HTTP/1.1\r\n\r\n")
        await client.until(b"hello")


async def test_who_is_slow_is_let_go() -> None:
    async with served(echo, QUICK) as connect:
        assert await (await connect()).rest() == b""
        client = await connect()
        await client.send(b"GET / HT")
        assert (await client.rest()).startswith(b"HTTP/1.1 408 ")
        client = await connect()
        await client.send(b"GET / HTTP/1.1\r\n\r\n")
        assert (await client.rest()).endswith(b"|\r\n0\r\n\r\n")  # and nothing after that
        client = await connect()
        await client.send(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\na")
        assert (await client.rest()).endswith(b"a\r\n")


async def test_a_failing_application_ends_its_connection_only() -> None:
    async def fails(scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["path"] == "/later":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"some", "more_body": True})
        if scope["path"] == "/short":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
            await send({"type": "http.response.body", "body": b"some"})
            return
        if scope["path"] == "/split":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"a\r\nb: c")]})
        raise ValueError("told in the log")

    async with served(fails) as connect:
        for path, start, end in (
            (b"/", b"HTTP/1.1 500", b"}"),
            (b"/split", b"HTTP/1.1 500", b"}"),
            (b"/later", b"HTTP/1.1 200", b"some\r\n"),
            (b"/short", b"HTTP/1.1 200", b"some"),
        ):
            client = await connect()
            await client.send(b"GET %b HTTP/1.1\r\n\r\n" % path)
            answer = await client.rest()
            assert answer.startswith(start)
            assert answer.endswith(end)
            assert b"b: c" not in answer


async def test_who_leaves_is_told_of_in_both_ways() -> None:
    told: list[str] = []
    there = trio.Event()
    left = trio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"][GONE](lambda: told.append("called"))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        there.set()
        assert (await receive())["type"] == "http.request"
        told.append((await receive())["type"])
        await send({"type": "http.response.body", "body": b"nobody reads this", "more_body": True})
        scope["extensions"][GONE](lambda: told.append("at once"))
        left.set()

    async with client_of(app) as client:
        await client.send(b"GET / HTTP/1.1\r\n\r\n")
        await there.wait()
        await client.stream.aclose()
        with trio.fail_after(5):
            await left.wait()
    assert told == ["called", "http.disconnect", "at once"]


async def test_who_does_not_read_holds_the_application_up_and_is_given_up() -> None:
    sent = 0
    over = trio.Event()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while sent < 2**30:
            await send({"type": "http.response.body", "body": bytes(2**20), "more_body": True})
            sent += 2**20
            if sent > 64 * 2**20:
                over.set()
                return

    async with client_of(app, replace(HttpLimits(), stall_s=0.2)) as client:
        await client.send(b"GET / HTTP/1.1\r\n\r\n")
        with trio.fail_after(10):  # after the stall, what is sent goes nowhere
            await over.wait()


async def test_connections_have_a_bound() -> None:
    limits = replace(HttpLimits(), connections=2)
    started = trio.Event()

    async def waits(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        started.set()
        await trio.sleep_forever()

    async with served(waits, limits) as connect:
        idle, busy = await connect(), await connect()
        await busy.send(b"GET / HTTP/1.1\r\n\r\n")
        await started.wait()
        third = await connect()
        assert await idle.rest() == b""  # the idle one goes for the new one
        await third.send(b"GET / HTTP/1.1\r\n\r\n")
        await third.until(b"\r\n\r\n")
        assert (await (await connect()).rest()).startswith(b"HTTP/1.1 503 ")
