from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from atmo.backends.base import as_object
from atmo.errors import RemoteError, RequestError
from atmo.gateway.asking import Asking
from atmo.gateway.gateway import Gateway, GatewayConfig
from atmo.net.ports import RequestStream
from atmo.router.capability import CHAT, EMBEDDINGS
from atmo.router.table import OPEN
from tests.gateway.world import (
    Echo,
    Failing,
    Lengths,
    LoopNet,
    LoopPort,
    MemoryStream,
    Node,
    Signs,
    answer,
    chat,
    completion,
    embed,
    loop_net,
    node_id,
    refused,
)


async def test_runs_on_this_machine() -> None:
    async with loop_net() as net:
        node = await net.add("alpha", Echo())
        async with node.gateway.execute(CHAT, chat("abc"), Asking(request_id="r1")) as execution:
            (part,) = [as_object(part) async for part in execution]
        assert part["choices"][0]["message"]["content"] == "cba"
        assert execution.offer.local
        assert execution.request_id == "r1"
        assert node.gateway.in_flight == 0
        assert (
            execution.reason
            == "echo is the only model that does chat; this machine is the only node that can run it now"
        )


async def test_runs_on_another_machine_by_the_same_path() -> None:
    async with loop_net() as net:
        alpha = await net.add("alpha")
        beta = await net.add("beta", Echo())
        parts = await answer(alpha, chat("abc def"), stream=True)
        assert [part["choices"][0]["delta"].get("content") for part in parts] == ["", "fed", "cba", None]
        async with alpha.gateway.execute(CHAT, chat("abc")) as execution:
            (whole,) = [as_object(part) async for part in execution]
        assert execution.offer.node == beta.id
        assert whole["choices"][0]["message"]["content"] == "cba"
        assert beta.gateway.server.stats.served == 2
        assert (alpha.gateway.stats.sent_away, alpha.gateway.stats.answered) == (2, 2)


async def test_large_bodies_and_answers_cross_in_pieces() -> None:
    async with loop_net() as net:
        alpha = await net.add("alpha")
        await net.add("beta", Echo())
        text = "x" * 3_000_000
        (whole,) = await answer(alpha, chat(text))
        assert whole["choices"][0]["message"]["content"] == text
        assert alpha.gateway.budget.held == 0


async def test_bodies_of_other_nodes_take_no_room_from_local_clients() -> None:
    async with loop_net() as net:
        alpha, beta = await net.add("alpha", Echo()), await net.add("beta")
        header = {
            "operation": CHAT,
            "capability": "echo:echo",
            "stream": False,
            "deadline_ms": 5_000,
            "request_id": "r",
            "size": 1_000_000,
        }
        async with beta.port.request(alpha.id, "atmo/execute/1", header, 5) as stream:
            await stream.send(b"x" * 500_000)
            await trio.testing.wait_all_tasks_blocked()
            assert alpha.gateway.budget.held == 0


async def test_our_own_options_are_not_forwarded() -> None:
    async with loop_net() as net:
        backend = Echo()
        alpha = await net.add("alpha", backend)
        await answer(alpha, chat(atmosphere={"local_only": True}, temperature=0.5))
        assert set(backend.calls[0].body) == {"messages", "temperature"}


