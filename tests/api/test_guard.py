from __future__ import annotations

from typing import Any

import httpx
import pytest
import trio

from atmo.api.account import Account
from atmo.api.guard import Guard
from tests.api.face import in_process, make_app, served
from tests.gateway.world import Echo, chat, loop_net


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LocalHost:11451", 200),
        ("127.0.0.1:11451", 200),
        ("127.9.9.9", 200),
        ("[::1]:11451", 200),
        ("localhost.", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("192.168.1.5", 403),
        ("[::1", 403),
        ("", 403),
        ("user@evil.example", 403),
    ],
)
async def test_hosts(host: str, status: int) -> None:
    async with loop_net() as net, in_process(make_app(await net.add("alpha"))) as client:
        answer = await client.get("/health", headers={"host": host})
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["error"]["code"] == "host_not_allowed"
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:3000", 200),
        ("http://127.0.0.1:11451", 200),
        ("https://evil.example", 403),
        ("null", 403),
        ("http://[", 403),
    ],
)
async def test_origins(origin: str, status: int) -> None:
    backend = Echo()
    async with loop_net() as net, in_process(make_app(await net.add("alpha", backend))) as client:
        answer = await client.post("/v1/chat/completions", json=chat(), headers={"origin": origin})
    assert answer.status_code == status
    assert len(backend.calls) == (status == 200)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "host.docker.internal:11451"}, 200),
        ({"host": "Host.Docker.Internal"}, 200),
        ({"host": "other.docker.internal"}, 403),
        ({"host": "127.0.0.1", "origin": "http://host.docker.internal"}, 403),
    ],
)
async def test_names_that_the_settings_give_it(headers: dict[str, str], status: int) -> None:
    async with loop_net() as net:
        app = make_app(await net.add("alpha"), hosts=("host.docker.internal",))
        async with in_process(app) as client:
            assert (await client.get("/health", headers=headers)).status_code == status


@pytest.mark.parametrize(("host", "status"), [("192.168.1.5", 200), ("nas.local", 200), ("evil.example", 403)])
async def test_bound_elsewhere(host: str, status: int) -> None:
    async with loop_net() as net:
        app = make_app(await net.add("alpha"), http_host="nas.local")
        async with in_process(app) as client:
            assert (await client.get("/health", headers={"host": host})).status_code == status


async def test_no_preflight_is_answered() -> None:
    async with loop_net() as net, in_process(make_app(await net.add("alpha"))) as client:
        answer = await client.options("/v1/chat/completions", headers={"origin": "http://localhost"})
    assert answer.status_code == 405


@pytest.mark.parametrize(
    ("path", "host", "status"), [("/health", "localhost", 200), ("/nope", "localhost", 404), ("/health", "evil", 403)]
)
async def test_every_answer_has_the_id_of_its_account(path: str, host: str, status: int) -> None:
    accounts: list[Account] = []
    async with loop_net() as net:
        app = make_app(await net.add("alpha"), observers=(accounts.append,))
        async with in_process(app) as client:
            answer = await client.get(path, headers={"host": host})
    assert answer.status_code == status
    assert answer.headers.get_list("x-request-id") == [accounts[0].request_id]


async def test_whatever_answers_get_answers_head() -> None:
    """Load balancers and users ask `curl -I`; no route has to know."""
    async with loop_net() as net, served(make_app(await net.add("alpha"))) as url, httpx.AsyncClient() as client:
        for path in ("/health", "/v1/models", "/docs", "/openapi.json", "/v1/models/nope"):
            head, got = await client.head(url + path), await client.get(url + path)
            assert (head.status_code, head.content) == (got.status_code, b"")
            assert head.headers["content-type"] == got.headers["content-type"]
        assert (await client.head(f"{url}/v1/chat/completions")).status_code == 405


async def call(guard: Guard, scope: dict[str, Any]) -> list[Any]:
    sent: list[Any] = []

    async def receive() -> Any:
        await trio.lowlevel.checkpoint()
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(message)

    await guard(scope, receive, send)
    return sent


async def test_a_websocket_is_refused_before_it_opens() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send("the application was asked")

    (message,) = await call(Guard(app, "127.0.0.1"), {"type": "websocket", "headers": [], "path": "/"})
    assert (message["type"], message["code"]) == ("websocket.close", 1008)


async def test_a_failure_after_the_answer_began_ends_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await call(Guard(app, "::1"), {"type": "http", "headers": [(b"host", b"[::1]")], "path": "/"})


async def test_lifespan_passes() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(scope["type"])

    assert await call(Guard(app, "127.0.0.1"), {"type": "lifespan"}) == ["lifespan"]
