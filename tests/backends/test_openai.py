from __future__ import annotations

import base64
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from atmo.backends.base import Call, Object, as_object
from atmo.backends.openai import OpenAIBackend, OpenAIServer
from atmo.backends.upstream import UpstreamConfig
from atmo.errors import RequestError, UserError
from atmo.router.capability import CHAT, EMBEDDINGS, TRANSCRIPTION, Capability
from tests.backends.fake_server import Reply, Server, serve

CHAT_PATH, LIST_PATH, EMBED_PATH = "/v1/chat/completions", "/v1/models", "/v1/embeddings"
CHATTER = Capability(id="openai:lab:m", operation=CHAT, model="m")
EMBEDDER = Capability(id="openai:lab:e", operation=EMBEDDINGS, model="e")


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serve() as server:
        yield server


@pytest.fixture
async def backend(server: Server) -> AsyncIterator[OpenAIBackend]:
    backend = OpenAIBackend(OpenAIServer("lab", server.url))
    yield backend
    await backend.aclose()


async def run(
    backend: OpenAIBackend, body: Mapping[str, Any], stream: bool = False, capability: Capability = CHATTER
) -> list[Object]:
    async with aclosing(backend.execute(Call(capability, body, stream, "req-1"))) as parts:
        return [as_object(part) async for part in parts]


async def failure(backend: OpenAIBackend, stream: bool = False, capability: Capability = CHATTER) -> RequestError:
    body: dict[str, Any] = {"input": "x"} if capability is EMBEDDER else {"messages": []}
    with pytest.raises(RequestError) as caught:
        await run(backend, body, stream, capability)
    assert "lab" in caught.value.message
    return caught.value


def chunk(text: str | None = None, finish: str | None = None, **more: Any) -> bytes:
    delta = {} if text is None else {"content": text}
    value = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "theirs"}
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return f"data: {json.dumps(value | {'choices': choices} | more)}\n\n".encode()


def text_of(parts: list[Object]) -> str:
    return "".join(c["delta"].get("content") or "" for part in parts for c in part["choices"])


async def test_models_become_capabilities(server: Server) -> None:
    models = ["gpt-4o", "gpt-4o-mini", "text-embedding-3-small", "whisper-1", "secret-model"]
    server.json(LIST_PATH, {"object": "list", "data": [{"id": name, "object": "model"} for name in models]})
    settings = OpenAIServer("lab", server.url + "/", price=0.6, hide=("secret*",), concurrency=3)
    backend = OpenAIBackend(settings)
    found = await backend.discover()
    assert [(c.id, c.operation, c.model) for c in found] == [
        ("openai:lab:gpt-4o", CHAT, "gpt-4o"),
        ("openai:lab:gpt-4o-mini", CHAT, "gpt-4o-mini"),
        ("openai:lab:text-embedding-3-small", EMBEDDINGS, "text-embedding-3-small"),
        ("openai:lab:whisper-1", TRANSCRIPTION, "whisper-1"),
    ]
    assert {(c.cost_per_1k, c.concurrency, c.backend, c.general) for c in found} == {(0.6, 3, "openai", True)}
    chosen = OpenAIBackend(OpenAIServer("lab", server.url, allow=("gpt-*",), hide=("*-mini",)))
    assert [c.model for c in await chosen.discover()] == ["gpt-4o"]
    await backend.aclose()
    await chosen.aclose()