class TestFailover:
    async def two(self, net: LoopNet, bad: Echo) -> tuple[Node, Node]:
        return await net.add("alpha", bad), await net.add("beta", Echo())

    @pytest.mark.parametrize("error", [refused(500), refused(429), refused(404), ZeroDivisionError("x")])
    @pytest.mark.parametrize("stream", [True, False])
    async def test_the_next_node_stands_in(self, error: Exception, stream: bool) -> None:
        async with loop_net() as net:
            alpha, beta = await self.two(net, Failing(error=error))
            async with alpha.gateway.execute(CHAT, chat("abc"), Asking(stream)) as execution:
                parts = [part async for part in execution]
            assert parts
            assert execution.offer.node == beta.id
            assert execution.reason == f"alpha failed ({getattr(error, 'status', 500)}); beta stands in"
            assert alpha.gateway.stats.failovers == 1
            assert alpha.gateway.table.seen(alpha.id, "echo:echo", 0.0).failures == 1

    async def test_a_node_that_cannot_be_reached_is_passed_over(self) -> None:
        async with loop_net() as net:
            alpha = await net.add("alpha")
            beta, gamma = await net.add("beta", Echo()), await net.add("gamma", Echo())
            net.unreachable.add(beta.id)
            for _ in range(4):
                async with alpha.gateway.execute(CHAT, chat()) as execution:
                    assert execution.offer.node == gamma.id
            net.unreachable.add(gamma.id)
            with pytest.raises(RequestError, match="there is no link to it") as caught:
                await answer(alpha, chat())
            assert caught.value.status == 502

    async def test_a_node_that_is_dead_without_anyone_knowing_is_passed_over_soon(self) -> None:
        async with loop_net() as net:
            alpha = await net.add("alpha", config=GatewayConfig(reach_s=0.05))
            beta, gamma = await net.add("beta", Echo()), await net.add("gamma", Echo())
            net.silent.add(beta.id)
            began = trio.current_time()
            tried = 0
            while not tried:
                async with alpha.gateway.execute(CHAT, chat()) as execution:
                    assert execution.offer.node == gamma.id
                tried = alpha.gateway.table.seen(beta.id, "echo:echo", 0.0).failures
            assert trio.current_time() < began + 5.0

    async def test_an_error_of_the_request_itself_is_not_retried(self) -> None:
        async with loop_net() as net:
            alpha, beta = await self.two(net, Failing(error=refused(400)))
            with pytest.raises(RequestError) as caught:
                await answer(alpha, chat())
            assert caught.value.status == 400
            assert alpha.gateway.stats.failovers == 0
            assert beta.gateway.server.stats.served == 0
            assert alpha.gateway.table.seen(alpha.id, "echo:echo", 0.0).failures == 0

    @pytest.mark.parametrize("status", [400, 413, 415, 422])
    async def test_no_other_node_can_say_that_a_request_is_wrong(self, status: int) -> None:
        async with loop_net() as net:
            alpha = await net.add("alpha", Failing(error=refused(503)))
            bad = Failing(error=refused(status))
            beta, gamma = await net.add("beta", bad), await net.add("gamma", Echo())
            for _ in range(8):
                async with alpha.gateway.execute(CHAT, chat()) as execution:
                    assert execution.offer.node == gamma.id
            assert 1 <= len(bad.calls) <= 3
            seen = alpha.gateway.table.seen(beta.id, "echo:echo", trio.current_time())
            assert seen.failures == len(bad.calls)

    async def test_what_all_nodes_say_is_told(self) -> None:
        async with loop_net() as net:
            alpha = await net.add("alpha")
            for name in ("beta", "gamma"):
                await net.add(name, Failing(error=refused(400)))
            with pytest.raises(RequestError, match=r"^no$") as caught:
                await answer(alpha, chat())
            assert caught.value.status == 400

    async def test_this_machine_is_asked_whoever_stands_before_it(self) -> None:
        async with loop_net() as net:
            alpha = await net.add("alpha", Echo())
            alpha.load = 9
            for name in ("b", "c", "d", "e"):
                await net.add(name, Failing(error=refused(400)))
            for _ in range(20):
                assert await answer(alpha, chat())

    async def test_three_nodes_are_tried_at_most(self) -> None:
        async with loop_net() as net:
            nodes = [await net.add(name, Failing(error=refused(500))) for name in ("a", "b", "c", "d", "e")]
            with pytest.raises(RequestError, match=r"no Before that failed: \w \(500\), \w \(500\)\.") as caught:
                await answer(nodes[0], chat())
            assert caught.value.status == 500
            assert sum(node.gateway.server.stats.failed for node in nodes) == 2
            assert nodes[0].gateway.stats.errors == 1

    async def test_a_node_that_keeps_failing_is_asked_last(self) -> None:
        async with loop_net() as net:
            bad = Failing(error=refused(503))
            alpha, _ = await self.two(net, bad)
            for _ in range(8):
                await answer(alpha, chat())
            assert len(bad.calls) <= 3
            assert alpha.gateway.table.seen(alpha.id, "echo:echo", trio.current_time()).failures == len(bad.calls)

    async def test_odd_answers_count_as_failures(self) -> None:
        class Silent(Echo):
            async def answer(self, call: Any) -> Any:
                for _ in range(0):
                    yield {}

        class Double(Echo):
            async def answer(self, call: Any) -> Any:
                yield completion("echo", "1")
                yield completion("echo", "2")

        for backend, words in ((Silent(), "an empty answer"), (Double(), "several answers")):
            async with loop_net() as net:
                alpha = await net.add("alpha", backend)
                with pytest.raises(RequestError, match=words) as caught:
                    await answer(alpha, chat())
                assert caught.value.status == 502
                assert alpha.gateway.table.seen(alpha.id, "echo:echo", 0.0).failures == 1


