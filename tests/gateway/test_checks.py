from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.errors import RequestError
from atmo.gateway.budget import ByteBudget
from atmo.gateway.checks import check_body, model_of, wants_stream
from atmo.router.capability import (
    ANOMALY,
    CHAT,
    CLASSIFY,
    COMPLETIONS,
    EMBEDDINGS,
    IMAGES,
    OPERATIONS,
    SPEECH,
    TRANSCRIPTION,
)
from tests.gateway.test_jsontext import JSON

USER = {"role": "user", "content": "hi"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
ANSWER = {"role": "tool", "tool_call_id": "c1", "content": "1"}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {}, "strict": True}}
FILE = {"name": "a.wav", "content_type": "audio/wav", "data": "UklGRg=="}

GOOD: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"messages": [USER]}),
    (CHAT, {"messages": [USER], "model": None, "stream": None, "temperature": None, "stop": "x", "n": 2}),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, IMAGE, {"type": "new"}]}]}),
    (CHAT, {"messages": [{"role": "assistant", "content": None, "tool_calls": [CALL]}, ANSWER]}),
    (CHAT, {"messages": [{"role": "developer", "content": "be brief"}, USER], "max_completion_tokens": 5}),
    (CHAT, {"messages": [USER], "tools": [TOOL, {"type": "custom", "custom": {}}], "stop": ["a"], "unknown": 1}),
    (CHAT, {"messages": [USER], "tool_choice": {"type": "function"}, "logit_bias": {"5": -100}, "seed": -1}),
    (CHAT, {"messages": [USER], "logprobs": True, "top_logprobs": 20, "n": 128}),
    (CHAT, {"messages": [USER], "response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}),
    (CHAT, {"messages": [USER], "response_format": {"type": "grammar", "grammar": "x"}}),
    (COMPLETIONS, {"prompt": ""}),
    (COMPLETIONS, {"prompt": ["a", ""], "suffix": "b", "echo": True, "logprobs": 5, "n": 2, "best_of": 2}),
    (COMPLETIONS, {"prompt": [1, 2], "max_tokens": 0, "stream": True, "stream_options": {"include_usage": True}}),
    (COMPLETIONS, {"prompt": [[1], [2, 3]]}),
    (IMAGES, {"prompt": "a fox", "n": 10, "size": "1024x1024", "response_format": "b64_json", "stream": False}),
    (TRANSCRIPTION, {"file": FILE, "temperature": 0.5, "timestamp_granularities": ["word"], "include": ["logprobs"]}),
    (SPEECH, {"input": "Hello", "voice": "alloy", "speed": 4, "response_format": "wav"}),
    (SPEECH, {"input": "Hello", "voice": {"id": "mine"}, "stream_format": "sse"}),
    (EMBEDDINGS, {"input": "a"}),
    (EMBEDDINGS, {"input": ["a", "b"], "encoding_format": "base64", "dimensions": 3}),
    (EMBEDDINGS, {"input": [1, 2]}),
    (EMBEDDINGS, {"input": [1] * 3_000}),
    (EMBEDDINGS, {"input": [[1], [2, 3]]}),
    (CLASSIFY, {"data": [[1, 2]]}),
    (CLASSIFY, {"texts": ["a"], "action": "predict"}),
    (ANOMALY, {"input": {"a": [1]}, "action": "score"}),
]

BAD: list[tuple[str, dict[str, Any], str]] = [
    ("paint", {}, "operation"),
    (CHAT, {}, "messages"),
    (CHAT, {"messages": []}, "messages"),
    (CHAT, {"messages": "hi"}, "messages"),
    (CHAT, {"messages": [USER] * 10_001}, "messages"),
    (CHAT, {"messages": ["hi"]}, "messages[0]"),
    (CHAT, {"messages": [USER, {"role": "boss", "content": "x"}]}, "messages[1].role"),
    (CHAT, {"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
    (CHAT, {"messages": [{"role": "user"}]}, "messages[0].content"),
    (CHAT, {"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    (CHAT, {"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    (CHAT, {"messages": [{"role": "assistant", "tool_calls": 5}]}, "messages[0].tool_calls"),
    (CHAT, {"messages": [USER], "model": 5}, "model"),
    (CHAT, {"messages": [USER], "model": "x" * 257}, "model"),
    (CHAT, {"messages": [USER], "stream": "yes"}, "stream"),
    (CHAT, {"messages": [USER], "temperature": 2.1}, "temperature"),
    (CHAT, {"messages": [USER], "temperature": True}, "temperature"),
    (CHAT, {"messages": [USER], "top_p": "1"}, "top_p"),
    (CHAT, {"messages": [USER], "max_tokens": 0}, "max_tokens"),
    (CHAT, {"messages": [USER], "n": 1.5}, "n"),
    (CHAT, {"messages": [USER], "stop": [1]}, "stop[0]"),
    (CHAT, {"messages": [USER], "stop": 5}, "stop"),
    (CHAT, {"messages": [USER], "stop": ["x"] * 65}, "stop"),
    (CHAT, {"messages": [USER], "n": 129}, "n"),
    (CHAT, {"messages": [USER], "seed": 1.5}, "seed"),
    (CHAT, {"messages": [USER], "seed": 2**63}, "seed"),
    (CHAT, {"messages": [USER], "logprobs": 1}, "logprobs"),
    (CHAT, {"messages": [USER], "top_logprobs": 2}, "top_logprobs"),
    (CHAT, {"messages": [USER], "logit_bias": {"1": 101}}, "logit_bias.1"),
    (CHAT, {"messages": [USER], "logit_bias": {str(token): 1 for token in range(1_025)}}, "logit_bias"),
    (CHAT, {"messages": [{**USER, "tool_calls": [CALL] * 1_000}] * 21}, "messages"),
    (COMPLETIONS, {"prompt": [1] * (2**20 + 1)}, "prompt"),
    (EMBEDDINGS, {"input": [[1] * 600] * 2_000}, "input"),
    (CHAT, {"messages": [USER], "response_format": "json"}, "response_format"),
    (CHAT, {"messages": [USER], "response_format": {}}, "response_format.type"),
    (CHAT, {"messages": [USER], "response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    (
        CHAT,
        {"messages": [USER], "response_format": {"type": "json_schema", "json_schema": {}}},
        "response_format.json_schema.name",
    ),
    (CHAT, {"messages": [USER], "tool_choice": "any"}, "tool_choice"),
    (CHAT, {"messages": [USER], "tool_choice": 1}, "tool_choice"),
    (CHAT, {"messages": [USER], "tools": [{}]}, "tools[0].type"),
    (CHAT, {"messages": [USER], "tools": [{"type": "function"}]}, "tools[0].function"),
    (CHAT, {"messages": [USER], "tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
    (CHAT, {"messages": [USER], "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].image_url"),
    (
        CHAT,
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content[0].image_url.url",
    ),
    (CHAT, {"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].function"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "x"}] * 3_000}] * 7}, "messages"),
    (COMPLETIONS, {}, "prompt"),
    (COMPLETIONS, {"prompt": 5}, "prompt"),
    (COMPLETIONS, {"prompt": []}, "prompt"),
    (COMPLETIONS, {"prompt": [[]]}, "prompt"),
    (COMPLETIONS, {"prompt": [2**31]}, "prompt"),
    (COMPLETIONS, {"prompt": "a", "n": 3, "best_of": 2}, "best_of"),
    (COMPLETIONS, {"prompt": "a", "stream": True, "best_of": 2}, "best_of"),
    (COMPLETIONS, {"prompt": "a", "logprobs": True}, "logprobs"),
    (COMPLETIONS, {"prompt": "a", "suffix": 1}, "suffix"),
    (IMAGES, {}, "prompt"),
    (IMAGES, {"prompt": "a", "n": 11}, "n"),
    (IMAGES, {"prompt": "a", "size": "big"}, "size"),
    (IMAGES, {"prompt": "a", "stream": True}, "stream"),
    (IMAGES, {"prompt": "a", "response_format": "png"}, "response_format"),
    (TRANSCRIPTION, {}, "file"),
    (TRANSCRIPTION, {"file": "x"}, "file"),
    (TRANSCRIPTION, {"file": {**FILE, "data": "A==="}}, "file.data"),
    (TRANSCRIPTION, {"file": {**FILE, "data": "A=AA"}}, "file.data"),
    (TRANSCRIPTION, {"file": {**FILE, "data": ""}}, "file.data"),
    (TRANSCRIPTION, {"file": {**FILE, "data": "üüüü"}}, "file.data"),
    (TRANSCRIPTION, {"file": FILE, "timestamp_granularities": ["day"]}, "timestamp_granularities[0]"),
    (SPEECH, {"voice": "alloy"}, "input"),
    (SPEECH, {"input": "Hello"}, "voice"),
    (SPEECH, {"input": "Hello", "voice": {}}, "voice.id"),
    (SPEECH, {"input": "x" * 4_097, "voice": "alloy"}, "input"),
    (SPEECH, {"input": "Hello", "voice": "alloy", "speed": 5}, "speed"),
    (CHAT, {"messages": [USER], "stream_options": []}, "stream_options"),
    (CHAT, {"messages": [USER], "tools": [1]}, "tools[0]"),
    (EMBEDDINGS, {}, "input"),
    (EMBEDDINGS, {"input": ""}, "input"),
    (EMBEDDINGS, {"input": []}, "input"),
    (EMBEDDINGS, {"input": ["a", ""]}, "input"),
    (EMBEDDINGS, {"input": ["a", 1]}, "input"),
    (EMBEDDINGS, {"input": [[]]}, "input"),
    (EMBEDDINGS, {"input": [-1]}, "input"),
    (EMBEDDINGS, {"input": [True]}, "input"),
    (EMBEDDINGS, {"input": ["a"] * 2_049}, "input"),
    (EMBEDDINGS, {"input": "a", "encoding_format": "hex"}, "encoding_format"),
    (EMBEDDINGS, {"input": "a", "dimensions": 0}, "dimensions"),
    (EMBEDDINGS, {"input": "a", "dimensions": 2**63}, "dimensions"),
    (CLASSIFY, {}, "data"),
    (CLASSIFY, {"data": []}, "data"),
    (CLASSIFY, {"data": 5}, "data"),
    (CLASSIFY, {"data": [[1]], "action": "detect"}, "action"),
    (ANOMALY, {"data": [[1]], "action": ["fit"]}, "action"),
]


@pytest.mark.parametrize(("operation", "body"), GOOD)
def test_takes(operation: str, body: dict[str, Any]) -> None:
    check_body(operation, body)


@pytest.mark.parametrize(("operation", "body", "param"), BAD)
def test_refuses_naming_the_field(operation: str, body: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        check_body(operation, body)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert f"'{param}'" in caught.value.message


def test_model_and_stream() -> None:
    assert model_of({}) == ""
    assert model_of({"model": "x"}) == "x"
    assert wants_stream({"stream": True})
    assert not wants_stream({"stream": False})


FIELDS = [
    "prompt",
    "file",
    "voice",
    "size",
    "logit_bias",
    "response_format",
    "tool_choice",
    "messages",
    "model",
    "stream",
    "input",
    "data",
    "action",
    "stop",
    "tools",
    "n",
    "dimensions",
    "temperature",
]
MESSAGES = st.lists(st.dictionaries(st.sampled_from(["role", "content", "tool_calls"]), JSON, max_size=3), max_size=3)


@given(st.sampled_from(OPERATIONS), st.dictionaries(st.sampled_from(FIELDS), JSON | MESSAGES, max_size=6))
def test_nothing_but_request_errors_escapes(operation: str, body: dict[str, Any]) -> None:
    with suppress(RequestError):
        check_body(operation, body)


def test_budget() -> None:
    budget = ByteBudget(10)
    with budget.holding() as first:
        first.take(6)
        with budget.holding() as second:
            second.take(4)
            with pytest.raises(RequestError) as caught:
                second.take(1)
            assert (caught.value.status, budget.held) == (503, 10)
        assert budget.held == 6
    assert budget.held == 0
