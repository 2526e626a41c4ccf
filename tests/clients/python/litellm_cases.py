"""What `litellm` does with a peer; `tests/clients/test_other_clients.py` runs it in an environment with it."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # asks no server for prices

import litellm
import pytest

URL, CHAT, EMBEDDER = (os.environ[name] for name in ("PEER_URL", "PEER_CHAT", "PEER_EMBEDDER"))
PEER: dict[str, Any] = {"api_base": URL, "api_key": "unused"}
MODEL = f"openai/{CHAT}"
ASK = [{"role": "user", "content": "What is the capital of Norway?"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}


def test_chat() -> None:
    answer = litellm.completion(model=MODEL, messages=ASK, max_tokens=8, seed=1, **PEER)
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.completion_tokens > 0


def test_chat_in_a_stream() -> None:
    options = {"include_usage": True}
    stream = litellm.completion(
        model=MODEL, messages=ASK, max_tokens=8, seed=1, stream=True, stream_options=options, **PEER
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    whole = litellm.stream_chunk_builder(chunks, messages=ASK)
    assert whole.usage.completion_tokens > 0
    assert whole.choices[0].finish_reason in ("stop", "length")


def test_chat_from_asyncio() -> None:
    async def ask() -> list[Any]:
        asked = [litellm.acompletion(model=MODEL, messages=ASK, max_tokens=4, seed=1, **PEER) for _ in range(2)]
        return list(await asyncio.gather(*asked))

    assert [len(answer.choices) for answer in asyncio.run(ask())] == [1, 1]


@pytest.mark.parametrize("stream", [False, True])
def test_tools(stream: bool) -> None:
    answer = litellm.completion(
        model=MODEL, messages=ASK, tools=[WEATHER], tool_choice="required", seed=1, stream=stream, **PEER
    )
    if stream:
        answer = litellm.stream_chunk_builder(list(answer), messages=ASK)
    (call, *_) = answer.choices[0].message.tool_calls
    assert call.function.name == "weather"
    assert "city" in json.loads(call.function.arguments)


def test_structure() -> None:
    schema = {"name": "city", "strict": True, "schema": {**PARAMETERS, "additionalProperties": False}}
    answer = litellm.completion(
        model=MODEL, messages=ASK, response_format={"type": "json_schema", "json_schema": schema}, seed=1, **PEER
    )
    assert set(json.loads(answer.choices[0].message.content)) == {"city"}


def test_embeddings() -> None:
    answer = litellm.embedding(model=f"openai/{EMBEDDER}", input=["hello", "world"], **PEER)
    assert [row["index"] for row in answer.data] == [0, 1]
    assert len(answer.data[0]["embedding"]) == len(answer.data[1]["embedding"]) > 0


def test_responses() -> None:
    first = litellm.responses(model=MODEL, input="Hello.", max_output_tokens=8, **PEER)
    assert first.status in ("completed", "incomplete")
    events = list(litellm.responses(model=MODEL, input="Hello.", max_output_tokens=8, stream=True, **PEER))
    kinds = [str(getattr(event.type, "value", event.type)) for event in events]
    assert kinds[0] == "response.created"
    assert kinds[-1] in ("response.completed", "response.incomplete")


def test_errors() -> None:
    with pytest.raises(litellm.NotFoundError, match="nobody"):
        litellm.completion(model="openai/nobody", messages=ASK, **PEER)
    with pytest.raises(litellm.BadRequestError, match="temperature"):
        litellm.completion(model=MODEL, messages=ASK, temperature=9, **PEER)
