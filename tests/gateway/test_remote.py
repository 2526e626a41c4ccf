"""`atmo/execute/1`, the answering side, with an honest and a hostile other end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from atmo.backends.base import Call
from atmo.backends.pool import BackendPool
from atmo.errors import RemoteError
from atmo.gateway import serving as serving_side
from atmo.gateway.askers import NodeLimits
from atmo.gateway.serving import ExecuteServer, ServerConfig
from atmo.identity import NodeId
from atmo.router.capability import CHAT, Capability
from atmo.wire import codec, limits
from tests.gateway.world import Echo, Failing, Lengths, MemoryStream, chat, node_id, refused, stream_pair

ASKING, SERVING, OTHER = node_id(1), node_id(2), node_id(3)


def header(**changes: Any) -> dict[str, Any]:
    good = {
        "operation": CHAT,
        "capability": "echo:echo",
        "stream": False,
        "deadline_ms": 5_000,
        "request_id": "r",
        "size": 0,
    }
    return {**good, **changes}


class Server:
    """An `ExecuteServer` and what came of the requests it got."""

    def __init__(self, server: ExecuteServer, nursery: trio.Nursery) -> None:
        self.server = server
        self.nursery = nursery
        self.ended: list[str] = []

    def ask(self, head: dict[str, Any], asking: NodeId = ASKING) -> MemoryStream:
        here, there = stream_pair(asking, SERVING, head)
        self.nursery.start_soon(self._serve, there)
        return here

    async def _serve(self, stream: MemoryStream) -> None:
        try:
            await self.server.serve(stream)
        except RemoteError as error:
            self.ended.append(str(error))
            stream.reset()
        else:
            self.ended.append("")
            await stream.finish()

    async def answers(self, body: bytes, **changes: Any) -> list[dict[str, Any]]:
        stream = self.ask(header(**{"size": len(body), **changes}))
        if body:
            await stream.send(body)
        return [frame for frame in await frames(stream) if "head" not in frame]


async def frames(stream: MemoryStream) -> list[dict[str, Any]]:
    found = []
    while (frame := await stream.receive()) is not None:
        found.append(codec.decode_untrusted(frame, limits.FRAME_BYTES))
    return found


@asynccontextmanager
async def serving(*backends: Echo, config: ServerConfig | None = None) -> AsyncIterator[Server]:
    async with trio.open_nursery() as nursery:
        pool = BackendPool(backends)
        await nursery.start(pool.run)
        yield Server(ExecuteServer(pool, config), nursery)
        nursery.cancel_scope.cancel()


def as_json(body: Any) -> bytes:
    return json.dumps(body).encode()


class TestServer:
    async def test_one_answer(self) -> None:
        async with serving(Echo()) as server:
            part, end = await server.answers(as_json(chat("abc")))
            assert json.loads(part["part"])["choices"][0]["message"]["content"] == "cba"
            assert end == {"end": True}
            assert server.server.stats.served == 1

    async def test_the_answer_begins_with_what_is_known_of_it(self) -> None:
        class Deaf(Echo):
            def ignored(self, call: Call) -> tuple[str, ...]:
                return ("seed", "x" * 100) if call.body.get("seed") else ()

        async with serving(Deaf()) as server:
            body = as_json(chat("abc", seed=1))
            stream = server.ask(header(size=len(body)))
            await stream.send(body)
            head, *_ = await frames(stream)
            assert head == {"head": {"queue_ms": 0, "ignored": ["seed", "x" * 64]}}

    async def test_what_is_asked_of_a_model_that_does_more(self) -> None:
        capability = Capability("echo:echo", CHAT, "echo", features=("completions",))
        echo = Echo(capability)
        async with serving(echo) as server:
            trace = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
            body = as_json({"prompt": "x", "messages": [{"content": "x"}]})
            _ = await server.answers(body, operation="completions", trace=trace)
            assert (echo.calls[0].operation, echo.calls[0].trace) == ("completions", trace)
            _ = await server.answers(body, operation="completions", trace=5)
            assert [call.trace for call in echo.calls] == [trace, ""], "a trace is never worth an error"

    async def test_a_stream_is_for_chats_only(self) -> None:
        async with serving(Echo(), Lengths()) as server:
            assert len(await server.answers(as_json(chat("a b")), stream=True)) == 5
            found = await server.answers(
                as_json({"input": "x"}), operation="embeddings", capability="len:lengths", stream=True
            )
            assert len(found) == 2

    @pytest.mark.parametrize(
        ("changes", "status"),
        [
            ({"operation": 5}, 400),
            ({"operation": "paint"}, 400),
            ({"stream": 1}, 400),
            ({"deadline_ms": True}, 400),
            ({"deadline_ms": "5"}, 400),
            ({"request_id": "x" * 129}, 400),
            ({"request_id": "x\ny"}, 400),
            ({"request_id": None}, 400),
            ({"capability": "echo:gone"}, 404),
            ({"operation": "embeddings"}, 404),
        ],
    )
    async def test_a_header_that_is_not_valid(self, changes: dict[str, Any], status: int) -> None:
        async with serving(Echo()) as server:
            (answer,) = await server.answers(as_json(chat()), **changes)
            assert answer["error"]["status"] == status
            assert server.server.stats.refused == 1
            assert server.ended == [""]

    @pytest.mark.parametrize("size", [None, -1, True, 1.5, limits.REQUEST_BYTES + 1])
    async def test_a_size_that_is_not_valid_resets(self, size: Any) -> None:
        async with serving(Echo()) as server:
            stream = server.ask(header(size=size))
            with pytest.raises(RemoteError):
                await stream.receive()
            assert "bytes are the most" in server.ended[0] or "is the most" in server.ended[0]

    @pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b"{}", as_json({"messages": "x"})])
    async def test_a_body_that_is_not_a_request(self, body: bytes) -> None:
        async with serving(Echo()) as server:
            (answer,) = await server.answers(body)
            assert answer["error"]["status"] == 400

    async def test_a_body_longer_than_its_header_says(self) -> None:
        async with serving(Echo()) as server:
            stream = server.ask(header(size=3))
            await stream.send(b"four")
            with pytest.raises(RemoteError):
                await stream.receive()
            assert server.ended == ["the body is not as long as its header says"]

    async def test_a_body_that_ends_too_early(self) -> None:
        async with serving(Echo()) as server:
            stream = server.ask(header(size=300))
            await stream.send(b"short")
            await stream.finish()
            with pytest.raises(RemoteError):
                await stream.receive()

    async def test_a_body_that_never_comes(self, autojump_clock: trio.testing.MockClock) -> None:
        async with serving(Echo()) as server:
            stream = server.ask(header(size=300))
            with pytest.raises(RemoteError):
                await stream.receive()
            assert server.ended == ["the body came too slowly or in too many pieces"]

    async def test_a_body_in_too_many_pieces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(serving_side, "MAX_PIECES", 4)
        async with serving(Echo()) as server:
            stream = server.ask(header(size=300))
            for _ in range(5):
                await stream.send(b"")
            with pytest.raises(RemoteError):
                await stream.receive()

    @pytest.mark.parametrize("rest", ["all", "end", "nothing", "crumbs"])
    async def test_a_refused_body_is_taken_and_thrown_away(
        self, rest: str, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
    ) -> None:
        monkeypatch.setattr(serving_side, "MAX_PIECES", 4)
        async with serving(Echo()) as server:
            stream = server.ask(header(size=300, capability="gone"))
            assert b"capability_gone" in (await stream.receive() or b"")
            if rest == "all":
                await stream.send(b"x" * 300)
            elif rest == "end":
                await stream.finish()
            elif rest == "crumbs":
                for _ in range(4):
                    await stream.send(b"x")
            assert await stream.receive() is None

    async def test_calls_of_one_node_and_of_all_are_bounded(self) -> None:
        for config in (ServerConfig(everybody=NodeLimits(1)), ServerConfig(max_calls=1)):
            async with serving(Failing(), config=config) as server:
                server.ask(header(size=100))
                await trio.testing.wait_all_tasks_blocked()
                (answer,) = await server.answers(as_json(chat()))
                assert answer["error"]["status"] == 429
                assert answer["error"]["retry_ms"] == 1_000

    async def test_an_answer_that_nobody_reads_holds_no_turn(self, autojump_clock: trio.testing.MockClock) -> None:
        body = as_json({"input": "x"})
        async with serving(Lengths()) as server:
            for _ in range(8):
                unread = server.ask(header(operation="embeddings", capability="len:lengths", size=len(body)))
                unread.other.sender, unread.other.receiver = trio.open_memory_channel(0)  # type: ignore[union-attr]
                await unread.send(body)
            await trio.testing.wait_all_tasks_blocked()
            assert server.server.stats.served == 0
            found = await server.answers(body, operation="embeddings", capability="len:lengths")
            assert found[-1] == {"end": True}
            assert trio.current_time() < 1

    async def test_a_stream_that_nobody_reads_is_reset(self, autojump_clock: trio.testing.MockClock) -> None:
        body = as_json(chat("a b c"))
        async with serving(Echo()) as server:
            unread = server.ask(header(stream=True, size=len(body), deadline_ms=3_600_000))
            unread.other.sender, unread.other.receiver = trio.open_memory_channel(1)  # type: ignore[union-attr]
            await unread.send(body)
            found = await server.answers(body, deadline_ms=100_000)
            assert found[-1] == {"end": True}
            assert server.ended[0] == "the asking node left before the answer was complete"
            assert trio.current_time() == pytest.approx(30, abs=1)

    @pytest.mark.parametrize(
        ("config", "other"),
        [(ServerConfig(held_bytes=150), OTHER), (ServerConfig(held_bytes_per_node=150), ASKING)],
    )
    async def test_bodies_held_at_once_are_bounded(self, config: ServerConfig, other: NodeId) -> None:
        async with serving(Echo(), config=config) as server:
            await server.ask(header(size=101), other).send(b"x" * 100)
            await trio.testing.wait_all_tasks_blocked()
            (answer,) = await server.answers(as_json(chat("x" * 60)))
            assert answer["error"]["status"] == 503
            assert server.ended == [""]

    async def test_one_node_takes_no_room_from_another(self) -> None:
        async with serving(Echo(), config=ServerConfig(held_bytes_per_node=150)) as server:
            await server.ask(header(size=101), OTHER).send(b"x" * 100)
            await trio.testing.wait_all_tasks_blocked()
            assert len(await server.answers(as_json(chat("x" * 60)))) == 2

    async def test_a_body_that_is_only_announced_holds_nothing(self) -> None:
        async with serving(Echo()) as server:
            for _ in range(8):
                server.ask(header(size=limits.REQUEST_BYTES))
            await trio.testing.wait_all_tasks_blocked()
            assert len(await server.answers(as_json(chat()))) == 2

    async def test_a_body_without_room_is_taken_and_thrown_away(self) -> None:
        async with serving(Echo(), config=ServerConfig(held_bytes=150)) as server:
            stream = server.ask(header(size=300))
            for _ in range(3):
                await stream.send(b"x" * 100)
            assert b"overloaded" in (await stream.receive() or b"")
            assert await stream.receive() is None
            assert len(await server.answers(as_json(chat()))) == 2

    @pytest.mark.parametrize(("error", "status"), [(refused(429), 429), (ZeroDivisionError("secret"), 500)])
    async def test_a_backend_that_fails(self, error: Exception, status: int) -> None:
        async with serving(Failing(error=error, after=1)) as server:
            part, answer = await server.answers(as_json(chat()), stream=True)
            assert part["part"]
            assert answer["error"]["status"] == status
            assert "secret" not in answer["error"]["message"]
            assert server.server.stats.failed == 1

    async def test_a_backend_that_is_late(self, autojump_clock: trio.testing.MockClock) -> None:
        async with serving(Failing()) as server:
            (answer,) = await server.answers(as_json(chat()), deadline_ms=2_000)
            assert answer["error"]["status"] == 504
            assert trio.current_time() < 10

    @pytest.mark.parametrize("capability", ["echo:echo", "gone"])
    async def test_an_end_that_nobody_reads(self, capability: str, autojump_clock: trio.testing.MockClock) -> None:
        backend = Failing()
        async with serving(backend) as server:
            body = as_json(chat())
            stream = server.ask(header(size=len(body), capability=capability, deadline_ms=2_000))
            assert stream.other is not None
            for _ in range(8):
                stream.other.sender.send_nowait(b"")
            await stream.send(body)
            await trio.sleep(60)
            assert server.ended
            assert server.ended[0]
            with pytest.raises(RemoteError):
                await stream.send(b"")

    async def test_an_answer_that_is_too_large(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "REQUEST_BYTES", 200)
        async with serving(Echo()) as server:
            (answer,) = await server.answers(as_json(chat("x" * 100)))
            assert answer["error"]["code"] == "too_large"

    @pytest.mark.parametrize("how", ["reset", "finish", "talk"])
    async def test_an_asking_node_that_leaves_stops_the_work(self, how: str) -> None:
        backend = Failing()
        async with serving(backend) as server:
            body = as_json(chat())
            stream = server.ask(header(size=len(body)))
            await stream.send(body)
            await trio.testing.wait_all_tasks_blocked()
            if how == "reset":
                stream.reset()
            elif how == "finish":
                await stream.finish()
            else:
                await stream.send(b"and another thing")
            await trio.testing.wait_all_tasks_blocked()
            assert backend.cancelled == 1
            assert server.server.stats.abandoned == 1

    async def test_an_asking_node_that_leaves_while_we_send(self) -> None:
        class Stubborn(Echo):
            gone = trio.Event()

            async def answer(self, call: Any) -> Any:
                with trio.CancelScope(shield=True):
                    await self.gone.wait()
                yield {}

        backend = Stubborn()
        async with serving(backend) as server:
            body = as_json(chat())
            stream = server.ask(header(size=len(body)))
            await stream.send(body)
            await trio.testing.wait_all_tasks_blocked()
            stream.reset()
            backend.gone.set()
            await trio.testing.wait_all_tasks_blocked()
            assert server.server.stats.abandoned == 1


def test_capability_of_the_default_header() -> None:
    assert Capability("echo:echo", CHAT, "echo").id == header()["capability"]
