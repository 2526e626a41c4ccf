from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
import trio

from atmo.backends import ollama
from atmo.backends.base import Call, as_object
from atmo.backends.ollama import OllamaBackend
from atmo.backends.upstream import UpstreamConfig
from atmo.errors import RequestError, UserError
from atmo.router.capability import CHAT, COMPLETIONS, EMBEDDINGS, IMAGES, JSON_SCHEMA, TOOLS, VISION, Capability
from tests.backends.fake_server import Reply, Server, serve

CHATTER = Capability(id="ollama:m", operation=CHAT, model="m")
EMBEDDER = Capability(id="ollama:e", operation=EMBEDDINGS, model="e")


def row(name: str, digest: str = "d", **more: Any) -> dict[str, Any]:
    """A model as Ollama 0.5 lists it."""
    details = {
        "parent_model": "", "format": "gguf", "family": "llama", "families": ["llama"], "parameter_size": "3.2B",
        "quantization_level": "Q4_K_M",
    }  # fmt: skip
    modified = "2025-01-01T10:00:00.5+01:00"
    return {
        "name": name,
        "model": name,
        "modified_at": modified,
        "size": 1,
        "digest": digest,
        "details": details,
    } | more


SHOWN = {
    "license": "...",
    "modelfile": "FROM x",
    "details": {"family": "llama"},
    "model_info": {"general.architecture": "llama", "llama.context_length": 131_072},
    "capabilities": ["completion", "tools"],
}


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serve() as server:
        yield server


@pytest.fixture
async def backend(server: Server) -> AsyncIterator[OllamaBackend]:
    backend = OllamaBackend(server.url)
    yield backend
    await backend.aclose()


def shows(server: Server, answers: dict[str, Any]) -> None:
    async def answer(reply: Reply) -> None:
        await reply.json(answers[reply.request.body["model"]])

    server.on("/api/show", answer)


def asked(server: Server) -> list[str]:
    return [request.body["model"] for request in server.received if request.path == "/api/show"]


async def test_models_with_what_ollama_says_of_them(server: Server, backend: OllamaBackend) -> None:
    rows = [
        row("llama3.2:latest"),
        row("odd-name:1b"),
        row("llava:7b"),
        row("gpt-oss:120b-cloud", remote_host="https://ollama.com:443"),
    ]
    server.json("/api/tags", {"models": rows})
    shows(
        server,
        {
            "llama3.2:latest": SHOWN,
            "odd-name:1b": {"capabilities": ["embedding"]},
            "llava:7b": {"capabilities": ["completion", "vision"]},
            "gpt-oss:120b-cloud": {},
        },
    )
    found = {c.model: c for c in await backend.discover()}
    assert [c.operation for c in found.values()] == [CHAT, EMBEDDINGS, CHAT, CHAT]
    llama = found["llama3.2:latest"]
    assert (llama.id, llama.backend, llama.general) == ("ollama:llama3.2:latest", "ollama", True)
    assert "(llama, 3.2B, Q4_K_M, 131072 tokens of context)" in llama.description
    assert "images" in found["llava:7b"].description
    assert "not on this machine" in found["gpt-oss:120b-cloud"].description


async def test_details_are_asked_once_for_each_digest(server: Server, backend: OllamaBackend) -> None:
    server.json("/api/tags", {"models": [row("a"), row("b")]})
    shows(server, {"a": SHOWN, "b": SHOWN})
    first = await backend.discover()
    assert await backend.discover() == first
    assert sorted(asked(server)) == ["a", "b"]
    server.json("/api/tags", {"models": [row("a"), row("b", "changed")]})
    await backend.discover()
    assert asked(server)[2:] == ["b"]


@pytest.mark.parametrize("shown", [None, [], "x", {"capabilities": "x", "model_info": {"general.architecture": 3}}])
async def test_without_details_the_name_decides(server: Server, backend: OllamaBackend, shown: Any) -> None:
    server.json("/api/tags", {"models": [row("nomic-embed-text:latest"), row("llama3")]})
    server.json("/api/show", shown, 500 if shown is None else 200)
    assert [c.operation for c in await backend.discover()] == [EMBEDDINGS, CHAT]


async def test_slow_details_do_not_hold_up_the_list(server: Server) -> None:
    async def hang(reply: Reply) -> None:
        await trio.sleep_forever()

    server.json("/api/tags", {"models": [row("a"), row("b")]})
    server.on("/api/show", hang)
    backend = OllamaBackend(server.url, UpstreamConfig(discover_s=0.2))
    assert [c.model for c in await backend.discover()] == ["a", "b"]
    await backend.aclose()


