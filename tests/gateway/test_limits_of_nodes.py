"""A node that is asked too much by another says when it takes more, and is asked last until then."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from atmo.errors import RequestError
from atmo.gateway.askers import NodeLimits
from atmo.gateway.gateway import GatewayConfig
from atmo.gateway.serving import ServerConfig
from atmo.gateway.terms import Terms
from atmo.router.capability import CHAT
from tests.gateway.world import Echo, LoopNet, Node, chat, loop_net


def limited(limits: NodeLimits) -> GatewayConfig:
    return GatewayConfig(serving=ServerConfig(everybody=limits, by_role={"gateway": NodeLimits(8, 0.0)}))


async def asked(node: Node) -> str:
    """Returns who answered."""
    async with node.gateway.execute(CHAT, chat(model="echo")) as execution:
        async for _ in execution:
            pass
        return execution.offer.node_name


async def trio_of_nodes(net: LoopNet, limits: NodeLimits, terms: Terms | None = None) -> tuple[Node, Node, Node]:
    alpha = await net.add("alpha")
    beta = await net.add("beta", Echo(), config=limited(limits), terms=terms)
    gamma = await net.add("gamma", Echo())
    gamma.load = 64
    return alpha, beta, gamma


async def test_it_is_left_alone_for_as_long_as_it_said(autojump_clock: MockClock) -> None:
    async with loop_net() as net:
        alpha, beta, _ = await trio_of_nodes(net, NodeLimits(8, 0.25, 2))
        assert [await asked(alpha) for _ in range(4)] == ["beta", "beta", "gamma", "gamma"]
        assert beta.gateway.server.stats.refused == 1
        await trio.sleep(4.1)
        assert await asked(alpha) == "beta"


async def test_the_client_learns_when_nobody_else_is_there(autojump_clock: MockClock) -> None:
    async with loop_net() as net:
        alpha, _, gamma = await trio_of_nodes(net, NodeLimits(8, 0.25, 1))
        net.unreachable.add(gamma.id)
        assert await asked(alpha) == "beta"
        net.dead.add(gamma.id)
        with pytest.raises(RequestError) as caught:
            await asked(alpha)
        assert (caught.value.status, caught.value.code) == (429, "rate_limit_exceeded")
        assert caught.value.retry_s == pytest.approx(4.0, abs=0.1)


async def test_a_gateway_may_ask_more() -> None:
    async with loop_net() as net:
        alpha, beta, _ = await trio_of_nodes(net, NodeLimits(1, 0.01, 1), Terms(roles=lambda _: ("edge", "gateway")))
        assert [await asked(alpha) for _ in range(6)] == ["beta"] * 6
        assert beta.gateway.server.stats.refused == 0
