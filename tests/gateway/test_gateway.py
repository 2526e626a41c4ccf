from __future__ import annotations

from typing import Any

from atmo.router.capability import CHAT, Capability
from tests.gateway.world import Echo, Node, chat, loop_net

ECHO = Capability("echo:echo", CHAT, "echo", general=True, backend="echo")


async def answer(node: Node, body: dict[str, Any], operation: str = CHAT, *, stream: bool = False) -> list[Any]:
    async with node.gateway.execute(operation, body, stream=stream) as execution:
        return [part async for part in execution.parts]


async def test_runs_on_this_machine() -> None:
    async with loop_net() as net:
        node = await net.add("alpha", Echo())
        async with node.gateway.execute(CHAT, chat("abc"), request_id="r1") as execution:
            (part,) = [part async for part in execution]
        assert part["choices"][0]["message"]["content"] == "cba"
        assert execution.offer.local
        assert execution.offer.node_name == "alpha"
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
        (whole,) = await answer(alpha, chat("abc"))
        assert whole["choices"][0]["message"]["content"] == "cba"
        assert beta.gateway.server.stats.served == 2
        assert alpha.gateway.stats.sent_away == 2
        assert alpha.gateway.stats.answered == 2
        assert alpha.gateway.decisions[-1].chosen is not None
        assert alpha.gateway.decisions[-1].chosen.node == beta.id


async def test_large_bodies_and_answers_cross_in_pieces() -> None:
    async with loop_net() as net:
        alpha = await net.add("alpha")
        await net.add("beta", Echo())
        text = "x" * 3_000_000
        (whole,) = await answer(alpha, chat(text))
        assert whole["choices"][0]["message"]["content"] == text
