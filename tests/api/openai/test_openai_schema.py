"""Every answer against OpenAI's published specification."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import yaml

from tests.api.face import in_process, make_app
from tests.api.upstream import upstream
from tests.gateway.world import Echo, Failing, Lengths, chat, loop_net, refused

SPECIFICATION = Path(__file__).parents[4] / "shared/data/openai/openapi.yaml"

pytestmark = pytest.mark.skipif(
    not SPECIFICATION.exists(),
    reason=f"OpenAI's openapi.yaml is not in {SPECIFICATION.parent}: nothing to compare with",
)


@cache
def specification() -> dict[str, Any]:
    """Returns OpenAI's schemas, in the dialect of JSON Schema 2020-12."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loaded = yaml.load(SPECIFICATION.read_text(), Loader=loader)
    schemas: dict[str, Any] = json.loads(json.dumps(loaded["components"]["schemas"], default=str))
    _translate(schemas)
    return {"components": {"schemas": schemas}}


def _translate(node: Any) -> None:
    """Turns OpenAPI 3.0's `nullable`, which the specification still uses in places, into a type."""
    for child in node.values() if isinstance(node, dict) else node:
        if isinstance(child, dict | list):
            _translate(child)
    if isinstance(node, dict) and node.pop("nullable", False) is True:
        kind = node.get("type")
        if isinstance(kind, str):
            node["type"] = [kind, "null"]
        if isinstance(node.get("enum"), list):
            node["enum"].append(None)


def check(name: str, value: Any) -> None:
    """Raises when `value` is no `name` of the specification."""
    schema = {**specification(), "$ref": f"#/components/schemas/{name}"}
    jsonschema.Draft202012Validator(schema).validate(value)


async def test_chat_of_this_node() -> None:
    async with loop_net() as net:
        alpha = await net.add("alpha")
        await net.add("beta", Echo())
        async with in_process(make_app(alpha)) as client:
            whole = await client.post("/v1/chat/completions", json=chat())
            stream = await client.post("/v1/chat/completions", json=chat(stream=True))
    check("CreateChatCompletionResponse", whole.json())
    for chunk in chunks_of(stream):
        check("CreateChatCompletionStreamResponse", chunk)


