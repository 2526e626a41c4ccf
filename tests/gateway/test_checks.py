from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.errors import RequestError
from atmo.gateway.budget import ByteBudget
from atmo.gateway.checks import check_body, model_of, wants_stream
from atmo.router.capability import ANOMALY, CHAT, CLASSIFY, EMBEDDINGS, OPERATIONS
from tests.gateway.test_jsontext import JSON

USER = {"role": "user", "content": "hi"}

GOOD: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"messages": [USER]}),
    (CHAT, {"messages": [USER], "model": None, "stream": None, "temperature": None, "stop": "x", "n": 2}),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}]}),
    (
        CHAT,
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}, {"role": "tool", "content": "1"}]},
    ),
    (CHAT, {"messages": [USER], "tools": [{}], "stop": ["a"], "response_format": {}, "unknown": 1}),
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
    (CHAT, {"messages": [USER], "stop": [1]}, "stop"),
    (CHAT, {"messages": [USER], "stream_options": []}, "stream_options"),
    (CHAT, {"messages": [USER], "tools": [1]}, "tools"),
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


FIELDS = ["messages", "model", "stream", "input", "data", "action", "stop", "tools", "n", "dimensions", "temperature"]
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
