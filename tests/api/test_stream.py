from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import trio
import trio.testing
from starlette.websockets import WebSocket
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from atmo.api.account import Account
from atmo.api.stream import CLOSE_CODES, StreamConfig, Streams
from atmo.api.watch.events import EventHub
from atmo.errors import RequestError
from tests.api.face import make_app, served
from tests.gateway.world import Echo, Failing, Lengths, Node, chat, chunk, loop_net

TRACE = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"


class Client:
    """A program that speaks over a real WebSocket."""

    def __init__(self, socket: WebSocketConnection) -> None:
        self.socket = socket

    async def say(self, **message: Any) -> None:
        await self.socket.send_message(json.dumps(message))

    async def hear(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(await self.socket.get_message())
        return value

    async def until(self, *kinds: str) -> list[dict[str, Any]]:
        """Returns messages up to and including the first of these types."""
        heard = [await self.hear()]
        while heard[-1]["type"] not in kinds:
            heard.append(await self.hear())
        return heard

    async def closed(self) -> tuple[int, str]:
        with suppress(ConnectionClosed):
            while True:
                await self.socket.get_message()
        assert self.socket.closed is not None
        return int(self.socket.closed.code), str(self.socket.closed.reason)


@asynccontextmanager
async def streaming(node: Node, **more: Any) -> AsyncIterator[Client]:
    """Opens a stream to a node's endpoint on loopback."""
    async with served(make_app(node, **more)) as url:
        host = url.removeprefix("http://")
        with trio.fail_after(20):
            async with await trio.open_tcp_stream("127.0.0.1", int(host.partition(":")[2])) as stream:
                async with trio.open_nursery() as nursery:
                    socket = await wrap_client_stream(nursery, stream, host, "/v1/stream")
                    yield Client(socket)
                    await socket.aclose()


class Gated(Echo):
    """Sends a part, then waits until it is let on."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = trio.Event()
        self.began = trio.Event()

    async def answer(self, call: Any) -> Any:
        yield chunk("echo", {"role": "assistant", "content": ""})
        self.began.set()
        await self.gate.wait()
        yield chunk("echo", {}, "stop")


class Endless(Echo):
    """Answers without end, as fast as it can."""

    async def answer(self, call: Any) -> Any:
        while True:
            await trio.lowlevel.checkpoint()
            yield chunk("echo", {"content": "x" * 1_000})


class Held:
    """A socket between server and application whose client reads nothing until it is let."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.reads = trio.Event()
        self._in, self._out = trio.open_memory_channel[Any](8)
        self._in.send_nowait({"type": "websocket.connect"})
        scope = {"type": "websocket", "path": "/v1/stream", "headers": []}
        self.socket = WebSocket(scope, self._out.receive, self._send)

    async def say(self, **message: Any) -> None:
        await self._in.send({"type": "websocket.receive", "text": json.dumps(message)})

    async def _send(self, message: Any) -> None:
        if message["type"] == "websocket.send":
            await self.reads.wait()
        elif message["type"] == "websocket.close":
            self._in.send_nowait({"type": "websocket.disconnect", "code": 1000})
        self.sent.append(message)


class TestRequests:
    async def test_a_chat_comes_in_chunks(self) -> None:
        accounts: list[Account] = []
        async with loop_net() as net:
            alpha = await net.add("alpha", backend := Echo())
            async with streaming(alpha, observers=(accounts.append,)) as client:
                await client.say(id="a", type="request", body=chat("ab cd"), traceparent=TRACE)
                started, *chunks, done = await client.until("done")
        assert (started["type"], started["id"], started["model"]) == ("started", "a", "echo")
        assert (started["node"], started["path"]) == ("alpha", "local")
        assert "".join(part["data"]["choices"][0]["delta"].get("content", "") for part in chunks) == "dcba"
        assert {part["type"] for part in chunks} == {"chunk"}
        assert done == {"id": "a", "type": "done", "usage": None}
        assert backend.calls[0].trace == TRACE
        one = next(account for account in accounts if account.operation)
        assert (one.outcome, one.model, one.status, one.method) == ("answered", "echo", 200, "WEBSOCKET")
        assert started["request_id"] == one.request_id == backend.calls[0].request_id

    async def test_other_operations_answer_once_in_the_shape_of_their_route(self) -> None:
        async with loop_net() as net, streaming(await net.add("alpha", Lengths(), Echo())) as client:
            await client.say(id="e", type="request", operation="embeddings", body={"input": "abc"})
            _, answer, done = await client.until("done")
            await client.say(id="c", type="request", body=chat("ab", stream=False))
            _, whole, _ = await client.until("done")
        assert answer["data"]["data"][0]["embedding"] == [3.0, 0.5, 3.0, 4.0]
        assert done["usage"]["prompt_tokens"] == 1
        assert whole["data"]["choices"][0]["message"]["content"] == "ba"

    async def test_several_at_once_and_one_is_cancelled(self) -> None:
        async with loop_net() as net:
            gated = Gated()
            async with streaming(await net.add("alpha", gated, Lengths())) as client:
                await client.say(id="slow", type="request", body=chat())
                await gated.began.wait()
                await client.say(id="quick", type="request", operation="embeddings", body={"input": "x"})
                heard = await client.until("done")
                await client.say(id="slow", type="cancel")
                cancelled = await client.hear()
                await client.say(id="slow", type="cancel")
                await client.say(id="slow", type="request", operation="embeddings", body={"input": "x"})
                again = await client.until("done")
            assert gated.cancelled == 1
        assert heard[-1]["id"] == "quick"
        assert cancelled == {"id": "slow", "type": "cancelled"}
        assert [message["id"] for message in again] == ["slow"] * 3

    async def test_who_leaves_stops_the_work(self) -> None:
        accounts: list[Account] = []
        async with loop_net() as net:
            alpha, gated = await net.add("alpha"), Gated()
            beta = await net.add("beta", gated)
            async with streaming(alpha, observers=(accounts.append,)) as client:
                await client.say(id="a", type="request", body=chat())
                await gated.began.wait()
            with trio.fail_after(10):
                while beta.pool.in_flight:  # noqa: ASYNC110 - there is nothing to wait for but the end itself
                    await trio.sleep(0.01)
        assert gated.cancelled == 1
        assert [account.outcome for account in accounts if account.operation] == ["abandoned"]

    async def test_errors_name_the_request(self) -> None:
        async with loop_net() as net:
            failing = Failing(error=RequestError(503, "no", kind="api_error", code="busy"))
            async with streaming(await net.add("alpha", failing, Lengths())) as client:
                for message, status, code in (
                    ({"id": "a", "type": "request", "body": chat()}, 503, "busy"),
                    ({"id": "a", "type": "request", "body": {"messages": 5}}, 400, "invalid_value"),
                    ({"id": "a", "type": "request", "body": "x"}, 400, "invalid_value"),
                    ({"id": "a", "type": "request", "operation": ["chat"], "body": {}}, 400, "invalid_value"),
                    ({"id": "a", "type": "request", "operation": "dance", "body": {}}, 400, "invalid_value"),
                    ({"id": "a", "type": "request", "body": chat(model="nobody's")}, 404, "model_not_found"),
                    ({"id": "a", "type": "paint"}, 400, "invalid_value"),
                ):
                    await client.say(**message)
                    answer = await client.hear()
                    assert (answer["id"], answer["type"]) == ("a", "error")
                    assert (answer["status"], answer["error"]["code"]) == (status, code)
                for raw in ("{", "[]", '{"type":"request","id":5}', '{"type":"request","id":""}', '{"type":"x"}'):
                    await client.socket.send_message(raw)
                    answer = await client.hear()
                    assert (answer["id"], answer["type"], answer["status"]) == (None, "error", 400)
                await client.socket.send_message(
                    b'{"id":"b","type":"request","operation":"embeddings","body":{"input":"x"}}'
                )
                assert (await client.until("done"))[-1]["id"] == "b"

    async def test_so_many_at_once_and_no_name_twice(self) -> None:
        async with loop_net() as net:
            gated = Gated()
            async with streaming(await net.add("alpha", gated)) as client:
                for number in range(17):
                    await client.say(id=str(number), type="request", body=chat())
                (refused,) = [one for one in await client.until("error") if one["type"] == "error"]
                assert (refused["id"], refused["status"]) == ("16", 429)
                await client.say(id="3", type="request", body=chat())
                twice = (await client.until("error"))[-1]
                assert (twice["id"], twice["error"]["param"]) == ("3", "id")


class TestLimits:
    async def test_a_message_that_is_too_large(self) -> None:
        async with loop_net() as net, streaming(await net.add("alpha")) as client:
            await client.socket.send_message("x" * (1024 * 1024 + 1))
            code, _ = await client.closed()
        assert code == 1009

    async def test_too_many_messages(self) -> None:
        async with loop_net() as net, streaming(await net.add("alpha")) as client:
            with suppress(ConnectionClosed):
                for _ in range(5_000):
                    await client.say(type="subscribe", topics=[])
                    await client.hear()
            code, reason = await client.closed()
        assert (code, reason) == (4429, "too many messages in a short time")

    async def test_a_web_page_elsewhere_is_refused(self) -> None:
        async with loop_net() as net, served(make_app(await net.add("alpha"))) as url:
            host = url.removeprefix("http://")
            for headers in (f"host: {host}\r\norigin: http://evil.example", "host: evil.example"):
                async with await trio.open_tcp_stream("127.0.0.1", int(host.partition(":")[2])) as stream:
                    asked = f"GET /v1/stream HTTP/1.1\r\n{headers}\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
                    key = "sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
                    await stream.send_all((asked + key).encode())
                    with trio.fail_after(10):
                        assert (await stream.receive_some()).startswith(b"HTTP/1.1 403")

    async def test_so_many_streams_and_no_more(self) -> None:
        async with loop_net() as net:
            alpha = await net.add("alpha")
            streams = Streams(alpha.gateway, EventHub(), config=StreamConfig(sockets=0))
            socket = Held()
            await streams.serve(socket.socket)
        assert socket.sent == [{"type": "websocket.close", "code": 1013, "reason": CLOSE_CODES[1013]}]

    async def test_who_does_not_read_events_is_cut_off(self, autojump_clock: object) -> None:
        hub = EventHub()
        async with loop_net() as net, trio.open_nursery() as nursery:
            config = StreamConfig(queued_bytes=1_000)
            streams = Streams((await net.add("alpha")).gateway, hub, config=config)
            socket = Held()
            nursery.start_soon(streams.serve, socket.socket)
            await socket.say(type="subscribe", topics=["nodes"])
            await trio.testing.wait_all_tasks_blocked()
            assert hub.wanted("nodes")
            for _ in range(50):
                hub.publish("nodes", "gone", {"name": "beta"})
            assert not hub.wanted("nodes"), "it is told nothing more, and nobody waits for it"
            socket.reads.set()
            await trio.testing.wait_all_tasks_blocked()
            assert socket.sent[-1]["code"] == 4408
            assert streams.open == 0

    async def test_silence_is_broken_so_that_the_lost_are_noticed(self, autojump_clock: object) -> None:
        async with loop_net() as net, trio.open_nursery() as nursery:
            streams = Streams((await net.add("alpha")).gateway, EventHub())
            socket = Held()
            socket.reads.set()
            nursery.start_soon(streams.serve, socket.socket)
            await trio.sleep(2.5 * streams.config.alive_s)
            assert [message.get("text") for message in socket.sent[1:]] == ['{"type":"alive"}'] * 2
            nursery.cancel_scope.cancel()

    async def test_pings_are_answered_between_messages_and_not_within(self) -> None:
        async with loop_net() as net, streaming(await net.add("alpha", Endless())) as client:
            await client.say(id="a", type="request", body=chat())
            async with trio.open_nursery() as nursery:
                await trio.sleep(0.3)  # by then a message is half on its way
                for _ in range(5):
                    nursery.start_soon(client.socket.ping)
                await trio.sleep(0.1)
                for _ in range(10_000):
                    assert (await client.hear())["type"] in ("started", "chunk")
                nursery.cancel_scope.cancel()

    async def test_who_reads_nothing_for_long_is_cut_off_and_its_work_stops(self, autojump_clock: object) -> None:
        async with loop_net() as net, trio.open_nursery() as nursery:
            alpha = await net.add("alpha", Endless())
            streams = Streams(alpha.gateway, EventHub())
            socket = Held()
            nursery.start_soon(streams.serve, socket.socket)
            await socket.say(id="a", type="request", body=chat())
            await trio.testing.wait_all_tasks_blocked()
            assert alpha.pool.in_flight == 1, "it waits: not more than some chunks are held"
            await trio.sleep(streams.config.taken_s + 1)
            await trio.testing.wait_all_tasks_blocked()
            assert alpha.pool.in_flight == 0
            await trio.sleep(streams.config.close_s + 1)
            assert streams.open == 0


class TestEvents:
    async def test_events_of_what_was_asked_for(self) -> None:
        hub = EventHub(wall=lambda: 5.0)
        async with loop_net() as net, streaming(await net.add("alpha", Echo()), events=hub) as client:
            await client.say(type="subscribe", topics=["requests", "nodes", "nodes"])
            assert await client.hear() == {"type": "subscribed", "topics": ["nodes", "requests"]}
            assert (hub.wanted("nodes"), hub.wanted("models")) == (True, False)
            hub.publish("models", "changed", {})
            hub.publish("nodes", "gone", {"name": "beta"})
            assert await client.hear() == {
                "type": "event",
                "topic": "nodes",
                "event": "gone",
                "time": 5.0,
                "data": {"name": "beta"},
            }
            await client.say(id="a", type="request", body=chat("secret words"))
            heard = await client.until("event")
            heard += [] if any(one["type"] == "done" for one in heard) else await client.until("done")
            told = next(one for one in heard if one["type"] == "event")
            assert (told["topic"], told["event"], told["data"]["model"]) == ("requests", "answered", "echo")
            assert "secret" not in json.dumps(told)
            await client.say(type="subscribe", topics=[])
            assert (await client.hear())["topics"] == []
            assert not hub.wanted("nodes")
            await client.say(type="subscribe", topics=["weather"])
            assert (await client.hear())["error"]["param"] == "topics"

    async def test_who_left_is_told_nothing_more(self) -> None:
        hub = EventHub()
        async with loop_net() as net:
            async with streaming(await net.add("alpha"), events=hub) as client:
                await client.say(type="subscribe", topics=["nodes"])
                await client.hear()
            with trio.fail_after(10):
                while hub.wanted("nodes"):  # noqa: ASYNC110 - the server learns of it when it reads
                    await trio.sleep(0.01)
