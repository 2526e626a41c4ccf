"""The control routes of keys."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import trio
from starlette.requests import Request

from atmo.api.control.body import BadRequestError, told_to_owner
from atmo.api.control.keys import add_key_routes
from atmo.api.routing import Router
from atmo.services.keys import KeyService
from atmo.storage.database import Database
from tests.api.face import application


@pytest.fixture
def client(tmp_path: Path) -> httpx.AsyncClient:
    async def authorise(request: Request) -> None:
        if "authorization" not in request.headers:
            raise BadRequestError(401, "no")
        await trio.lowlevel.checkpoint()

    router = Router(wrap=told_to_owner)
    add_key_routes(router, authorise, KeyService(Database(tmp_path / "atmosphere.db")))
    app = application(router)
    headers = {"authorization": "x"}
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://node", headers=headers)


async def test_a_key_from_making_to_revoking(client: httpx.AsyncClient) -> None:
    async with client:
        fields = {"name": "ci", "models": ["a*"], "rate": "5/min", "budget": "1/day", "expires_s": 60}
        made = await client.post("/keys/create", json=fields)
        assert made.json()["key"].startswith("sk-atmo-")
        assert made.headers["cache-control"] == "no-store"
        (row,) = (await client.get("/keys")).json()["keys"]
        assert row["models"] == ["a*"]
        assert "key" not in row
        assert (await client.get("/keys/ci")).json() == row
        plain = await client.post("/keys/create", json={"name": "plain", "models": [], "rate": None, "expires_s": None})
        assert plain.json()["expires_at"] is None
        assert (await client.post("/keys/revoke", json={"which": "ci"})).json()["state"] == "revoked"


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("create", {}, 400),
        ("create", {"name": "a", "other": 1}, 400),
        ("create", {"name": "a", "models": "x"}, 400),
        ("create", {"name": "a", "expires_s": "1"}, 400),
        ("create", {"name": "a", "rate": 5}, 400),
        ("create", {"name": "a", "rate": "5"}, 409),
        ("create", {"name": "a b"}, 409),
        ("revoke", {"which": "nobody"}, 409),
        ("revoke", {}, 400),
    ],
)
async def test_what_cannot_be(client: httpx.AsyncClient, path: str, body: dict[str, object], status: int) -> None:
    async with client:
        assert (await client.post(f"/keys/{path}", json=body)).status_code == status


async def test_every_route_wants_the_token(client: httpx.AsyncClient) -> None:
    del client.headers["authorization"]
    async with client:
        for method, path in (("GET", "/keys"), ("GET", "/keys/a"), ("POST", "/keys/create"), ("POST", "/keys/revoke")):
            assert (await client.request(method, path, json={})).status_code == 401
        assert (await client.get("/keys")).json() != {"keys": []}
