"""A stand-in for an OpenAI-compatible server with models of every kind: real HTTP on loopback, answers made up.

It answers in the shapes of OpenAI's specification; what it says of a request is in the answer, so that tests can see
what arrived.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from python_multipart.multipart import parse_options_header

from atmo.backends.openai import OpenAIBackend, OpenAIServer
from tests.backends.fake_server import Reply, Server, serve

MODELS = ("gpt-4o", "gpt-3.5-turbo-instruct", "text-embedding-3-small", "gpt-image-1", "whisper-1", "tts-1")
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SOUND = bytes(range(256)) * 600
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
HEAD = {"id": "cmpl-7", "created": 1_700_000_000}

Say = Callable[[dict[str, Any]], dict[str, Any]]


@asynccontextmanager
async def upstream() -> AsyncIterator[tuple[Server, OpenAIBackend]]:
    """Opens the server; yields it with the backend that uses it."""
    async with serve() as server:
        server.json("/v1/models", {"object": "list", "data": [{"id": name, "object": "model"} for name in MODELS]})
        server.on("/v1/chat/completions", _chat)
        server.on("/v1/completions", _complete)
        server.on("/v1/embeddings", _embed)
        server.on("/v1/images/generations", _draw)
        server.on("/v1/audio/transcriptions", _listen)
        server.on("/v1/audio/speech", _speak)
        yield server, OpenAIBackend(OpenAIServer("lab", f"{server.url}/v1"))


async def _chat(reply: Reply) -> None:
    body = reply.request.body
    if not body.get("stream"):
        message: dict[str, Any] = {"role": "assistant", "content": "Three words back.", "refusal": None}
        reason = "stop"
        if body.get("tools"):
            call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
            message, reason = (
                {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]},
                "tool_calls",
            )
        choices = [
            {"index": index, "message": message, "logprobs": None, "finish_reason": reason}
            for index in range(body.get("n") or 1)
        ]
        answer = {**HEAD, "object": "chat.completion", "model": body["model"], "choices": choices, "usage": USAGE}
        await reply.json(answer)
        return
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    if body.get("tools"):
        first = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "add", "arguments": ""}}
        deltas += [{"tool_calls": [first]}, {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":1}'}}]}]
    else:
        deltas += [{"content": "Three"}, {"content": " words"}, {"content": " back."}]
    chunks = [_chunk(body, delta, None) for delta in deltas]
    chunks.append(_chunk(body, {}, "tool_calls" if body.get("tools") else "stop"))
    await _stream(reply, chunks, {**HEAD, "object": "chat.completion.chunk", "model": body["model"]})


def _chunk(body: dict[str, Any], delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    return {**HEAD, "object": "chat.completion.chunk", "model": body["model"], "choices": [choice]}


async def _complete(reply: Reply) -> None:
    body = reply.request.body
    text = json.dumps([body["prompt"], body.get("suffix")])
    head = {**HEAD, "object": "text_completion", "model": body["model"]}
    choice: dict[str, Any] = {"index": 0, "text": text, "logprobs": None, "finish_reason": "stop"}
    if body.get("stream"):
        await _stream(reply, [{**head, "choices": [choice]}], head)
    else:
        choices = [{**choice, "index": index} for index in range(body.get("n") or 1)]
        await reply.json({**head, "choices": choices, "usage": USAGE})


async def _stream(reply: Reply, chunks: list[dict[str, Any]], head: dict[str, Any]) -> None:
    if (reply.request.body.get("stream_options") or {}).get("include_usage"):
        chunks = [*chunks, {**head, "choices": [], "usage": USAGE}]
    await reply.start(200, "text/event-stream")
    for chunk in chunks:
        await reply.piece(f"data: {json.dumps(chunk)}\n\n".encode())
    await reply.piece(b"data: [DONE]\n\n")
    await reply.end()


async def _embed(reply: Reply) -> None:
    body = reply.request.body
    given = body["input"]
    count = len(given) if isinstance(given, list) and not isinstance(given[0], int) else 1
    rows = [{"object": "embedding", "index": index, "embedding": [0.6, 0.8, 0.0]} for index in range(count)]
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    await reply.json({"object": "list", "data": rows, "model": body["model"], "usage": usage})


async def _draw(reply: Reply) -> None:
    body = reply.request.body
    row = {"b64_json": PIXEL, "revised_prompt": body["prompt"]}
    await reply.json({"created": 1_700_000_000, "data": [row] * (body.get("n") or 1)})


async def _listen(reply: Reply) -> None:
    fields = form(reply)
    said = json.dumps({name: values for name, values in fields.items() if name != "file"}, sort_keys=True)
    size = len(fields["file"][0])
    form_ = fields.get("response_format", ["json"])[0]
    if form_ in ("text", "srt", "vtt"):
        await reply.whole(200, "text/plain", f"{size} bytes. {said}".encode())
    elif form_ == "verbose_json":
        answer = {"task": "transcribe", "language": "english", "duration": 1.5, "text": f"{size} bytes. {said}"}
        await reply.json({**answer, "segments": [], "usage": {"type": "duration", "seconds": 2}})
    else:
        await reply.json({"text": f"{size} bytes. {said}"})


async def _speak(reply: Reply) -> None:
    await reply.start(200, "audio/wav")
    for start in range(0, len(SOUND), 50_000):
        await reply.piece(SOUND[start : start + 50_000])
    await reply.end()


def form(reply: Reply) -> dict[str, list[str]]:
    """Returns the fields of a form that a request brought; a file as its text in Latin-1."""
    _, options = parse_options_header(reply.request.headers["content-type"])
    fields: dict[str, list[str]] = {}
    for part in reply.request.body.split(b"--" + options[b"boundary"])[1:-1]:
        head, _, data = part.partition(b"\r\n\r\n")
        line = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-disposition"))
        name = parse_options_header(line.partition(b":")[2].strip())[1][b"name"].decode()
        fields.setdefault(name, []).append(data.removesuffix(b"\r\n").decode("latin-1"))
    return fields


def encoded(data: bytes) -> str:
    """Returns bytes in base64."""
    return base64.b64encode(data).decode()
