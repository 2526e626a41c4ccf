"""Requests on loopback connections: what arrives, what a misbehaving end sees, and what survives it."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from atmo.errors import RemoteError, WireError
from atmo.net.ports import Handler, RequestStream
from atmo.net.quic import Connection, QuicConfig, StreamCode, StreamReset
from atmo.net.requests import open_request, serve_requests
from atmo.wire import codec, limits
from atmo.wire.frames import frame
from tests.net.loopback import DEADLINE_S, PLAIN, connected, never_ends, until
from tests.net.pair import ALICE, BOB

ECHO = "atmo/echo/1"
FIRST = frame(codec.encode({"protocol": ECHO}))


class Served:
    """Alice's connection to a Bob who answers requests.

    Attributes:
        bad: What Bob was told of requests that broke a rule.
        ended: How Bob's handlers ended: None or their error.
    """

    def __init__(self, client: Connection, server: Connection) -> None:
        self.client = client
        self.server = server
        self.bad: list[str] = []
        self.ended: list[BaseException | None] = []

    def watch(self, handler: Handler) -> Handler:
        async def watched(stream: RequestStream) -> None:
            try:
                await handler(stream)
            except BaseException as error:
                self.ended.append(error)
                raise
            self.ended.append(None)

        return watched


@asynccontextmanager
async def serving(
    handler: Handler, *, config: QuicConfig = PLAIN, first_frame_s: float = 10, max_concurrent: int = 8
) -> AsyncIterator[Served]:
    async with connected(config, config) as (client, server), trio.open_nursery() as nursery:
        served = Served(client, server)
        watched = served.watch(handler)

        def dispatch(protocol: str) -> Handler | None:
            return watched if protocol == ECHO else None

        nursery.start_soon(serve_requests, server, dispatch, served.bad.append, max_concurrent, first_frame_s)
        yield served
        nursery.cancel_scope.cancel()


async def echo(stream: RequestStream) -> None:
    while (body := await stream.receive()) is not None:
        await stream.send(body)


async def works(served: Served) -> None:
    """The connection still answers a request."""
    async with open_request(served.client, ECHO, {}, DEADLINE_S) as stream:
        await stream.send(b"ping")
        assert await stream.receive() == b"ping"


async def ask_something(served: Served) -> bytes | None:
    async with open_request(served.client, ECHO, {}, DEADLINE_S) as stream:
        await stream.send(b"something")
        return await stream.receive()


async def test_a_request_carries_its_header_and_frames_both_ways() -> None:
    got: list[Any] = []

    async def handler(stream: RequestStream) -> None:
        got.append((stream.node_id, stream.protocol, stream.header))
        await echo(stream)

    async with serving(handler) as served:
        async with open_request(served.client, ECHO, {"model": "m", "n": 1}, DEADLINE_S) as stream:
            assert stream.node_id == BOB.node_id
            for body in (b"", b"one", bytes(limits.FRAME_BYTES)):
                await stream.send(body)
                assert await stream.receive() == body
            await stream.finish()
            assert await stream.receive() is None
        await until(lambda: served.ended == [None])
        assert got == [(ALICE.node_id, ECHO, {"model": "m", "n": 1})]
        assert served.bad == []
        assert served.server.stats.requests_served == 1


async def test_raw_bytes_follow_a_frame() -> None:
    async def handler(stream: RequestStream) -> None:
        assert await stream.receive_raw(5) == b"above"
        assert await stream.receive_raw(0) == b""
        assert await stream.receive_raw(100_000) == bytes(100_000)
        assert await stream.receive() == b"frame"
        await stream.send(b"head")
        await stream.send_raw(memoryview(b"tail"))

    async with serving(handler) as served:
        async with open_request(served.client, ECHO, {}, DEADLINE_S) as stream:
            await stream.send_raw(b"above" + bytes(100_000))
            await stream.send(b"frame")
            assert await stream.receive() == b"head"
            assert await stream.receive_raw(4) == b"tail"
            with pytest.raises(RemoteError, match="sent 0 of 1 bytes and ended the stream"):
                await stream.receive_raw(1)


async def test_requests_run_at_once() -> None:
    async with serving(echo) as served, trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(works, served)
    assert served.bad == []


async def test_leaving_after_the_answer_is_no_error_at_the_other_end(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(stream: RequestStream) -> None:
        body = await stream.receive()
        assert body is not None
        await stream.send(body)
        await trio.sleep(0.01)

    async with serving(handler) as served:
        for _ in range(5):
            await works(served)
        await until(lambda: served.ended == [None] * 5)
        assert served.server.stats.requests_served == 5
        await until(lambda: not served.client.stream_count and not served.server.stream_count)
    assert served.bad == []
    assert not caplog.records


async def test_a_handler_that_answers_without_reading_all_still_answers() -> None:
    async def handler(stream: RequestStream) -> None:
        await stream.send(b"no thanks")

    async with serving(handler) as served:
        async with open_request(served.client, ECHO, {}, DEADLINE_S) as stream:
            for _ in range(20):
                await stream.send(bytes(limits.FRAME_BYTES))
            assert await stream.receive() == b"no thanks"


# Giving up


async def test_the_deadline_covers_the_block_and_resets_the_stream(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.005

    async def handler(stream: RequestStream) -> None:
        await stream.receive()

    async with serving(handler) as served:
        with pytest.raises(RemoteError, match="did not finish atmo/echo/1 within 2 s"):
            async with open_request(served.client, ECHO, {}, 2) as stream:
                await stream.receive()
        await until(lambda: served.ended)
        assert isinstance(served.ended[0], StreamReset)
        assert served.ended[0].code == StreamCode.LATE


async def test_cancellation_resets_the_stream_and_leaves_the_connection() -> None:
    async def handler(stream: RequestStream) -> None:
        if await stream.receive() == b"ping":
            await stream.send(b"ping")
        else:
            await trio.sleep(0.05)
            await stream.receive_raw(10_000_000)

    async with serving(handler, config=QuicConfig(stream_window_bytes=65_536, send_buffer_bytes=65_536)) as served:

        async def wait_for_an_answer() -> None:
            async with open_request(served.client, ECHO, {}, math.inf) as stream:
                await stream.receive()

        async def send_much() -> None:
            async with open_request(served.client, ECHO, {}, math.inf) as stream:
                await stream.send(b"much")
                await stream.send_raw(bytes(10_000_000))

        work: Callable[[], Awaitable[None]]
        for work in (wait_for_an_answer, send_much):
            assert await never_ends(work, 0.02)
        await works(served)
        await until(lambda: len(served.ended) == 3)
        await until(lambda: not served.client.stream_count and not served.server.stream_count)


async def test_the_handler_is_cancelled_when_the_connection_closes() -> None:
    async def handler(stream: RequestStream) -> None:
        await trio.sleep_forever()

    async with serving(handler) as served:
        async with await served.client.open_stream() as stream:
            await stream.send_all(FIRST)
            await until(lambda: served.server.stream_count)
            await trio.testing.wait_all_tasks_blocked()
            await served.client.aclose("bye")
            await until(lambda: served.ended)
        assert isinstance(served.ended[0], trio.Cancelled)
        with pytest.raises(RemoteError, match="is closed: bye"):
            async with open_request(served.client, ECHO, {}, DEADLINE_S):
                pass


async def test_a_peer_that_vanishes_in_the_middle_is_a_remote_error() -> None:
    async def handler(stream: RequestStream) -> None:
        await stream.send(b"begin")
        await trio.sleep_forever()

    async with serving(handler) as served:
        async with open_request(served.client, ECHO, {}, DEADLINE_S) as stream:
            assert await stream.receive() == b"begin"
            await served.server.aclose("gone")
            with pytest.raises(RemoteError, match="is closed: gone"):
                await stream.receive()


# Faults of the handler


async def test_a_handler_that_fails_resets_its_stream_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(stream: RequestStream) -> None:
        if await stream.receive() == b"ping":
            await stream.send(b"ping")
            return
        raise ZeroDivisionError("boom")

    async with serving(handler) as served:
        async with open_request(served.client, ECHO, {}, DEADLINE_S) as stream:
            await stream.send(b"please")
            with pytest.raises(RemoteError, match="failed while answering"):
                await stream.receive()
        assert "boom" in caplog.text
        assert served.server.stats.requests_failed == 1
        await works(served)


async def test_remote_errors_gathered_by_a_handlers_nursery_are_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def handler(stream: RequestStream) -> None:
        await stream.send(b"begun")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.receive)
            nursery.start_soon(trio.sleep_forever)

    async with serving(handler) as served:
        async with open_request(served.client, ECHO, {}, DEADLINE_S) as stream:
            assert await stream.receive() == b"begun"
            stream._stream.reset()
        await until(lambda: served.ended)
        assert isinstance(served.ended[0], ExceptionGroup)
    assert served.server.stats.requests_failed == 0
    assert not caplog.records


async def test_a_handler_that_cannot_read_what_it_got_tells_both_ends() -> None:
    async def handler(stream: RequestStream) -> None:
        await stream.receive()
        raise WireError("no such field")

    async with serving(handler) as served:
        with pytest.raises(StreamReset, match="could not read what we sent"):
            await ask_something(served)
        assert served.bad == [f"{ALICE.node_id.short} broke atmo/echo/1: no such field"]


async def test_a_frame_that_is_too_long_is_not_sent() -> None:
    async with serving(echo) as served:
        async with open_request(served.client, ECHO, {}, DEADLINE_S) as stream:
            with pytest.raises(ValueError, match="over the limit"):
                await stream.send(bytes(limits.FRAME_BYTES + 1))


async def test_handlers_at_once_are_bounded() -> None:
    running, most = 0, 0
    go = trio.Event()

    async def handler(stream: RequestStream) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await go.wait()
        running -= 1
        await echo(stream)

    async with serving(handler, max_concurrent=3) as served, trio.open_nursery() as nursery:
        for _ in range(9):
            nursery.start_soon(works, served)
        await until(lambda: running == 3)
        await until(lambda: len(served.server._incoming) == 6)
        go.set()
    assert most == 3


# Faults of the opener


async def test_an_unknown_protocol_is_told() -> None:
    async with serving(echo) as served:
        with pytest.raises(StreamReset, match="does not speak this protocol") as caught:
            async with open_request(served.client, "atmo/nothing/1", {}, DEADLINE_S) as stream:
                await stream.receive()
        assert caught.value.code == StreamCode.UNKNOWN_PROTOCOL
        assert served.bad == []
        assert served.server.stats.requests_unknown == 1
        await works(served)


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"", "ended before its first frame"),
        (b"\0\0\0\x09abc", "in the middle of a frame"),
        (b"\0\0\0", "in the middle of a frame"),
        (b"\xff\xff\xff\xff", "over the limit"),
        ((limits.MESSAGE_BYTES + 1).to_bytes(4, "big"), "over the limit"),
        (frame(b"\xff\xff"), "malformed"),
        (frame(codec.encode([1, 2])), "not a map of names"),
        (frame(codec.encode({1: "x"})), "not a map of names"),
        (frame(codec.encode({"x": 1})), "names no protocol"),
        (frame(codec.encode({"protocol": 7})), "names no protocol"),
        (frame(codec.encode({"protocol": "x" * 200})), "names no protocol"),
    ],
)
async def test_a_malformed_first_frame_is_counted_and_costs_only_its_stream(sent: bytes, told: str) -> None:
    async with serving(echo) as served:
        stream = await served.client.open_stream()
        await stream.send_all(sent)
        await stream.send_eof()
        with pytest.raises(StreamReset, match="could not read"):
            await stream.receive_some()
        assert told in served.bad[0]
        await works(served)


@pytest.mark.parametrize(
    ("sent", "told"), [(b"\0\0\0\x09abc", "in the middle of a frame"), (b"\xff\xff\xff\xff", "over the limit")]
)
async def test_a_malformed_later_frame_is_counted_and_costs_only_its_stream(sent: bytes, told: str) -> None:
    async with serving(echo) as served:
        stream = await served.client.open_stream()
        await stream.send_all(FIRST + sent)
        await stream.send_eof()
        with pytest.raises(StreamReset, match="could not read"):
            await stream.receive_some()
        assert told in served.bad[0]
        await works(served)


async def test_an_answer_with_a_malformed_frame_is_a_remote_error() -> None:
    async def handler(stream: RequestStream) -> None:
        await stream.send_raw(b"\0\0\0\x09abc")

    async with serving(handler) as served:
        with pytest.raises(RemoteError, match="broke atmo/echo/1: the stream ended in the middle of a frame"):
            async with open_request(served.client, ECHO, {}, DEADLINE_S) as stream:
                await stream.receive()


async def test_a_stream_that_names_no_protocol_in_time_is_dropped(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.005
    async with serving(echo, first_frame_s=3) as served:
        stream = await served.client.open_stream()
        await stream.send_all(b"\0\0")
        with pytest.raises(StreamReset):
            await stream.receive_some()
        assert served.bad == [f"{ALICE.node_id.short} opened a stream and named no protocol within 3 s"]


async def test_a_stream_reset_before_its_first_frame_is_no_fault() -> None:
    async with serving(echo) as served:
        stream = await served.client.open_stream()
        await stream.send_all(b"\0\0")
        await until(lambda: served.server.stream_count)
        stream.reset()
        await until(lambda: not served.server.stream_count)
        assert served.bad == []
