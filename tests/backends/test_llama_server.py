"""A real llama-server, which speaks OpenAI's API over HTTP as it comes from its makers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio

pytest.importorskip("xllamacpp", reason="needs the extra gguf")

from atmo.backends.base import Backend, Call, as_object
from atmo.backends.found import FoundBackend
from atmo.backends.openai import OpenAIBackend, OpenAIServer
from atmo.backends.places import Place
from atmo.errors import RequestError
from atmo.router.capability import CHAT, COMPLETIONS, EMBEDDINGS, JSON_SCHEMA, TOOLS, Capability
from tests.backends.gguf_kit import chat_file, embedder_file

START_S = 60.0
MESSAGES = [{"role": "user", "content": "hello"}]


@asynccontextmanager
async def llama_server(model: Path, *options: str) -> AsyncIterator[str]:
    """Runs a server for one model and yields its URL."""
    command = [sys.executable, "-m", "tests.backends.llama_server", str(model), *options]
    # It ends when its standard input does.
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with trio.fail_after(START_S):
            line = b""
            while not line.endswith(b"\n"):
                line += await process.stdout.receive_some(1) or b"\n"
        yield line.decode().strip()
    finally:
        with trio.CancelScope(shield=True):
            await process.stdin.aclose()
            await process.stdout.aclose()
            process.kill()
            await process.wait()


async def run(
    backend: Backend, capability: Capability, body: Mapping[str, Any], *, asked: str = "", stream: bool = False
) -> list[dict[str, Any]]:
    options = {"stream_options": {"include_usage": True}} if stream else {}
    async with aclosing(backend.execute(Call(capability, {**options, **body}, stream, "r", asked))) as parts:
        return [as_object(part) async for part in parts]


async def test_a_chat_model() -> None:
    async with llama_server(chat_file()) as url:
        backend = OpenAIBackend(OpenAIServer("lab", url))
        (capability,) = await backend.discover()
        assert (capability.id, capability.operation) == ("openai:lab:tiny", CHAT)
        assert capability.features == (COMPLETIONS, TOOLS, JSON_SCHEMA)
        assert capability.context == 512
        assert 0 < capability.size_b < 0.01
        (whole,) = await run(backend, capability, {"messages": MESSAGES, "max_tokens": 4})
        assert whole["model"] == "tiny"
        assert whole["usage"]["completion_tokens"] <= 4
        chunks = await run(backend, capability, {"messages": MESSAGES, "max_tokens": 4}, stream=True)
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"]["total_tokens"] > 0
        assert not any(chunk.get("usage") for chunk in chunks[:-1])
        body = {"prompt": "a", "max_tokens": 3, "logprobs": 1}
        (text,) = await run(backend, capability, body, asked=COMPLETIONS)
        (choice,) = text["choices"]
        assert text["object"] == "text_completion"
        assert len(choice["logprobs"]["tokens"]) == len(choice["logprobs"]["text_offset"]) > 0
        chunks = await run(backend, capability, body, asked=COMPLETIONS, stream=True)
        assert [c["finish_reason"] for chunk in chunks for c in chunk["choices"]][-1] in ("stop", "length")
        assert chunks[-1]["usage"]["prompt_tokens"] == 1
        await backend.aclose()


async def test_it_is_found_without_configuration() -> None:
    async with llama_server(chat_file()) as url:
        port = urlsplit(url).port
        assert port is not None
        backend = FoundBackend(("llama-server",), places=[Place("llama-server", port)])
        (capability,) = await backend.discover()
        assert (capability.id, capability.context) == ("openai:llama-server:tiny", 512)
        await backend.aclose()
    assert await backend.discover() == []


async def test_what_its_name_does_not_tell_is_told_by_the_owner_or_by_a_call() -> None:
    async with llama_server(embedder_file(), "embed") as url:
        told = OpenAIBackend(OpenAIServer("lab", url, operations=(EMBEDDINGS,)))
        (capability,) = await told.discover()
        assert (capability.operation, capability.features) == (EMBEDDINGS, ())
        (answer,) = await run(told, capability, {"input": ["a", "b"]})
        assert len(answer["data"]) == 2
        await told.aclose()
        guessed = OpenAIBackend(OpenAIServer("lab", url))
        (capability,) = await guessed.discover()
        assert capability.operation == CHAT
        with pytest.raises(RequestError, match="does not support"):
            await run(guessed, capability, {"messages": MESSAGES})
        # The next check asks the model itself, and it is offered no more.
        assert await guessed.discover() == []
        await guessed.aclose()
