"""Servers behind a node join the trace of a request, and are told nothing where there is none."""

from __future__ import annotations

from contextlib import aclosing, suppress
from typing import Any

import pytest

from atmo.backends.base import Call
from atmo.backends.ollama import OllamaBackend
from atmo.backends.openai import OpenAIBackend, OpenAIServer
from atmo.errors import RequestError
from atmo.router.capability import CHAT, EMBEDDINGS, IMAGES, SPEECH, Capability
from tests.backends.fake_server import serve

TRACE = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
TALK, WORDS = {"messages": [{"role": "user", "content": "x"}]}, {"input": "x"}
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("openai", CHAT, TALK),
    ("openai", EMBEDDINGS, WORDS),
    ("openai", IMAGES, {"prompt": "x"}),
    ("openai", SPEECH, {"input": "x", "voice": "alloy"}),
    ("ollama", CHAT, TALK),
    ("ollama", EMBEDDINGS, WORDS),
]


@pytest.mark.parametrize(("kind", "operation", "body"), CASES)
@pytest.mark.parametrize("trace", [TRACE, ""])
async def test_a_server_joins_the_trace(kind: str, operation: str, body: dict[str, Any], trace: str) -> None:
    async with serve() as server:
        backend = OpenAIBackend(OpenAIServer("lab", server.url)) if kind == "openai" else OllamaBackend(server.url)
        call = Call(Capability("x:m", operation, "m"), body, trace=trace)
        with suppress(RequestError):  # it has no such route; what it was sent is of interest
            async with aclosing(backend.execute(call)) as parts:
                _ = [part async for part in parts]
        await backend.aclose()
    assert [request.headers.get("traceparent", "") for request in server.received] == [trace]