async def test_a_flood_of_models_is_cut(server: Server, backend: OpenAIBackend) -> None:
    server.json(LIST_PATH, {"data": [{"id": f"m{i}"} for i in range(999)]})
    assert len(await backend.discover()) == 200


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((200, "text/html", b"<!doctype html><title>Welcome to nginx</title>"), "HTML page"),
        ((200, "application/json", b'{"status": "ok"}'), "no list of models"),
        ((200, "application/json", b'{"data": [{"id": "m"}'), "not JSON"),
        ((404, "text/plain", b"not here"), "does not have this: not here"),
        ((301, "text/plain", b""), "redirects elsewhere"),
        ((401, "application/json", b'{"error": "bad key sk-123"}'), "Check key_env"),
        ((500, "application/json", b"{}"), "failed with status 500"),
        ((200, "application/json", b"[" + b"0," * 3_000_000 + b"0]"), "more than"),
    ],
)
async def test_what_is_no_such_server_offers_nothing(
    server: Server, backend: OpenAIBackend, caplog: pytest.LogCaptureFixture, answer: Any, says: str
) -> None:
    server.raw(LIST_PATH, *answer)
    for _ in range(2):
        assert await backend.discover() == []
    assert caplog.text.count(says) == 1


async def test_an_absent_and_a_hanging_server_offer_nothing(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    async def hang(reply: Reply) -> None:
        await trio.sleep_forever()

    server.on(LIST_PATH, hang)
    backend = OpenAIBackend(OpenAIServer("lab", server.url), UpstreamConfig(discover_s=0.05))
    assert await backend.discover() == []
    assert "gave no answer within 0.05 s" in caplog.text


async def test_the_key_is_sent_and_never_shown(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / "key").write_text("sk-from-file\n")
    server.json(LIST_PATH, {"error": {"message": "Incorrect API key provided: sk-from-file."}}, 401)
    by_file = OpenAIBackend(OpenAIServer("lab", server.url, key_file=str(tmp_path / "key")))
    assert await by_file.discover() == []
    assert server.received[0].headers["authorization"] == "Bearer sk-from-file"
    assert "Incorrect API key provided: ***." in caplog.text
    assert "sk-from-file" not in caplog.text
    (tmp_path / "key").write_text("sk-changed")
    await by_file.discover()
    assert server.received[1].headers["authorization"] == "Bearer sk-changed"
    by_env = OpenAIBackend(OpenAIServer("lab", server.url, key_env="K"), environ={"K": "sk-env"})
    await by_env.discover()
    assert server.received[2].headers["authorization"] == "Bearer sk-env"
    without = OpenAIBackend(OpenAIServer("lab", server.url), environ={"K": "sk-env"})
    await without.discover()
    assert "authorization" not in server.received[3].headers
    for backend in (by_file, by_env, without):
        await backend.aclose()


async def test_keys_that_cannot_be_used(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for environ in ({}, {"ABSENT": " "}):
        unset = OpenAIBackend(OpenAIServer("lab", server.url, key_env="ABSENT"), environ=environ)
        assert "environment variable ABSENT with its key is not set" in (await failure(unset)).message
        assert await unset.discover() == []
    assert "environment variable ABSENT" in caplog.text
    (tmp_path / "empty").write_text("\n")
    empty = OpenAIBackend(OpenAIServer("lab", server.url, key_file=str(tmp_path / "empty")))
    assert "is empty" in (await failure(empty)).message
    absent = OpenAIBackend(OpenAIServer("lab", server.url, key_file=str(tmp_path / "absent")))
    assert "cannot be read" in (await failure(absent)).message
    broken = OpenAIBackend(OpenAIServer("lab", server.url, key_env="K"), environ={"K": "two\nlines"})
    assert "characters that no key has" in (await failure(broken)).message
    assert server.received == []


async def test_a_whole_answer(server: Server, backend: OpenAIBackend) -> None:
    message = {"role": "assistant", "content": "Hello"}
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    server.json(
        CHAT_PATH, {"id": "x", "created": 9, "model": "m-0613", "choices": [{"message": message}], "usage": usage}
    )
    body = {"model": "auto", "messages": [{"role": "user", "content": "é"}], "temperature": 0, "stream": True}
    (answer,) = await run(backend, body)
    assert (answer["model"], answer["choices"][0]["message"]["content"], answer["usage"]) == ("m", "Hello", usage)
    assert server.received[0].body == body | {"model": "m", "stream": False}


async def test_a_stream_passes_chunk_by_chunk(server: Server, backend: OpenAIBackend) -> None:
    go = trio.Event()

    async def answer(reply: Reply) -> None:
        await reply.start(200, "text/event-stream; charset=utf-8")
        await reply.piece(b": ping\r\n\r\n" + chunk("Hel")[:30])
        await reply.piece(chunk("Hel")[30:])
        await go.wait()
        await reply.piece(chunk("lo") + chunk(None, "stop") + b"data:[DONE]\n\n")
        await reply.end()

    server.on(CHAT_PATH, answer)
    async with aclosing(backend.execute(Call(CHATTER, {"messages": []}, True))) as parts:
        first = as_object(await anext(parts))
        assert text_of([first]) == "Hel"
        go.set()
        rest = [as_object(part) async for part in parts]
    assert text_of(rest) == "lo"
    assert rest[-1]["choices"][0]["finish_reason"] == "stop"
    assert {part["model"] for part in rest} == {"m"}
    server.json(LIST_PATH, {"data": []})
    await backend.discover()
    assert server.connections == 1


@pytest.mark.parametrize(
    "pieces",
    [
        [chunk("hi"), chunk(None, "stop")],
        [chunk("hi"), b"data: [DONE]\n\n"],
        [chunk("hi", "stop").removesuffix(b"\n\n")],
        [chunk("hi").replace(b"\n\n", b"\n") + b"data: [DONE]\n\n"],
        [chunk("hi", "stop"), b"data: [DONE]\n\n", b"data: nonsense after the end\n\n"],
        [b"event: message\n" + chunk("hi", "stop"), b"data: \n\n", b"data: [DONE]"],
    ],
)
async def test_streams_that_end_in_odd_ways(server: Server, backend: OpenAIBackend, pieces: list[bytes]) -> None:
    server.sse(CHAT_PATH, *pieces)
    parts = await run(backend, {"messages": []}, stream=True)
    assert text_of(parts) == "hi"
    assert [c["finish_reason"] for part in parts for c in part["choices"]][-1] == "stop"


async def test_an_end_by_a_broken_connection_after_the_last_chunk(server: Server, backend: OpenAIBackend) -> None:
    server.sse(CHAT_PATH, chunk("hi", "stop"), end=False)
    assert text_of(await run(backend, {"messages": []}, stream=True)) == "hi"


@pytest.mark.parametrize(
    ("pieces", "end", "says"),
    [
        ([chunk("half")], False, "broke off in the middle"),
        ([chunk("half")], True, "broke off in the middle"),
        ([b"data: [DONE]\n\n"], True, "without an answer"),
        ([b": nothing\n\n"], True, "broke off"),
        ([chunk("a"), b"data: {bad json\n\n"], True, "not JSON"),
        ([chunk("a"), b'data: {"error": {"message": "CUDA out of memory"}}\n\n'], True, "CUDA out of memory"),
        ([b"data: [1]\n\n"], True, "not an object"),
        ([b"data: " + b"x" * 1_100_000], True, "longer than"),
    ],
)
async def test_streams_that_fail(
    server: Server, backend: OpenAIBackend, pieces: list[bytes], end: bool, says: str
) -> None:
    server.sse(CHAT_PATH, *pieces, end=end)
    error = await failure(backend, stream=True)
    assert (error.status, error.code) == (502, "upstream_failed")
    assert says in error.message


async def test_a_server_that_does_not_stream(server: Server, backend: OpenAIBackend) -> None:
    server.json(CHAT_PATH, {"choices": [{"message": {"content": "all at once"}}]})
    parts = await run(backend, {"messages": [], "stream_options": {"include_usage": True}}, stream=True)
    assert text_of(parts) == "all at once"
    assert [len(part["choices"]) for part in parts] == [1, 1, 0]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_html_page_is_no_answer(server: Server, backend: OpenAIBackend, stream: bool) -> None:
    server.raw(CHAT_PATH, 200, "text/html", b"<html>login</html>")
    assert "HTML page" in (await failure(backend, stream)).message


@pytest.mark.parametrize(
    ("status", "body", "becomes", "code", "says"),
    [
        (400, b'{"error": {"message": "too many tokens", "code": "context_length_exceeded"}}', 400,
         "context_length_exceeded", "refused the request: too many tokens"),
        (422, b'{"detail": [{"msg": "field required"}]}', 400, None, "field required"),
        (401, b'{"error": {"message": "no"}}', 502, "upstream_refused", "refused the key"),
        (404, b'{"error": "model not found"}', 404, "model_not_found", "model not found"),
        (429, b"slow down", 429, "rate_limit_exceeded", "slow down"),
        (500, b"<html>oops</html>", 502, "upstream", "failed with status 500: an HTML page"),
        (503, b'{"message": "loading model"}', 503, "upstream", "loading model"),
        (504, b"", 504, "upstream_late", "too slow"),
        (307, b"", 502, "upstream", "redirects"),
        (418, b"", 502, "upstream", "418"),
    ],
)  # fmt: skip
async def test_errors_in_our_clients_terms(
    server: Server, backend: OpenAIBackend, status: int, body: bytes, becomes: int, code: str | None, says: str
) -> None:
    server.raw(CHAT_PATH, status, "application/json", body)
    for stream in (False, True):
        error = await failure(backend, stream)
        assert (error.status, error.code) == (becomes, code)
        assert says in error.message


async def test_lateness_is_a_504(server: Server) -> None:
    async def hang(reply: Reply) -> None:
        await trio.sleep_forever()

    server.on(CHAT_PATH, hang)
    backend = OpenAIBackend(OpenAIServer("lab", server.url), UpstreamConfig(first_byte_s=0.05))
    error = await failure(backend)
    assert (error.status, "sent nothing for 0.05 s" in error.message) == (504, True)


async def test_nobody_there() -> None:
    async with serve() as server:
        url = server.url
    error = await failure(OpenAIBackend(OpenAIServer("lab", url)))
    assert error.status == 502
    assert "cannot be reached" in error.message


@pytest.mark.parametrize("how", ["close", "cancel"])
async def test_giving_up_closes_the_connection(server: Server, backend: OpenAIBackend, how: str) -> None:
    noticed = trio.Event()

    async def endless(reply: Reply) -> None:
        await reply.start(200, "text/event-stream")
        try:
            while True:
                await reply.piece(chunk("more "))
                await trio.sleep(0.001)
        finally:
            noticed.set()

    server.on(CHAT_PATH, endless)
    with trio.CancelScope() as scope:
        async with aclosing(backend.execute(Call(CHATTER, {"messages": []}, True))) as parts:
            async for part in parts:
                assert as_object(part)["choices"]
                if how == "close":
                    break
                scope.cancel()
    with trio.fail_after(5):
        await noticed.wait()


async def test_embeddings(server: Server, backend: OpenAIBackend) -> None:
    server.json(EMBED_PATH, {"data": [{"index": i, "embedding": [i, 0.5]} for i in range(2)], "model": "theirs"})
    (answer,) = await run(backend, {"model": "auto", "input": ["a", "b"], "dimensions": 2}, capability=EMBEDDER)
    vectors = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4").tolist() for row in answer["data"]]
    assert vectors == [[0, 0.5], [1, 0.5]]
    assert answer["model"] == "e"
    sent = {"model": "e", "input": ["a", "b"], "dimensions": 2, "encoding_format": "float"}
    assert server.received[0].body == sent
    server.json(EMBED_PATH, {"data": []})
    assert "gave 0 vectors for 1 inputs" in (await failure(backend, capability=EMBEDDER)).message


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x/v1", ""])
def test_bad_urls(url: str) -> None:
    with pytest.raises(UserError, match="url in the settings"):
        OpenAIBackend(OpenAIServer("lab", url))
