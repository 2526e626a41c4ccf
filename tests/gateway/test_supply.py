"""What this machine and the others offer is put together anew only when it changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

from atmo.backends.pool import BackendPool
from atmo.clock import Now
from atmo.gateway.supply import Supply
from atmo.net.ports import MeshPort
from atmo.router.offers import Offers
from tests.router.offers import node, offer


class Pool:
    def __init__(self, *models: str) -> None:
        self.in_flight = 0
        self.models = models

    def capabilities(self) -> list[object]:
        return [offer(model).capability for model in self.models]


def test_the_same_supply_is_the_same_object_and_tells_the_load_of_now() -> None:
    load, pool = 3, Pool("iris")
    others = Offers([offer("m", 0), offer("m", 1)], lambda one: replace(one, load=load))
    port = SimpleNamespace(peer=SimpleNamespace(offers=lambda _: others), now=lambda: Now(0.0, 0.0))
    mesh: list[object | None] = [port]
    supply = Supply(node(0), "here", cast(BackendPool, pool), cast("Callable[[], MeshPort | None]", lambda: mesh[0]))
    first = supply.offers()
    assert [(one.capability.model, one.node_name, one.load) for one in first] == [("iris", "here", 0), ("m", "n1", 3)]
    load, pool.in_flight = 5, 2
    assert supply.offers() is first
    assert [one.load for one in first] == [2, 5]
    pool.models = ("iris", "wine")
    assert [one.capability.model for one in supply.offers()] == ["iris", "wine", "m"]
    others = Offers([offer("p", 2)])
    assert [one.capability.model for one in supply.offers()] == ["iris", "wine", "p"]
    mesh[0] = None
    assert [one.local for one in supply.offers()] == [True, True]
