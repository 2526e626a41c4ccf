"""What the endpoint of a headless node lets through."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from starlette.types import Message, Receive, Scope, Send

from atmo.api.headless import Headless


async def reached(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "reached"})


async def ask(kind: str, path: str, **headers: str) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        await trio.lowlevel.checkpoint()
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(message)

    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await Headless(reached, "secret")({"type": kind, "path": path, "headers": pairs}, receive, send)
    return sent


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("lifespan", ""),
        ("http", "/health"),
        ("http", "/v1/health"),
        ("http", "/metrics"),
        ("http", "/atmo/v1/status"),
        ("http", "/atmo/v1/models/pull"),
    ],
)
async def test_what_is_let_through(kind: str, path: str) -> None:
    assert await ask(kind, path) == [{"type": "reached"}]


@pytest.mark.parametrize(
    "path",
    ["/", "/v1/chat/completions", "/v1/models", "/docs", "/openapi.json", "/atmo", "/health/x", "/v1/mesh/topology"],
)
async def test_what_is_refused(path: str) -> None:
    start, *_ = await ask("http", path, authorization="Bearer wrong")
    assert start["status"] == 403


async def test_a_websocket_is_refused() -> None:
    (closed,) = await ask("websocket", "/v1/stream")
    assert closed == {"type": "websocket.close", "code": 1008, "reason": "this node is headless"}


async def test_the_owner_s_commands_are_let_through() -> None:
    assert await ask("http", "/v1/mesh/topology", authorization="Bearer secret") == [{"type": "reached"}]
    start, *_ = await ask("http", "/v1/chat/completions", authorization="Bearer secret")
    assert start["status"] == 403
