from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from tests.api.face import in_process, make_app
from tests.gateway.world import chat, loop_net

PAGE = "https://chat.example.org"
ASK = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-lang",
}


@asynccontextmanager
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with loop_net() as net:
        app = make_app(await net.add("alpha"), cors=(PAGE, "http://localhost:5173"))
        async with in_process(app) as asking:
            yield asking


@pytest.mark.parametrize("origin", [PAGE, "http://localhost:5173", "https://CHAT.example.org"])
async def test_a_browser_asks_for_leave_ahead(origin: str) -> None:
    async with client() as asking:
        answer = await asking.options("/v1/chat/completions", headers={**ASK, "origin": origin})
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == origin
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"] == ASK["access-control-request-headers"]
    assert "origin" in answer.headers["vary"]
    assert "access-control-allow-credentials" not in answer.headers
    assert "access-control-allow-private-network" not in answer.headers


async def test_a_page_of_the_internet_asks_for_a_private_network() -> None:
    async with client() as asking:
        headers = {**ASK, "origin": PAGE, "access-control-request-private-network": "true"}
        answer = await asking.options("/v1/models", headers=headers)
        assert answer.headers["access-control-allow-private-network"] == "true"
        headers["access-control-request-headers"] = "x" * 2_000
        assert "access-control-allow-headers" not in (await asking.options("/v1/models", headers=headers)).headers


@pytest.mark.parametrize(
    "origin", ["https://evil.example", f"{PAGE}.evil.example", "null", "*", "http://chat.example.org"]
)
async def test_other_pages_get_nothing(origin: str) -> None:
    async with client() as asking:
        for answer in (
            await asking.options("/v1/models", headers={**ASK, "origin": origin}),
            await asking.post("/v1/chat/completions", json=chat(), headers={"origin": origin}),
        ):
            assert answer.status_code == 403
            assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_answers_and_errors_may_be_read_by_the_page() -> None:
    async with client() as asking:
        for path, status in (("/v1/models", 200), ("/nothing", 404)):
            answer = await asking.get(path, headers={"origin": PAGE})
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == PAGE
            assert "retry-after" in answer.headers["access-control-expose-headers"]
        own = await asking.get("/v1/models", headers={"origin": "http://localhost:9999"})
        assert own.status_code == 200
        assert "access-control-allow-origin" not in own.headers
        plain = await asking.options("/v1/models", headers={"origin": PAGE})
        assert plain.status_code == 405
