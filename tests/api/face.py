"""The API of a node in a loop of nodes: in process, and behind a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import httpx
import openai
import trio
from starlette.types import ASGIApp

from atmo.api.app import create_app
from atmo.api.errors import HANDLERS, missing
from atmo.api.http.server import serve
from atmo.api.routing import Application, Router
from atmo.api.services import ApiServices
from tests.gateway.world import Node

T = TypeVar("T")


class Members:
    """A mesh of one row."""

    def nodes(self) -> list[dict[str, Any]]:
        return [{"id": "a", "name": "alpha", "roles": ["edge"], "path": "self", "rtt_ms": 0, "last_seen_s": 0}]

    def mesh(self) -> dict[str, Any] | None:
        return {"id": "m", "name": "home"}


class Fits:
    """Remembers what it was asked to fit."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Mapping[str, Any]]] = []

    async def fit(self, operation: str, body: Mapping[str, Any]) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        self.asked.append((operation, body))
        return {"object": "model", "model": body.get("model", "new")}


def make_app(node: Node, **more: Any) -> Application:
    """Returns the application of `node`."""
    services = ApiServices(str(node.id), node.name, node.gateway, **{"mesh": Members(), "trainer": Fits(), **more})
    return create_app(services)


def application(*routers: Router) -> Application:
    """Returns an application of these routes alone."""
    app = Application("Test", "0", partial(missing, ()), HANDLERS)
    for router in routers:
        app.include(router)
    return app


def in_process(app: ASGIApp) -> httpx.AsyncClient:
    """Returns a client that calls `app` with no server between."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1")


@asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[str]:
    """Serves `app` on a free port; yields the URL."""
    async with trio.open_nursery() as nursery:
        port = await nursery.start(partial(serve, app, "127.0.0.1", 0))
        yield f"http://127.0.0.1:{port}"
        nursery.cancel_scope.cancel()


async def with_openai(url: str, use: Callable[[openai.OpenAI], T]) -> T:
    """Runs `use` with the official client in a thread, as any program would."""

    def run() -> T:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=20) as client:
            return use(client)

    return await trio.to_thread.run_sync(run)
