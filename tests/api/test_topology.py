from __future__ import annotations

from typing import Any

import trio

from tests.api.face import in_process, make_app
from tests.gateway.world import loop_net

PICTURE = {"nodes": [{"id": "a", "name": "alpha", "answered": True}], "links": [], "partial": False}


class Draws:
    async def topology(self) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        return PICTURE


async def test_the_topology_is_told() -> None:
    async with loop_net() as net, in_process(make_app(await net.add("alpha"), topology=Draws())) as client:
        answer = await client.get("/v1/mesh/topology")
    assert answer.status_code == 200
    assert answer.json() == PICTURE


async def test_where_there_is_none_there_is_no_route() -> None:
    async with loop_net() as net, in_process(make_app(await net.add("alpha"))) as client:
        assert (await client.get("/v1/mesh/topology")).status_code == 404
