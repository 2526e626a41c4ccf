"""Streams of servers that are not strict, as a client of a node gets them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.api.face import in_process, make_app
from tests.api.upstream import upstream
from tests.gateway.world import chat, loop_net


def sse(*values: Any) -> list[bytes]:
    return [f"data: {json.dumps(value)}\n\n".encode() for value in values]


def piece(delta: Any, reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"delta": delta, "finish_reason": reason}], **more}


DONE = b"data: [DONE]\n\n"
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": ""}}
REST = {"function": {"arguments": "{}"}}
LOOSE: dict[str, list[bytes]] = {
    "no id, no role, no index": sse(piece({"content": "a"}), piece({"content": "b"}), piece({}, "stop")),
    "an id for each": sse(piece({"content": "a"}, id="1"), piece({"content": "b"}, id="2"), piece({}, "stop", id="3")),
    "the reason on the last words": sse(piece({"role": "assistant", "content": "a"}), piece({"content": "b"}, "stop")),
    "no reason": [*sse(piece({"role": "assistant", "content": "a"}), piece({"content": "b"})), DONE],
    "usage everywhere": sse(
        piece({"content": "a"}, usage={"total_tokens": 1}),
        piece({"content": "b"}, usage={"total_tokens": 2}),
        piece({}, "stop", usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}),
    ),
    "the role each time": sse(
        piece({"role": "assistant", "content": "a"}), piece({"role": "assistant", "content": "b"}), piece({}, "stop")
    ),
    "comments": [b": ping\n\n", *sse(piece({"content": "a"}), piece({"content": "b"}, "stop")), b": ping\n\n"],
}


@pytest.mark.parametrize("usage", [True, False])
@pytest.mark.parametrize("how", list(LOOSE))
async def test_chats(how: str, usage: bool) -> None:
    async with loop_net() as net, upstream() as (server, backend):
        server.sse("/v1/chat/completions", *LOOSE[how])
        async with in_process(make_app(await net.add("alpha", backend))) as client:
            more: dict[str, Any] = {"stream_options": {"include_usage": True}} if usage else {}
            answer = await client.post("/v1/chat/completions", json=chat(stream=True, **more))
    *chunks, done = strict(answer.text)
    assert done == "[DONE]"
    with_usage = [chunk for chunk in chunks if chunk.get("usage")]
    assert all(chunk["choices"] == [] for chunk in with_usage)
    assert not with_usage or usage
    choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert choices[0]["delta"]["role"] == "assistant"
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == "ab"
    assert choices[-1]["delta"] == {}
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]
    assert {choice["index"] for choice in choices} == {0}


async def test_tools() -> None:
    loose = [*sse(piece({"tool_calls": [CALL]}), piece({"tool_calls": [REST]})), DONE]
    async with loop_net() as net, upstream() as (server, backend):
        server.sse("/v1/chat/completions", *loose)
        async with in_process(make_app(await net.add("alpha", backend))) as client:
            answer = await client.post("/v1/chat/completions", json=chat(stream=True))
    *chunks, _ = strict(answer.text)
    choices = [chunk["choices"][0] for chunk in chunks]
    calls = [call for choice in choices for call in choice["delta"].get("tool_calls", ())]
    assert [call["index"] for call in calls] == [0, 0]
    assert choices[-1]["delta"] == {}
    assert choices[-1]["finish_reason"] == "tool_calls"


def strict(text: str) -> list[Any]:
    """Returns the events of a stream, each of one `data:` line and nothing else."""
    *events, rest = text.split("\n\n")
    assert rest == ""
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    return [event[6:] if event == "data: [DONE]" else json.loads(event[6:]) for event in events]
