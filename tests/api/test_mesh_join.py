from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.api.face import in_process, make_app
from tests.api.faces import MemoryMesh
from tests.gateway.world import loop_net

TOKEN = "the-nodes-own-token"
OWNER = {"authorization": f"Bearer {TOKEN}"}


async def joining(body: Any, headers: dict[str, str], address: str = "127.0.0.1", **more: Any) -> httpx.Response:
    """Returns the answer of a node in no mesh, asked from an address."""
    async with loop_net() as net:
        app = make_app(await net.add("alpha"), **{"mesh": MemoryMesh(), "token": TOKEN, **more})
        transport = httpx.ASGITransport(app=app, client=(address, 5))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.post("/v1/mesh/join", json=body, headers=headers)


async def test_the_owner_of_the_machine_joins() -> None:
    answer = await joining({"code": "atmo1-x"}, OWNER)
    assert answer.status_code == 200
    assert answer.json() == {"object": "mesh", "id": "m" * 52, "name": "home"}


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer x"}, {"authorization": TOKEN}, {"x-api-key": TOKEN}])
async def test_nobody_else_does(headers: dict[str, str]) -> None:
    mesh = MemoryMesh()
    answer = await joining({"code": "atmo1-x"}, headers, mesh=mesh)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_token")
    assert mesh.mesh is None


async def test_not_from_another_machine_whatever_it_shows() -> None:
    mesh = MemoryMesh()
    answer = await joining({"code": "atmo1-x"}, OWNER, "192.168.1.7", mesh=mesh)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "not_this_machine")
    assert mesh.mesh is None


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "invalid_value"),
        ({"code": 5}, 400, "invalid_value"),
        ({"code": ""}, 400, "invalid_value"),
        ({"code": "no code"}, 409, "cannot_join"),
        ({"code": "unreachable"}, 502, None),
    ],
)
async def test_what_is_in_the_way_is_said(body: Any, status: int, code: str | None) -> None:
    answer = await joining(body, OWNER)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_a_node_without_a_token_has_no_such_route() -> None:
    async with loop_net() as net, in_process(make_app(await net.add("alpha"))) as client:
        assert (await client.post("/v1/mesh/join", json={"code": "x"}, headers=OWNER)).status_code == 404