class TestMidStream:
    @pytest.mark.parametrize("where", ["alpha", "beta"])
    async def test_a_backend_that_fails_in_the_middle(self, where: str) -> None:
        async with loop_net() as net:
            alpha = await net.add("alpha", *([Failing(error=refused(500), after=2)] if where == "alpha" else []))
            await net.add("beta", Failing(error=refused(500), after=2))
            body = chat(atmosphere={"local_only": where == "alpha"})
            async with alpha.gateway.execute(CHAT, body, Asking(stream=True)) as execution:
                await anext(execution)
                await anext(execution)
                with pytest.raises(RequestError, match="no" if where == "alpha" else "beta: no"):
                    await anext(execution)

    async def test_a_node_that_vanishes_in_the_middle(self) -> None:
        async with loop_net() as net:
            alpha = await net.add("alpha")
            await net.add("beta", Failing(after=1))
            async with alpha.gateway.execute(CHAT, chat(), Asking(stream=True)) as execution:
                await anext(execution)
                net.streams[0].reset()
                with pytest.raises(RequestError, match="beta failed while it ran echo: the stream was reset") as caught:
                    await anext(execution)
                assert caught.value.status == 502

    @pytest.mark.parametrize("where", ["alpha", "beta"])
    async def test_leaving_early_stops_the_work_where_it_runs(self, where: str) -> None:
        async with loop_net() as net:
            backend = Failing(after=3)
            alpha = await net.add("alpha", *([backend] if where == "alpha" else []))
            beta = await net.add("beta", *([backend] if where == "beta" else []))
            async with alpha.gateway.execute(CHAT, chat(), Asking(stream=True)) as execution:
                await anext(execution)
            await trio.testing.wait_all_tasks_blocked()
            assert backend.cancelled == 1
            assert alpha.pool.in_flight == beta.pool.in_flight == 0
            assert alpha.gateway.table.seen(backend_node := beta.id, "echo:echo", 0.0).in_flight == 0
            assert backend_node

    async def test_cancelling_stops_the_work_where_it_runs(self) -> None:
        async with loop_net() as net:
            backend = Failing(after=0)
            alpha, beta = await net.add("alpha"), await net.add("beta", backend)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer, alpha, chat())
                await trio.testing.wait_all_tasks_blocked()
                assert beta.pool.in_flight == 1
                nursery.cancel_scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert backend.cancelled == 1
            assert beta.gateway.server.stats.abandoned == 1
            assert alpha.gateway.stats.abandoned == 1


async def test_an_answer_that_takes_too_long(autojump_clock: trio.testing.MockClock) -> None:
    async with loop_net() as net:
        config = GatewayConfig(answer_s=30)
        alpha = await net.add("alpha", Failing(), config=config)
        with pytest.raises(RequestError, match="did not answer in time") as caught:
            await answer(alpha, chat())
        assert caught.value.status == 504
        beta = await net.add("beta", config=config)
        with pytest.raises(RequestError, match="echo on alpha did not answer in time") as caught:
            await answer(beta, chat())
        assert caught.value.status == 504
        assert beta.gateway.stats.errors == 1
        await trio.testing.wait_all_tasks_blocked()
        assert alpha.pool.in_flight == 0


class BreakingPort(LoopPort):
    """Its streams break when they are closed, whatever happened before."""

    @asynccontextmanager
    async def request(self, *arguments: Any) -> AsyncIterator[RequestStream]:
        try:
            async with super().request(*arguments) as opened:
                yield opened
        finally:
            raise RemoteError("it broke at the end")


