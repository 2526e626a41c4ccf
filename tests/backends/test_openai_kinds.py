"""What servers of known kinds tell beyond OpenAI's list of models; the servers are stand-ins."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from atmo.backends.base import Call, as_object
from atmo.backends.openai import OpenAIBackend, OpenAIServer
from atmo.router.capability import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    IMAGES,
    JSON_SCHEMA,
    SPEECH,
    TOOLS,
    TRANSCRIPTION,
    VISION,
    Capability,
)
from tests.backends.fake_server import Server, serve


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serve() as server:
        yield server


async def offered(server: Server, **settings: object) -> list[Capability]:
    backend = OpenAIBackend(OpenAIServer("lab", server.url, **settings))  # type: ignore[arg-type]
    found = list(await backend.discover())
    await backend.aclose()
    return found


def models(server: Server, owner: str, *names: str, **more: object) -> None:
    rows = [{"id": name, "object": "model", "owned_by": owner} | more for name in names]
    server.json("/v1/models", {"object": "list", "data": rows})


async def test_lm_studio(server: Server) -> None:
    models(server, "organization_owner", "qwen2-vl-7b", "my-embedder", "mystery", "hidden")
    known = [
        {
            "id": "qwen2-vl-7b",
            "type": "vlm",
            "compatibility_type": "gguf",
            "arch": "qwen2_vl",
            "max_context_length": 32_768,
        },
        {"id": "my-embedder", "type": "embeddings", "compatibility_type": "gguf", "max_context_length": 2_048},
        {"id": "mystery", "type": "llm", "compatibility_type": "mlx", "quantization": "4bit", "max_context_length": 9},
        {"id": "another", "type": "llm"},
    ]
    server.json("/api/v0/models", {"object": "list", "data": known})
    found = await offered(server, hide=("hidden",))
    assert [(c.model, c.operation, c.context) for c in found] == [
        ("qwen2-vl-7b", CHAT, 32_768),
        ("my-embedder", EMBEDDINGS, 2_048),
        ("mystery", CHAT, 9),
    ]
    assert [c.features for c in found] == [
        (COMPLETIONS, VISION, TOOLS, JSON_SCHEMA),
        (),
        (COMPLETIONS, TOOLS, JSON_SCHEMA),
    ]
    server.json("/api/v0/models", {"error": "?"})
    assert [c.model for c in await offered(server)] == ["qwen2-vl-7b", "my-embedder", "mystery", "hidden"]


@pytest.mark.parametrize("owner", ["vllm", "sglang", "llamacpp"])
async def test_servers_that_are_not_well(server: Server, owner: str, caplog: pytest.LogCaptureFixture) -> None:
    models(server, owner, "llama-3.1-8b", max_model_len=4_096)
    server.json("/health", {"error": {"message": "Loading model", "code": 503}}, 503)
    assert await offered(server) == []
    assert "/health answers 503" in caplog.text
    # vLLM says that it is well with an empty answer.
    server.raw("/health", 200, "text/plain", b"")
    (capability,) = await offered(server)
    assert (capability.context, capability.size_b) == (4_096, 8)


async def test_llama_server_with_several_models_is_not_asked_about_one(server: Server) -> None:
    models(server, "llamacpp", "a", "b", architecture={"input_modalities": ["text", "image"]})
    assert [c.features for c in await offered(server)] == [(COMPLETIONS, VISION, "*")] * 2
    assert {request.path for request in server.received} == {"/v1/models"}


async def test_what_the_owner_says_a_server_does(server: Server) -> None:
    models(server, "someone", "base.en")
    (capability,) = await offered(server, operations=(TRANSCRIPTION,))
    assert capability.operation == TRANSCRIPTION
    models(server, "someone", "llama3", "whisper-1")
    found = await offered(
        server, operations=(CHAT, TRANSCRIPTION), priority="low", latency_class="global", residency="EU"
    )
    assert [(c.operation, c.features) for c in found] == [(CHAT, (TOOLS, JSON_SCHEMA)), (TRANSCRIPTION, ())]
    assert {(c.priority, c.latency_class, c.residency) for c in found} == {("low", "global", "EU")}


async def test_of_another_atmosphere_node_only_what_is_its_own(server: Server) -> None:
    rows = [
        {"id": "auto", "object": "model", "owned_by": "atmosphere"},
        {"id": "llama3", "owned_by": "kitchen", "nodes": ["kitchen"], "local": True, "operations": ["chat"]},
        {"id": "iris", "owned_by": "kitchen", "nodes": ["kitchen"], "local": True, "operations": ["classify"]},
        {"id": "base.en", "owned_by": "x", "nodes": ["kitchen"], "local": True, "operations": ["transcription"]},
        {"id": "mine", "owned_by": "study", "nodes": ["study"], "local": False, "operations": ["chat"]},
    ]
    server.json("/v1/models", {"object": "list", "data": rows})
    assert [(c.model, c.operation) for c in await offered(server)] == [("llama3", CHAT), ("base.en", TRANSCRIPTION)]


async def test_all_kinds_of_models(server: Server) -> None:
    models(server, "openai", "dall-e-3", "tts-1", "davinci-002", "omni-moderation-latest")
    found = await offered(server)
    assert [c.operation for c in found] == [IMAGES, SPEECH, COMPLETIONS]
    server.json("/v1/completions", {"choices": [{"text": "x"}]})
    backend = OpenAIBackend(OpenAIServer("lab", server.url))
    async with aclosing(backend.execute(Call(found[2], {"prompt": "a"}))) as parts:
        assert as_object(await anext(parts))["object"] == "text_completion"
    await backend.aclose()


def test_clouds_whose_chat_models_continue_no_text() -> None:
    for url, completes in (
        ("https://api.openai.com/v1", False),
        ("https://generativelanguage.googleapis.com/v1beta/openai", False),
        ("https://notopenai.com/v1", True),
        ("http://127.0.0.1:8000", True),
    ):
        assert OpenAIBackend(OpenAIServer("lab", url))._terms.completes is completes