@pytest.mark.parametrize(
    "answer",
    [
        {"models": None}, {"models": []}, {"data": []}, [], {"models": "x"},
        {"models": [3, {}, {"name": ""}, {"name": 5}]}, {"models": [{"name": "whisper"}]},
    ],
)  # fmt: skip
async def test_lists_without_usable_models(server: Server, backend: OllamaBackend, answer: Any) -> None:
    server.json("/api/tags", answer)
    server.json("/api/show", {})
    assert await backend.discover() == []


async def test_a_minimal_row_is_enough(server: Server, backend: OllamaBackend) -> None:
    server.json("/api/tags", {"models": [{"name": "m"}]})
    server.json("/api/show", {})
    assert [c.model for c in await backend.discover()] == ["m"]


async def test_the_version_is_told_once(
    server: Server, backend: OllamaBackend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server.json("/api/tags", {"models": [row("m")]})
    server.json("/api/show", {})
    await backend.discover()
    server.json("/api/version", {"version": "0.13.1"})
    for _ in range(2):
        await backend.discover()
    assert caplog.text.count("is version 0.13.1 and has 1 models") == 1


async def test_absence_is_normal_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with serve() as server:
        url = server.url
    backend = OllamaBackend(url)
    for _ in range(3):
        assert await backend.discover() == []
    assert caplog.text.count("cannot be reached") == 1
    assert "INFO" not in caplog.text
    assert "WARNING" not in caplog.text


async def test_another_server_on_the_port(server: Server, backend: OllamaBackend) -> None:
    server.raw("/api/tags", 200, "text/html", b"<html></html>")
    assert await backend.discover() == []


async def test_chat_and_embeddings_go_by_the_compatible_api(server: Server, backend: OllamaBackend) -> None:
    server.json("/api/tags", {"models": [row("m"), row("nomic-embed-text")]})
    server.json("/api/show", {})
    chat, embed = await backend.discover()
    head = (
        b'{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","system_fingerprint":"fp_ollama",'
    )
    server.sse(
        "/v1/chat/completions",
        b"data: "
        + head
        + b'"choices":[{"index":0,"delta":{"role":"assistant","content":"Hi"},"finish_reason":null}]}\n\n',
        b"data: "
        + head
        + b'"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":"stop"}]}\n\n',
        b"data: [DONE]\n\n",
    )
    async with aclosing(backend.execute(Call(chat, {"messages": []}, True))) as parts:
        texts = [as_object(part)["choices"][0]["delta"]["content"] async for part in parts]
    assert texts == ["Hi", ""]
    data = [{"object": "embedding", "embedding": [0.5, 1], "index": 0}]
    server.json(
        "/v1/embeddings", {"object": "list", "data": data, "model": "nomic-embed-text", "usage": {"prompt_tokens": 2}}
    )
    async with aclosing(backend.execute(Call(embed, {"input": "x"}))) as parts:
        answer = as_object(await anext(parts))
    assert answer["data"][0]["embedding"] == "AAAAPwAAgD8="
    assert answer["usage"] == {"prompt_tokens": 2, "total_tokens": 2}


async def test_a_model_that_was_removed_is_a_404(server: Server, backend: OllamaBackend) -> None:
    server.json("/api/tags", {"models": [row("m")]})
    server.json("/api/show", {})
    (capability,) = await backend.discover()
    message = 'model "m" not found, try pulling it first'
    server.json("/v1/chat/completions", {"error": {"message": message, "type": "api_error", "code": None}}, 404)
    with pytest.raises(RequestError) as caught:
        async with aclosing(backend.execute(Call(capability, {"messages": []}))) as parts:
            await anext(parts)
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")
    assert "try pulling it first" in caught.value.message


def test_a_bad_url() -> None:
    with pytest.raises(UserError, match="ollama_url"):
        OllamaBackend("127.0.0.1:11434")


def ndjson(*values: Any) -> list[bytes]:
    return [json.dumps(value).encode() + b"\n" for value in values]


async def parts_of(backend: OllamaBackend, call: Call) -> list[dict[str, Any]]:
    async with aclosing(backend.execute(call)) as parts:
        return [as_object(part) async for part in parts]


async def test_features_and_devices(server: Server, backend: OllamaBackend) -> None:
    server.json("/api/tags", {"models": [row("a"), row("b"), row("c")]})
    shows(
        server,
        {
            "a": SHOWN | {"capabilities": ["completion", "tools", "vision", "insert", "thinking"]},
            "b": SHOWN | {"capabilities": ["completion"]},
            "c": {"capabilities": ["image"]},
        },
    )
    server.json("/api/ps", {"models": [row("a", size_vram=5), row("b", size_vram=0), row("z", size_vram="?")]})
    a, b, c = await backend.discover()
    assert a.features == (COMPLETIONS, VISION, TOOLS, JSON_SCHEMA)
    assert b.features == (COMPLETIONS, JSON_SCHEMA)
    assert (c.operation, c.features) == (IMAGES, ())
    assert [(x.device, x.size_b, x.context) for x in (a, b)] == [("gpu", 3.2, 131_072), ("cpu", 3.2, 131_072)]
    server.json("/api/ps", {"models": []})
    assert await backend.discover() == [a, b, c]


async def test_ollamas_own_fields_reach_it(server: Server, backend: OllamaBackend) -> None:
    done = {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop", "eval_count": 2}
    lines = ndjson({"message": {"role": "assistant", "content": "Hi"}, "done": False}, done)
    # Pieces that end in the middle of a line, and a last line without its end.
    server.sse(
        "/api/chat", lines[0][:9], lines[0][9:] + lines[1][:4], lines[1][4:-1], content_type="application/x-ndjson"
    )
    body = {"messages": [{"role": "user", "content": "x"}], "options": {"num_ctx": 9}, "max_completion_tokens": 5}
    parts = await parts_of(backend, Call(CHATTER, body, True, "r"))
    assert [part["choices"][0]["delta"] for part in parts[:-1]] == [{"role": "assistant", "content": "Hi"}, {}]
    assert parts[-1]["usage"] == {"prompt_tokens": 0, "completion_tokens": 2, "total_tokens": 2}
    sent = server.received[0].body
    assert (sent["model"], sent["stream"], sent["options"]) == ("m", True, {"num_ctx": 9, "num_predict": 5})
    server.json("/api/generate", {"response": "there", "done": True})
    whole = Call(CHATTER, {"prompt": "Hi", "keep_alive": 0}, request_id="r", asked=COMPLETIONS)
    (answer,) = await parts_of(backend, whole)
    assert (answer["object"], answer["choices"][0]["text"]) == ("text_completion", "there")
    assert server.received[1].body["keep_alive"] == 0


@pytest.mark.parametrize(
    ("pieces", "says"),
    [
        (ndjson({"message": {"content": "a"}}), "broke off"),
        (ndjson({"error": "out of memory"}), "out of memory"),
        ([b"<html>\n"], "HTML page"),
        ([b"x" * 200], "more than 100 bytes"),
        ([], "broke off"),
    ],
)
async def test_streams_that_go_wrong(
    server: Server, backend: OllamaBackend, monkeypatch: pytest.MonkeyPatch, pieces: list[bytes], says: str
) -> None:
    monkeypatch.setattr(ollama, "MAX_LINE_BYTES", 100)
    server.sse("/api/chat", *pieces, content_type="application/x-ndjson")
    with pytest.raises(RequestError, match=says) as caught:
        await parts_of(backend, Call(CHATTER, {"messages": [], "think": True}, True))
    assert caught.value.status == 502


async def test_completions_and_what_is_mended_on_the_way(server: Server, backend: OllamaBackend) -> None:
    server.json("/v1/completions", {"choices": [{"text": "there", "index": 0}], "usage": {"total_tokens": 2}})
    (answer,) = await parts_of(backend, Call(CHATTER, {"prompt": ["Hi"]}, asked=COMPLETIONS))
    assert (answer["choices"][0]["text"], answer["choices"][0]["finish_reason"]) == ("there", "stop")
    assert server.received[0].body == {"prompt": "Hi", "model": "m", "stream": False}
    server.json("/v1/chat/completions", {"choices": [{"message": {"content": "x"}}]})
    body = {"messages": [{"role": "developer", "content": "x"}], "max_completion_tokens": 3}
    await parts_of(backend, Call(CHATTER, body))
    sent = server.received[1].body
    assert (sent["messages"][0]["role"], sent["max_tokens"]) == ("system", 3)
    assert backend.ignored(Call(CHATTER, body | {"n": 3})) == ("n",)
    assert backend.ignored(Call(EMBEDDER, {"input": "x", "n": 3})) == ()
    server.json("/v1/images/generations", {"data": [{"b64_json": "AA"}]})
    (answer,) = await parts_of(backend, Call(replace(CHATTER, operation=IMAGES), {"prompt": "x"}))
    assert answer["data"] == [{"b64_json": "AA"}]


async def test_a_server_whose_models_change_all_the_time_takes_little_room(
    server: Server, backend: OllamaBackend
) -> None:
    for number in range(3):
        rows = [row("a", str(number) * 1_000_000), row("a"), row("x" * 1_000_000)]
        server.json("/api/tags", {"models": rows})
        shows(server, {"a": SHOWN})
        assert [capability.model for capability in await backend.discover()] == ["a"]
    assert sum(len(name) + len(digest) for name, digest in backend._facts) < 1_000