class TestBreaksWhenClosed:
    async def breaking(self, net: LoopNet, *backends: Echo) -> Gateway:
        alpha, _ = await net.add("alpha"), await net.add("beta", *backends)
        port = BreakingPort(net, alpha.id)
        return Gateway(alpha.id, "alpha", alpha.pool, embed, lambda: port, stored=list)

    async def test_after_the_answer_nobody_minds(self) -> None:
        async with loop_net() as net:
            gateway = await self.breaking(net, Echo())
            async with gateway.execute(CHAT, chat()) as execution:
                assert await anext(execution)
            assert gateway.stats.answered == 1

    async def test_before_the_end_of_the_answer(self) -> None:
        async with loop_net() as net:
            gateway = await self.breaking(net, Failing(after=2))
            with pytest.raises(RequestError, match="beta failed while it ran echo: it broke at the end"):
                async with gateway.execute(CHAT, chat(), Asking(stream=True)) as execution:
                    assert await anext(execution)

    async def test_before_the_first_part(self) -> None:
        async def vanish(stream: Any) -> None:
            await stream.receive()
            raise RemoteError("gone")

        async with loop_net() as net:
            gateway = await self.breaking(net, Echo())
            net.nodes[node_id(2)].port.handlers["atmo/execute/1"] = vanish
            with pytest.raises(RequestError, match="beta failed while it ran echo: it broke at the end"):
                async with gateway.execute(CHAT, chat()):
                    raise AssertionError

    async def test_while_the_body_is_sent(self) -> None:
        class Deaf(LoopPort):
            @asynccontextmanager
            async def request(self, *arguments: Any) -> AsyncIterator[RequestStream]:
                async with super().request(*arguments) as opened:
                    assert isinstance(opened, MemoryStream)
                    opened.reset()
                    yield opened

        async with loop_net() as net:
            alpha, _ = await net.add("alpha"), await net.add("beta", Echo())
            port = Deaf(net, alpha.id)
            gateway = Gateway(alpha.id, "alpha", alpha.pool, embed, lambda: port, stored=list)
            with pytest.raises(RequestError, match="the stream was reset"):
                async with gateway.execute(CHAT, chat()):
                    raise AssertionError


async def test_models_lists_what_runs_and_what_is_stored() -> None:
    def stored(version: str, node: str) -> Any:
        return SimpleNamespace(
            name="iris",
            version=version,
            type="classifier",
            format="onnx",
            size_bytes=len(version),
            nodes=[node],
            local=node == "alpha",
        )

    async with loop_net() as net:
        rows = [stored("1.0", "beta"), stored("1.10", "alpha"), stored("1.9", "beta")]
        alpha = await net.add("alpha", Lengths(), stored=lambda: rows)
        await net.add("beta", Echo(), Lengths(), Signs("iris"))
        echo, iris, lengths = alpha.gateway.models()
    assert (lengths["nodes"], lengths["owned_by"], lengths["local"]) == (["alpha", "beta"], "alpha, beta", True)
    assert (echo["ready"], echo["local"], echo["operations"], echo["backends"]) == (True, False, [CHAT], ["echo"])
    assert iris["versions"] == ["1.10", "1.9", "1.0.0", "1.0"]
    assert (iris["stored_on"], iris["type"], iris["size_bytes"], iris["local"]) == (
        ["alpha", "beta"],
        "classifier",
        4,
        True,
    )


async def test_breakers_are_per_capability() -> None:
    async with loop_net() as net:
        alpha = await net.add("alpha", Failing(error=refused(500)), Lengths())
        for _ in range(3):
            with pytest.raises(RequestError):
                await answer(alpha, chat())
        now = trio.current_time()
        assert alpha.gateway.table.seen(alpha.id, "echo:echo", now).breaker == OPEN
        assert alpha.gateway.table.seen(alpha.id, "len:lengths", now).failures == 0
        assert await answer(alpha, {"input": "x"}, EMBEDDINGS)


async def test_an_unexpected_remote_error_type_is_told_as_502() -> None:
    async with loop_net() as net:
        alpha, beta = await net.add("alpha"), await net.add("beta", Echo())

        async def nonsense(stream: Any) -> None:
            await stream.send(b"\xff")

        beta.port.handlers["atmo/execute/1"] = nonsense
        with pytest.raises(RequestError, match="does not decode") as caught:
            await answer(alpha, chat())
        assert caught.value.status == 502
        assert isinstance(caught.value.__cause__, RemoteError)
        assert node_id(2) == beta.id