def chunks_of(answer: httpx.Response) -> list[dict[str, Any]]:
    """Returns the objects of a stream that ends as it must."""
    *events, last, rest = answer.text.split("\n\n")
    assert (last, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


@asynccontextmanager
async def face() -> AsyncIterator[httpx.AsyncClient]:
    """Opens a node with models of every kind, of a stand-in for a server that has them."""
    async with loop_net() as net, upstream() as (_, backend):
        async with in_process(make_app(await net.add("alpha", backend))) as client:
            yield client


TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CHATS: list[dict[str, Any]] = [
    {},
    {"n": 2},
    {"tools": [TOOL]},
    {"stream_options": {"include_usage": True}},
    {"tools": [TOOL], "stream_options": {"include_usage": True}},
    {"stream_options": {"include_usage": False}},
]


@pytest.mark.parametrize("more", CHATS)
async def test_chat(more: dict[str, Any]) -> None:
    async with face() as client:
        whole = await client.post("/v1/chat/completions", json=chat(**more))
        stream = await client.post("/v1/chat/completions", json=chat(stream=True, **more))
    check("CreateChatCompletionResponse", whole.json())
    chunks = chunks_of(stream)
    for chunk in chunks:
        check("CreateChatCompletionStreamResponse", chunk)
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    if (more.get("stream_options") or {}).get("include_usage"):
        assert chunks[-1]["choices"] == []
        assert chunks.pop()["usage"]["total_tokens"] == 12
    assert not any(chunk.get("usage") for chunk in chunks)
    (last,) = chunks[-1]["choices"]
    assert last["delta"] == {}
    assert last["finish_reason"] == ("tool_calls" if "tools" in more else "stop")
    calls = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert all(type(call["index"]) is int for call in calls)
    assert bool(calls) == ("tools" in more)


@pytest.mark.parametrize("prompt", ["a", ["a", "b"], [1, 2], [[1, 2], [3]]])
async def test_completions(prompt: Any) -> None:
    async with face() as client:
        body = {"prompt": prompt, "model": "gpt-3.5-turbo-instruct", "suffix": "z", "n": 2}
        whole = await client.post("/v1/completions", json=body)
        options = {"include_usage": True}
        stream = await client.post("/v1/completions", json={**body, "stream": True, "stream_options": options})
        quiet = await client.post("/v1/completions", json={**body, "stream": True})
    check("CreateCompletionResponse", whole.json())
    assert json.loads(whole.json()["choices"][0]["text"]) == [prompt, "z"]
    assert len(whole.json()["choices"]) == 2
    chunks = chunks_of(stream)
    for chunk in [*chunks, *chunks_of(quiet)]:
        check("CreateCompletionResponse", chunk)
    assert chunks[-1]["usage"]["total_tokens"] == 12
    assert not any("usage" in chunk for chunk in chunks_of(quiet))


async def test_embeddings() -> None:
    async with face() as client:
        for given in ("a", ["a", "b"], [1, 2], [[1], [2, 3]]):
            answer = await client.post("/v1/embeddings", json={"input": given, "model": "auto"})
            check("CreateEmbeddingResponse", answer.json())
        packed = await client.post("/v1/embeddings", json={"input": "a", "encoding_format": "base64", "dimensions": 2})
    assert base64.b64decode(packed.json()["data"][0]["embedding"]) == struct.pack("<2f", 0.6, 0.8)


async def test_models() -> None:
    async with loop_net() as net, in_process(make_app(await net.add("alpha", Lengths(), Echo()))) as client:
        check("ListModelsResponse", (await client.get("/v1/models")).json())
        check("Model", (await client.get("/v1/models/echo")).json())
        check("Model", (await client.get("/v1/models/auto")).json())


async def test_images() -> None:
    async with face() as client:
        answer = await client.post("/v1/images/generations", json={"prompt": "a fox", "n": 2})
    check("ImagesResponse", answer.json())


async def test_transcriptions() -> None:
    async with face() as client:

        async def listen(**fields: str) -> httpx.Response:
            return await client.post("/v1/audio/transcriptions", data=fields, files={"file": ("a.wav", b"RIFF")})

        check("CreateTranscriptionResponseJson", (await listen()).json())
        check("CreateTranscriptionResponseVerboseJson", (await listen(response_format="verbose_json")).json())
        for event in chunks_of(await listen(stream="true")):
            check("CreateTranscriptionResponseStreamEvent", event)


async def test_speech_events() -> None:
    async with face() as client:
        body = {"input": "Hello", "voice": "alloy", "stream_format": "sse"}
        answer = await client.post("/v1/audio/speech", json=body)
    for event in answer.text.split("\n\n")[:-1]:
        check("CreateSpeechResponseStreamEvent", json.loads(event.removeprefix("data: ")))


ERRORS: list[tuple[str, str, dict[str, Any], int]] = [
    ("GET", "/nothing", {}, 404),
    ("GET", "/v1/embeddings", {}, 405),
    ("GET", "/v1/models/nothing", {}, 404),
    ("POST", "/v1/chat/completions", {"content": b"{"}, 400),
    ("POST", "/v1/chat/completions", {"json": {"messages": 1}}, 400),
    ("POST", "/v1/chat/completions", {"json": chat(model="nothing")}, 404),
    ("POST", "/v1/chat/completions", {"json": chat()}, 500),
    ("POST", "/v1/embeddings", {"json": {"input": "x"}}, 503),
    ("POST", "/v1/completions", {"json": {}}, 400),
    ("POST", "/v1/images/generations", {"json": {"prompt": 1}}, 400),
    ("POST", "/v1/images/generations", {"json": {"prompt": "a"}}, 503),
    ("POST", "/v1/audio/speech", {"json": {"input": "a"}}, 400),
    ("POST", "/v1/audio/transcriptions", {"json": {}}, 415),
    ("POST", "/v1/audio/transcriptions", {"files": {"file": ("a", b"x")}}, 503),
    ("GET", "/v1/mesh/route?operation=paint", {}, 400),
    ("PUT", "/docs", {}, 405),
    ("GET", "/health", {"headers": {"host": "evil.example"}}, 403),
]


@pytest.mark.parametrize(("method", "path", "request_", "status"), ERRORS)
async def test_errors(method: str, path: str, request_: dict[str, Any], status: int) -> None:
    async with loop_net() as net, in_process(make_app(await net.add("alpha", Failing(error=refused(500))))) as client:
        answer = await client.request(method, path, **request_)
    assert answer.status_code == status
    check("ErrorResponse", answer.json())


def test_the_comparison_can_fail() -> None:
    with pytest.raises(jsonschema.ValidationError):
        check("ErrorResponse", {"error": "a bare string"})
    with pytest.raises(jsonschema.ValidationError):
        check("CreateEmbeddingResponse", {"object": "list", "data": [], "model": "m"})
