from __future__ import annotations

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from atmo.api.direct import Direct, DirectRoutes
from atmo.api.errors import add_handlers
from atmo.api.guard import Guard
from atmo.errors import RequestError


class Broken(Response):
    """Begins its answer and fails."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RequestError(400, "too late")


def make_app() -> tuple[FastAPI, DirectRoutes]:
    routes = DirectRoutes()
    app = FastAPI()
    app.add_middleware(Direct, routes=routes, handlers=app.exception_handlers)
    app.add_middleware(Guard, http_host="127.0.0.1")
    add_handlers(app)
    router = APIRouter(prefix="/v1")

    @router.post("/plain")
    async def plain() -> Response:
        return PlainTextResponse("plain")

    @router.post("/refused")
    async def refused() -> Response:
        raise RequestError(418, "no", code="teapot")

    @router.post("/broken")
    async def broken() -> Response:
        return Broken()

    @router.post("/fails")
    async def fails() -> Response:
        raise ValueError("told in the log")

    @router.get("/with/{name}")
    async def with_name(name: str) -> Response:
        return PlainTextResponse(name)

    @router.get("/asks", dependencies=[Depends(lambda: None)])
    async def asks() -> Response:
        return PlainTextResponse("asked")

    app.include_router(routes.add(router))
    return app, routes


def client_of(app: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")


async def test_the_short_way_answers_as_the_long_one() -> None:
    app, routes = make_app()
    found = [routes.find({"type": "http", "method": "POST", "path": f"/v1/{name}"}) for name in ("plain", "with/x")]
    assert (found[0] is not None, found[1]) == (True, None)
    assert routes.find({"type": "http", "method": "GET", "path": "/v1/asks"}) is None
    assert routes.find({"type": "websocket", "path": "/v1/plain"}) is None
    async with client_of(app) as client:
        assert (await client.post("/v1/plain")).text == "plain"
        assert (await client.get("/v1/with/x")).text == "x"
        assert (await client.get("/v1/asks")).text == "asked"
        assert (await client.get("/v1/plain")).status_code == 405
        answer = await client.post("/v1/refused")
        assert (answer.status_code, answer.json()["error"]["code"]) == (418, "teapot")
        assert (await client.post("/v1/fails")).json()["error"]["code"] == "internal_error"


async def test_an_answer_that_has_begun_is_not_answered_again() -> None:
    app, _ = make_app()
    with pytest.raises(RequestError, match="too late"):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1") as client:
            await client.post("/v1/broken")
