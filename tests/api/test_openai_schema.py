"""Every answer against OpenAI's published specification."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.api.face import in_process, make_app
from tests.gateway.world import Echo, Failing, Lengths, chat, loop_net, refused

SPECIFICATION = Path(__file__).parents[3] / "shared/data/openai/openapi.yaml"

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


async def test_chat() -> None:
    async with loop_net() as net:
        alpha = await net.add("alpha")
        await net.add("beta", Echo())
        async with in_process(make_app(alpha)) as client:
            whole = await client.post("/v1/chat/completions", json=chat())
            stream = await client.post("/v1/chat/completions", json=chat(stream=True))
    check("CreateChatCompletionResponse", whole.json())
    chunks = [json.loads(line[6:]) for line in stream.text.split("\n\n") if line.startswith("data: {")]
    assert len(chunks) > 2
    for chunk in chunks:
        check("CreateChatCompletionStreamResponse", chunk)


async def test_embeddings() -> None:
    async with loop_net() as net, in_process(make_app(await net.add("alpha", Lengths()))) as client:
        answer = await client.post("/v1/embeddings", json={"input": ["a", "b"], "model": "auto"})
    check("CreateEmbeddingResponse", answer.json())


async def test_models() -> None:
    async with loop_net() as net, in_process(make_app(await net.add("alpha", Lengths(), Echo()))) as client:
        check("ListModelsResponse", (await client.get("/v1/models")).json())
        check("Model", (await client.get("/v1/models/echo")).json())
        check("Model", (await client.get("/v1/models/auto")).json())


ERRORS: list[tuple[str, str, dict[str, Any], int]] = [
    ("GET", "/nothing", {}, 404),
    ("GET", "/v1/embeddings", {}, 405),
    ("GET", "/v1/models/nothing", {}, 404),
    ("POST", "/v1/chat/completions", {"content": b"{"}, 400),
    ("POST", "/v1/chat/completions", {"json": {"messages": 1}}, 400),
    ("POST", "/v1/chat/completions", {"json": chat(model="nothing")}, 404),
    ("POST", "/v1/chat/completions", {"json": chat()}, 500),
    ("POST", "/v1/embeddings", {"json": {"input": "x"}}, 503),
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
