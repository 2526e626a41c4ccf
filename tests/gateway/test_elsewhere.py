"""What is looked for in the index, and what is not."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import pytest
import trio

from atmo.gateway.elsewhere import keys_of, serves, worth_seeking
from atmo.index.keys import capability_key, model_key
from atmo.router.capability import CHAT, CLASSIFY
from atmo.router.decision import Constraints, RouteRequest
from atmo.router.offers import Offers
from atmo.router.policy import decide
from atmo.router.table import NodeTable
from tests.gateway.world import Echo, chat, loop_net
from tests.router.offers import offer

LOCAL = Constraints(local_only=True)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("llama3.2", ["llama3.2", "llama3.2:latest"]),
        ("llama3.2:1b", ["llama3.2:1b"]),
        ("iris@>=1,<2", ["iris@>=1,<2", "iris", "iris:latest"]),
    ],
)
def test_a_model_is_looked_for_by_all_that_its_name_may_mean(model: str, names: list[str]) -> None:
    assert keys_of(RouteRequest(CHAT, model)) == [model_key(name) for name in names]


@pytest.mark.parametrize("model", ["", "auto"])
def test_without_a_name_it_is_looked_for_who_can_do_it(model: str) -> None:
    assert keys_of(RouteRequest(CLASSIFY, model)) == [capability_key(CLASSIFY)]


@pytest.mark.parametrize(
    ("request_", "worth"),
    [
        (RouteRequest(CHAT, "parrot"), False),
        (RouteRequest(CHAT, "auto"), False),
        (RouteRequest(CHAT, "unknown"), True),
        (RouteRequest(CHAT, "parrot@>=9"), True),
        (RouteRequest(CHAT, "parrot@>=x"), False),
        (RouteRequest(CLASSIFY, "auto"), True),
        (RouteRequest(CLASSIFY, "parrot"), False),
        (RouteRequest(CHAT, "unknown", LOCAL), False),
        (RouteRequest(CLASSIFY, "auto", LOCAL), False),
        (RouteRequest(CHAT, "parrot", Constraints(max_cost_per_1k=0.1)), False),
    ],
)
def test_only_what_nobody_known_offers_is_looked_for(request_: RouteRequest, worth: bool) -> None:
    offers = Offers([offer("parrot", version="1.0", cost_per_1k=1.0)])
    assert worth_seeking(decide(request_, offers, None, NodeTable(), 0.0), offers) is worth


def test_what_meets_the_constraints_is_enough() -> None:
    offers = Offers([offer("parrot", cost_per_1k=1.0)])
    assert serves(RouteRequest(CHAT, "parrot"), offers)
    assert not serves(RouteRequest(CHAT, "parrot", Constraints(max_cost_per_1k=0.1)), offers)
    assert not serves(RouteRequest(CHAT, "other"), offers)


async def test_the_gateway_decides_again_when_somebody_was_found() -> None:
    asked: list[Collection[bytes]] = []

    async def seek(keys: Collection[bytes], enough: Callable[[], bool]) -> None:
        await trio.lowlevel.checkpoint()
        asked.append(keys)
        assert not enough()
        net.dead.clear()
        assert enough()

    async with loop_net() as net:
        alpha = await net.add("alpha", seek=seek)
        beta = await net.add("beta", Echo())
        net.dead.add(beta.id)
        assert await decided(alpha, "echo") == "beta"
        assert await decided(alpha, "echo") == "beta"
        net.dead.add(beta.id)
        assert await decided(alpha, "auto") == "beta"
    assert asked == [[model_key("echo"), model_key("echo:latest")], [capability_key(CHAT)]]


async def decided(node: Any, model: str) -> str:
    decision = await node.gateway.route(CHAT, chat(model=model))
    return str(decision.chosen.node_name)
