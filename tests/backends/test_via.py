"""Nodes that are servers to each other end the circle: no request goes over the same connection twice."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from atmo.backends.base import Call, Part
from atmo.backends.ollama import OllamaBackend
from atmo.backends.openai import OpenAIBackend, OpenAIServer
from atmo.backends.server_backend import ServerBackend
from atmo.backends.via import HEADER, MOST, came_by, came_by_untrusted, new_mark
from atmo.errors import RequestError
from atmo.router.capability import CHAT, EMBEDDINGS, SPEECH, Capability
from tests.api.face import in_process, make_app
from tests.backends.fake_server import Server, serve
from tests.gateway.world import Echo, chat, loop_net

ONE, TWO = "0" * 16, "a" * 16
CASES: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"messages": [{"role": "user", "content": "x"}]}),
    (EMBEDDINGS, {"input": "x"}),
    (SPEECH, {"input": "x", "voice": "alloy"}),
]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serve() as server:
        yield server


@pytest.fixture(autouse=True)
def fresh() -> None:
    came_by_untrusted(())


async def failure(backend: ServerBackend, operation: str, body: dict[str, Any]) -> RequestError:
    with pytest.raises(RequestError) as caught:
        async with aclosing(backend.execute(Call(Capability("x:m", operation, "m"), body))) as parts:
            _ = [part async for part in parts]
    return caught.value


@pytest.mark.parametrize("marks", [None, 7, "", "abc", [1, None, b"a" * 16, "A" * 16, "a" * 17, "\r\n"]])
def test_what_is_no_mark_is_dropped(marks: object) -> None:
    came_by_untrusted(marks)
    assert came_by() == ()


def test_a_flood_of_marks_is_cut() -> None:
    came_by_untrusted([new_mark() for _ in range(1_000)])
    assert len(came_by()) == MOST


@pytest.mark.parametrize(("operation", "body"), CASES)
@pytest.mark.parametrize("kind", ["openai", "ollama"])
async def test_a_request_that_comes_back_is_not_sent_again(
    server: Server, kind: str, operation: str, body: dict[str, Any]
) -> None:
    if kind == "ollama" and operation == SPEECH:
        body = {"messages": [], "keep_alive": 1}  # its own route
        operation = CHAT
    backend = OpenAIBackend(OpenAIServer("lab", server.url)) if kind == "openai" else OllamaBackend(server.url)
    came_by_untrusted([ONE])
    assert (await failure(backend, operation, body)).status == 404  # it was asked, and has no such route
    marks = server.received[-1].headers[HEADER].split()
    assert marks[0] == ONE
    assert len(marks) == 2
    count = len(server.received)
    came_by_untrusted(marks)
    refused = await failure(backend, operation, body)
    assert (refused.status, refused.code) == (508, "request_loop")
    came_by_untrusted([new_mark() for _ in range(MOST)])
    assert (await failure(backend, operation, body)).code == "request_loop"
    assert len(server.received) == count
    await backend.aclose()


async def test_questions_of_discovery_bring_nothing_along(server: Server) -> None:
    server.json("/v1/models", {"data": [{"id": "m"}]})
    backend = OpenAIBackend(OpenAIServer("lab", server.url))
    assert await backend.discover()
    assert HEADER not in server.received[-1].headers
    await backend.aclose()


async def test_marks_go_with_a_request_through_the_mesh() -> None:
    seen: list[tuple[str, ...]] = []

    class Looks(Echo):
        async def answer(self, call: Call) -> AsyncGenerator[Part, None]:
            seen.append(came_by())
            async for part in super().answer(call):
                yield part

    async with loop_net() as net:
        alpha = await net.add("alpha")
        await net.add("beta", Looks())
        async with in_process(make_app(alpha)) as client:
            for header in ({HEADER: f"{ONE} {TWO}"}, {HEADER: "no mark"}, {}):
                answer = await client.post("/v1/chat/completions", json=chat(), headers=header)
                assert answer.status_code == 200
    assert seen == [(ONE, TWO), (), ()]
