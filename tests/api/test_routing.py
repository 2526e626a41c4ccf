# An endpoint is async whether it has to wait for anything or not.
# flake8: noqa: ASYNC124

from __future__ import annotations

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from atmo.api.guard import Guard
from atmo.api.routing import Application, Endpoint, Router
from atmo.errors import RequestError, UserError
from tests.api.face import application, in_process


class Broken(Response):
    """Begins its answer and fails."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RequestError(400, "too late")


def make_app() -> Application:
    router = Router("/v1")

    @router.get("/plain")
    @router.post("/plain")
    async def plain() -> Response:
        return PlainTextResponse("plain")

    @router.post("/refused")
    async def refused() -> Response:
        raise RequestError(418, "no", code="teapot")

    @router.post("/person")
    async def person() -> Response:
        raise UserError("It is taken.", "Choose another.")

    @router.post("/broken")
    async def broken() -> Response:
        return Broken()

    @router.post("/fails")
    async def fails() -> Response:
        raise ValueError("told in the log")

    @router.get("/with/{name}")
    async def with_name(name: str, request: Request) -> Response:
        return PlainTextResponse(f"{name} {request.query_params.get('q')}")

    @router.delete("/with/{name}")
    async def without(name: str) -> Response:
        return PlainTextResponse(f"{name} is gone")

    @router.get("/all/{path:path}")
    async def below(path: str) -> Response:
        return PlainTextResponse(path)

    @router.websocket("/socket")
    async def socket(peer: WebSocket) -> None:
        await peer.accept()
        await peer.close()

    app = application(router)
    app.surround(lambda inner: Guard(inner, http_host="127.0.0.1"))
    return app


@pytest.mark.parametrize(
    ("method", "path", "text"),
    [
        ("GET", "/v1/plain", "plain"),
        ("POST", "/v1/plain", "plain"),
        ("GET", "/v1/with/x?q=1", "x 1"),
        ("GET", "/v1/with/a%20b", "a b None"),
        ("DELETE", "/v1/with/x", "x is gone"),
        ("GET", "/v1/all/a/b", "a/b"),
        ("GET", "/v1/all/a%0Ab", "a\nb"),
    ],
)
async def test_who_answers(method: str, path: str, text: str) -> None:
    async with in_process(make_app()) as client:
        assert (await client.request(method, path)).text == text


async def test_what_no_route_takes() -> None:
    async with in_process(make_app()) as client:
        for path in ("/v1/with/", "/v1/with/a/b", "/v1/plain/", "/plain", "/v1/all/"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), path
        wrong = await client.put("/v1/plain")
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD, POST")
        assert (await client.put("/v1/all/x")).headers["allow"] == "GET, HEAD"
        assert (await client.head("/v1/all/x")).status_code == 200
        assert (await client.head("/v1/refused")).status_code == 405


async def test_errors_of_endpoints() -> None:
    async with in_process(make_app()) as client:
        answer = await client.post("/v1/refused")
        assert (answer.status_code, answer.json()["error"]["code"]) == (418, "teapot")
        person = await client.post("/v1/person")
        assert (person.status_code, person.json()["error"]["message"]) == (400, "It is taken. Choose another.")
    transport = httpx.ASGITransport(app=make_app(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        assert (await client.post("/v1/fails")).json()["error"]["code"] == "internal_error"


async def test_an_answer_that_has_begun_is_not_answered_again() -> None:
    with pytest.raises(RequestError, match="too late"):
        async with in_process(make_app()) as client:
            await client.post("/v1/broken")


async def test_a_wrap_is_around_each_endpoint_of_a_router() -> None:
    def louder(endpoint: Endpoint) -> Endpoint:
        async def answer(**given: str) -> Response:
            return PlainTextResponse(bytes((await endpoint(**given)).body).upper())

        return answer

    router = Router(wrap=louder)

    @router.get("/{word}")
    async def echo(word: str) -> Response:
        return PlainTextResponse(word)

    async with in_process(application(router)) as client:
        assert (await client.get("/loud")).text == "LOUD"


@pytest.mark.parametrize(
    ("path", "sent"), [("/v1/socket", ["websocket.accept", "websocket.close"]), ("/v1/plain", ["websocket.close"])]
)
async def test_websockets(path: str, sent: list[str]) -> None:
    told: list[str] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        told.append(message["type"])

    headers = [(b"host", b"127.0.0.1")]
    await make_app()({"type": "websocket", "path": path, "headers": headers}, receive, send)
    assert told == sent
    await make_app()({"type": "lifespan"}, receive, send)
