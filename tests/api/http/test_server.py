"""Behind a real server on a real socket."""

from __future__ import annotations

import json
import socket
from functools import partial

import httpx
import pytest
import trio
import trio.testing

from atmo.api.http.server import bind, serve
from atmo.errors import UserError
from tests.api.face import make_app, served
from tests.gateway.world import Echo, Failing, Node, chat, loop_net


def request_of(body: bytes, length: int | None = None) -> bytes:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length or len(body)}\r\n\r\n"
    return head.encode() + body


async def until_idle(node: Node) -> None:
    with trio.fail_after(5):
        while node.pool.in_flight:
            await trio.sleep(0.005)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("where", ["alpha", "beta"])
async def test_a_client_that_disconnects_stops_the_work(stream: bool, where: str) -> None:
    backend = Failing(after=2 if stream else 0)
    async with loop_net() as net:
        alpha = await net.add("alpha", *([backend] if where == "alpha" else []))
        beta = await net.add("beta", *([backend] if where == "beta" else []))
        async with served(make_app(alpha)) as url:
            connection = await trio.open_tcp_stream("127.0.0.1", httpx.URL(url).port or 0)
            await connection.send_all(request_of(json.dumps(chat(stream=stream)).encode()))
            if stream:
                assert b"text/event-stream" in await connection.receive_some()
            else:
                while not alpha.pool.in_flight + beta.pool.in_flight:
                    await trio.sleep(0.005)
            await connection.aclose()
            await until_idle(alpha)
            await until_idle(beta)
        assert backend.cancelled == 1
        assert alpha.gateway.budget.held == 0


async def test_a_client_that_leaves_in_the_middle_of_its_body() -> None:
    async with loop_net() as net:
        alpha = await net.add("alpha", Failing())
        async with served(make_app(alpha)) as url:
            connection = await trio.open_tcp_stream("127.0.0.1", httpx.URL(url).port or 0)
            await connection.send_all(request_of(b'{"mess', 100))
            await connection.aclose()
            async with httpx.AsyncClient(base_url=url) as client:
                assert (await client.get("/health")).status_code == 200
        assert alpha.gateway.stats.requests == 0
        assert alpha.gateway.budget.held == 0


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("words", ["hello there", "x" * 100_000])
@pytest.mark.parametrize(("version", "header"), [("1.1", "Connection: close\r\n"), ("1.0", "")])
async def test_the_connection_is_closed_after_the_answer(version: str, header: str, words: str, stream: bool) -> None:
    async with loop_net() as net:
        alpha = await net.add("alpha", Echo())
        body = json.dumps(chat(words, stream=stream)).encode()
        lines = f"Host: 127.0.0.1\r\n{header}Content-Length: {len(body)}\r\n\r\n"
        head = f"POST /v1/chat/completions HTTP/{version}\r\n{lines}"
        async with served(make_app(alpha)) as url:
            connection = await trio.open_tcp_stream("127.0.0.1", httpx.URL(url).port or 0)
            async with connection:
                await connection.send_all(head.encode() + body)
                answer = b""
                with trio.fail_after(5):
                    async for data in connection:
                        answer += data
        assert words.split(" ")[0][::-1].encode() in answer
        assert answer.rstrip().endswith((b"[DONE]", b"}", b"\r\n0"))


async def test_a_body_too_large_gets_its_answer() -> None:
    async with loop_net() as net:
        async with served(make_app(await net.add("alpha"))) as url, httpx.AsyncClient(base_url=url) as client:
            answer = await client.post("/v1/embeddings", content=b"x" * (33 * 2**20))
            assert answer.status_code == 413
            assert (await client.get("/health")).json()["status"] == "ok"


def test_a_port_in_use_is_the_users_business() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match=r"port \d+ on 127.0.0.1 is in use.*--http 127.0.0.1:0"):
            bind("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize(
    ("host", "words"), [("no-such-host.invalid", "Cannot listen"), ("192.0.2.1", "cannot be used")]
)
def test_a_host_that_is_not_ours(host: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        bind(host, 0)


async def test_shutdown_lets_answers_finish_and_then_ends() -> None:
    async with loop_net() as net:
        alpha = await net.add("alpha", Failing(after=2))
        stop = trio.Event()
        with trio.fail_after(2):
            async with trio.open_nursery() as nursery:
                run = partial(serve, make_app(alpha), "127.0.0.1", 0, shutdown=stop)
                port = await nursery.start(run)
                connection = await trio.open_tcp_stream("127.0.0.1", port)
                await connection.send_all(request_of(json.dumps(chat(stream=True)).encode()))
                assert await connection.receive_some()
                stop.set()
        await connection.aclose()
        assert alpha.pool.in_flight == 0
