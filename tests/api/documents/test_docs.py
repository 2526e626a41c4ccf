"""`/openapi.json` and `/docs`: every route, its body, its answer and a curl line, with nothing that runs."""

from __future__ import annotations

import re
import shlex
from typing import Any

import httpx
import jsonschema
import pytest

from atmo.api.documents.answers import ANSWERS
from atmo.api.documents.openapi import DEFAULT_URL, operations
from atmo.api.documents.page import page
from tests.api.face import in_process, make_app
from tests.api.upstream import upstream
from tests.gateway.world import Lengths, chat, loop_net

EMBED = {"input": "a"}


async def document() -> dict[str, Any]:
    async with loop_net() as net, in_process(make_app(await net.add("alpha"))) as client:
        answer: dict[str, Any] = (await client.get("/openapi.json")).json()
        return answer


def valid(document_: dict[str, Any], name: str, value: Any) -> None:
    """Raises when `value` is not what the document says of `name`."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": document_["components"]}
    jsonschema.Draft202012Validator(schema).validate(value)


async def test_the_document_is_sound() -> None:
    document_ = await document()
    schemas = document_["components"]["schemas"]
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    text = str(document_)
    for name in re.findall(r"#/components/schemas/(\w+)", text):
        assert name in schemas
    for path, method, operation in operations(document_):
        assert operation["description"], path
        assert operation["responses"]["default"] == {"$ref": "#/components/responses/Error"}
        assert f"{method.upper()} {path}" in ANSWERS
        assert "422" not in operation["responses"]
        line = operation["x-codeSamples"][0]["source"]
        assert DEFAULT_URL in line
        assert "{" not in shlex.split(line.partition(" -d ")[0])[-1], f"{method} {path} has no example path"
    assert "HTTPValidationError" not in text


async def test_examples_are_what_the_schemas_say() -> None:
    document_ = await document()
    checked = 0
    for path, _, operation in operations(document_):
        for content in operation.get("requestBody", {}).get("content", {}).values():
            assert "example" in content, f"{path} has no example"
            schema = {**content["schema"], "components": document_["components"]}
            jsonschema.Draft202012Validator(schema).validate(content["example"])
            checked += 1
    assert checked > 5


async def test_answers_are_what_the_document_says() -> None:
    document_ = await document()
    async with loop_net() as net, upstream() as (_, backend):
        async with in_process(make_app(await net.add("alpha", backend))) as client:
            for name, answer in (
                ("ChatAnswer", await client.post("/v1/chat/completions", json=chat())),
                ("CompletionAnswer", await client.post("/v1/completions", json={"prompt": "a"})),
                ("EmbeddingsAnswer", await client.post("/v1/embeddings", json={"input": "a"})),
                ("ImagesAnswer", await client.post("/v1/images/generations", json={"prompt": "a"})),
                ("Transcription", await client.post("/v1/audio/transcriptions", files={"file": ("a", b"x")})),
                ("ModelList", await client.get("/v1/models")),
                ("Model", await client.get("/v1/models/auto")),
                ("Health", await client.get("/health")),
                ("NodeList", await client.get("/v1/mesh/nodes")),
                ("Route", await client.get("/v1/mesh/route")),
                ("Response", await client.post("/v1/responses", json={"input": "hello"})),
                ("ToolList", await client.get("/v1/tools")),
                ("ToolAnswer", await client.post("/v1/tools/execute", json={"tool_name": "embed", "params": EMBED})),
                ("CapabilityList", await client.get("/v1/capabilities")),
                ("Announcement", await client.get("/v1/atmosphere/capabilities")),
                ("MeshCapabilityList", await client.get("/v1/mesh/capabilities")),
                ("Vectors", await client.post("/v1/ml/embed", json={"texts": ["a"]})),
                ("Error", await client.get("/nothing")),
            ):
                valid(document_, name, answer.json())


async def test_bodies_that_the_document_refuses_are_refused() -> None:
    document_ = await document()
    bodies: list[dict[str, Any]] = [{}, {"messages": []}, chat(n=0), chat(stop=5), chat(tools=[{}]), chat(model=5)]
    async with loop_net() as net, in_process(make_app(await net.add("alpha", Lengths()))) as client:
        for body in bodies:
            with pytest.raises(jsonschema.ValidationError):
                valid(document_, "ChatRequest", body)
            assert (await client.post("/v1/chat/completions", json=body)).status_code == 400


async def page_of_a_node() -> httpx.Response:
    async with loop_net() as net, in_process(make_app(await net.add("alpha"))) as client:
        return await client.get("/docs")


async def test_the_page_shows_every_route() -> None:
    answer = await page_of_a_node()
    for path, method, _ in operations(await document()):
        assert f'<span class="{method}">{method.upper()}</span> <code>{path}</code></h2>' in answer.text
    assert answer.text.count("<section") == answer.text.count("<pre>curl ") + 1


async def test_the_page_runs_and_loads_nothing() -> None:
    answer = await page_of_a_node()
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "<script" not in answer.text
    assert "http" not in re.sub(r"<pre>.*?</pre>", "", answer.text, flags=re.DOTALL)


def test_words_of_others_are_no_html() -> None:
    evil = "<script>alert(1)</script>"
    operation: dict[str, Any] = {"description": evil, "responses": {}, "x-codeSamples": [{"source": evil}]}
    document_ = {
        "info": {"title": evil, "version": evil, "description": evil},
        "paths": {f"/{evil}": {"get": operation}},
        "components": {"schemas": {}},
    }
    assert "<script" not in page(document_)
