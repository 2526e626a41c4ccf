"""Servers that nobody configured, at real ports of loopback; the servers are stand-ins."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from atmo.backends.base import Call, as_object
from atmo.backends.found import FoundBackend
from atmo.backends.places import FOUND_NAMES, PLACES, Place
from atmo.errors import RequestError
from atmo.router.capability import CHAT, Capability
from tests.backends.fake_server import Server, serve

MODELS = {"object": "list", "data": [{"id": "qwen3:8b", "object": "model", "owned_by": "someone"}]}
ATMOSPHERE = {"status": "ok", "node_id": "b32", "mesh": None, "capabilities": 3, "mesh_capabilities": 9}


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serve() as server:
        yield server


def backend_for(*servers: Server) -> FoundBackend:
    places = [Place(f"kind{index}", server.port) for index, server in enumerate(servers)]
    return FoundBackend([place.name for place in places], places=places)


def test_places_are_told_apart() -> None:
    assert len({place.name for place in PLACES}) == len({place.port for place in PLACES}) == len(PLACES)
    assert len(set(FOUND_NAMES)) == len(FOUND_NAMES)


async def test_a_server_is_found_used_and_lost(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server.json("/v1/models", MODELS)
    choice = {"message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    server.json("/v1/chat/completions", {"choices": [choice]})
    backend = backend_for(server)
    for _ in range(2):
        (capability,) = await backend.discover()
        assert (capability.id, capability.operation, capability.model) == ("openai:kind0:qwen3:8b", CHAT, "qwen3:8b")
    assert caplog.text.count("found a model server") == 1
    call = Call(capability, {"messages": [{"role": "user", "content": "x"}]})
    assert backend.ignored(call) == ()
    async with aclosing(backend.execute(call)) as parts:
        assert as_object(await anext(parts))["choices"][0]["message"]["content"] == "hi"
    server.json("/v1/models", {}, 500)
    assert await backend.discover() == []
    assert backend.ignored(call) == ()
    with pytest.raises(RequestError) as caught:
        async with aclosing(backend.execute(call)) as parts:
            await anext(parts)
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")
    server.json("/v1/models", MODELS)
    assert await backend.discover() == [capability]
    await backend.aclose()


@pytest.mark.parametrize(
    ("health", "models"),
    [
        (None, None),
        (None, {"data": [{"id": "x", "name": "x", "size": 5, "path": "/x"}]}),
        (None, {"object": "list", "data": []}),
        (None, {"object": "list", "data": [{"id": 5, "object": "model"}]}),
        (None, {"object": "list", "data": [{"id": "x", "object": "user"}]}),
        (None, [{"id": "x", "object": "model"}]),
        (None, "hello"),
        (ATMOSPHERE, MODELS),
        ({"status": "ok", "node_id": "b32", "models": 3}, MODELS),
        (None, {"object": "list", "data": [MODELS["data"][0] | {"nodes": ["a"], "ready": True}]}),  # type: ignore[operator]
    ],
)
async def test_other_programs_are_left_alone(server: Server, health: Any, models: Any) -> None:
    if health is not None:
        server.json("/health", health)
    if models is not None:
        server.json("/v1/models", models)
    backend = backend_for(server)
    assert await backend.discover() == []
    assert {request.path for request in server.received} <= {"/health", "/v1/models"}
    assert {request.method for request in server.received} == {"GET"}


async def test_a_page_and_a_locked_door(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server.raw("/health", 200, "text/html", b"<html></html>")
    server.raw("/v1/models", 200, "text/html", b"<html></html>")
    backend = backend_for(server)
    assert await backend.discover() == []
    server.raw("/health", 200, "text/plain", b"")
    server.json("/v1/models", {"error": "no"}, 401)
    for _ in range(2):
        assert await backend.discover() == []
    assert caplog.text.count("it wants a key") == 1


async def test_several_places_and_those_that_are_taken(server: Server) -> None:
    async with serve() as other, serve() as gone:
        for one in (server, other):
            one.json("/v1/models", MODELS)
        gone_port = gone.port
        places = [Place("a", server.port), Place("b", other.port), Place("c", server.port)]
        backend = FoundBackend(("a", "b", "unknown"), places=[*places, Place("d", gone_port)])
        assert [capability.id for capability in await backend.discover()] == [
            "openai:a:qwen3:8b",
            "openai:b:qwen3:8b",
        ]
        await backend.aclose()
        backend = FoundBackend(("a", "b"), taken={other.port}, places=places)
        assert [capability.id for capability in await backend.discover()] == ["openai:a:qwen3:8b"]
        await backend.aclose()
        assert await FoundBackend((), places=places).discover() == []


async def test_where_nothing_listens_nothing_is_offered() -> None:
    async with serve() as gone:
        place = Place("x", gone.port)
    backend = FoundBackend(("x",), places=[place])
    assert await backend.discover() == []
    call = Call(Capability(id="openai:x:m", operation=CHAT, model="m"), {})
    with pytest.raises(RequestError, match="not there any more"):
        async with aclosing(backend.execute(call)) as parts:
            await anext(parts)
    await backend.aclose()
