"""Streamed tool calls of servers that do not send them as OpenAI does."""

from __future__ import annotations

from typing import Any

import pytest
from openai.lib.streaming._deltas import accumulate_delta

from atmo.backends.openai_shapes import BadAnswer, ChunkStream, completion
from atmo.backends.tool_calls import MAX_TOOL_CALLS, ToolCalls

BOTH = ('{"a"', ":1}")


def stream_of(*pieces: list[dict[str, Any]], finish: str | None = "stop") -> list[dict[str, Any]]:
    """Returns the chunks that clients get for these lists of pieces."""
    stream = ChunkStream("m", "r", wants_usage=False)
    deltas: list[tuple[Any, str | None]] = [*(({"tool_calls": calls}, None) for calls in pieces), ({}, finish)]
    chunks = [stream.chunk({"choices": [{"delta": delta, "finish_reason": why}]}) for delta, why in deltas]
    return [chunk for chunk in [*chunks, *stream.ending()] if chunk is not None]


def put_together(*pieces: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Returns (index, id, type, name, arguments) of the calls as the official client has them in the end."""
    whole: dict[Any, Any] = {}
    for chunk in stream_of(*pieces):
        whole = accumulate_delta(whole, chunk["choices"][0]["delta"])
    calls = whole["tool_calls"]
    return [(*(call[key] for key in ("index", "id", "type")), *call["function"].values()) for call in calls]


def piece(arguments: Any, **more: Any) -> dict[str, Any]:
    return {"function": {"name": "add", "arguments": arguments}, **more}


CALL = (0, "c1", "function", "add", '{"a":1}')


@pytest.mark.parametrize(
    "pieces",
    [
        [[piece(text, index=0, id="c1", type="function")] for text in BOTH],
        [[piece(text, id="c1")] for text in BOTH],
        [[piece(BOTH[0], index=0, id="c1")], [{"index": 0, "id": None, "type": None, "function": {"name": None}}],
         [{"index": 0, "id": "", "type": "", "function": {"name": "", "arguments": BOTH[1]}}]],
        [[piece(BOTH[0], index=0, id="c1")], [{"index": 0, "id": "c2", "function": {"arguments": BOTH[1]}}]],
        [[piece(None, index=0, id="c1")], [{"index": 0, "function": {"arguments": "".join(BOTH)}}]],
    ],
    ids=["repeated", "repeated without an index", "null and empty", "an id for each piece", "no arguments at first"],
)  # fmt: skip
def test_a_call_in_pieces(pieces: list[Any]) -> None:
    assert put_together(*pieces) == [CALL]


def test_arguments_as_an_object_are_a_text() -> None:
    assert put_together([piece({"a": 1}, id="c1")])[0][-1] == '{"a": 1}'
    assert put_together([piece("", index=0, id="c1")], [piece([1], index=0)])[0][-1] == "[1]"


@pytest.mark.parametrize("together", [True, False])
def test_calls_that_all_have_the_same_index(together: bool) -> None:
    """As Ollama sent them."""
    first, second = piece("{}", index=0, id="c1"), {"index": 0, "id": "c2", "function": {"name": "sub"}}
    rest = {"index": 0, "function": {"arguments": "[]"}}
    told = put_together(*([[first, second]] if together else [[first], [second]]), [rest])
    assert [call[:2] + call[3:] for call in told] == [(0, "c1", "add", "{}"), (1, "c2", "sub", "[]")]


def test_custom_tools_and_fields_nobody_knows() -> None:
    first, rest = [
        ToolCalls().piece({"index": 2, "id": "c", "custom": {"name": "f", "input": "a"}, "extra_content": 1}, 0)[0],
        ToolCalls(called={2: "f"}, places={2: 2}).piece({"index": 2, "custom": {"name": "f", "input": "b"}}, 0)[0],
    ]
    assert first == {"index": 2, "id": "c", "type": "custom", "extra_content": 1, "custom": {"name": "f", "input": "a"}}
    assert rest == {"index": 2, "custom": {"input": "b"}}


def test_a_name_in_pieces_stays_one() -> None:
    pieces = [[{"index": 0, "id": "c", "function": {"name": name}}] for name in ("get_", "weather")]
    assert put_together(*pieces)[0][3] == "get_weather"


def test_agents_are_told_that_there_were_calls() -> None:
    assert stream_of([piece("{}", index=0, id="c")])[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert stream_of([piece("{}", index=0, id="c")], finish="length")[-1]["choices"][0]["finish_reason"] == "length"
    assert stream_of(finish="stop")[-1]["choices"][0]["finish_reason"] == "stop"
    message = {"content": None, "tool_calls": [piece("{}", id="c")]}
    for said, told in (("stop", "tool_calls"), (None, "tool_calls"), ("length", "length")):
        answer = completion({"choices": [{"message": message, "finish_reason": said}]}, "m", "r")
        assert answer["choices"][0]["finish_reason"] == told
        assert answer["choices"][0]["message"]["content"] is None


def test_calls_are_bounded() -> None:
    many = [[piece("", id=f"c{number}")] for number in range(MAX_TOOL_CALLS + 1)]
    with pytest.raises(BadAnswer, match="tools"):
        stream_of(*many)
