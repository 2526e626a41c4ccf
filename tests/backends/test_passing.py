"""The byte path gives what parsing gives, and takes nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.backends.openai_shapes import ChunkStream
from atmo.backends.passing import MAX_VAIN, Passing


def chunk(content: Any, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": None}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "theirs", "choices": [choice]} | more


def learned(first: dict[str, Any], **form: Any) -> Passing:
    passing = Passing()
    part = ChunkStream("ours", "r", False).chunk(first)
    assert part is not None
    passing.learn(json.dumps(first, **form).encode(), first, part)
    return passing


@given(st.text(), st.text(), st.booleans(), st.sampled_from([None, (",", ":")]))
def test_words_are_passed_on_as_parsing_would(first: str, later: str, escaped: bool, separators: Any) -> None:
    form = {"ensure_ascii": escaped, "separators": separators}
    passing = learned(chunk(first.encode("utf-8", "replace").decode()), **form)
    value = chunk(later.encode("utf-8", "replace").decode())
    passed = passing.passed(json.dumps(value, **form).encode())
    if passed is not None:
        assert json.loads(passed) == ChunkStream("ours", "r", False).chunk(value)
        assert b"\n" not in passed
    else:
        assert escaped
        assert any(ord(char) > 0xFFFF for char in later)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"id": "c2"',
        json.dumps(chunk("x", id="c2")).encode(),
        json.dumps(chunk("x", usage={"total_tokens": 1})).encode(),
        json.dumps(chunk(None)).encode(),
        json.dumps(chunk("x")).replace('"x"', '"x", "tool_calls": []').encode(),
        json.dumps(chunk("x")).replace('"x"', r'"\x"').encode(),
        json.dumps(chunk("x")).replace('"x"', r'"\u12"').encode(),
        json.dumps(chunk("x")).replace('"x"', r'"\ud800"').encode(),
        json.dumps(chunk("x")).replace('"x"', '"a\nb"').encode(),
        json.dumps(chunk("x")).replace('"x"', '"a\x00b"').encode(),
        json.dumps(chunk("x")).encode().replace(b'"x"', b'"\xff"'),
        json.dumps(chunk("x")).encode().replace(b'"x"', b'"\xed\xa0\x80"'),
        json.dumps(chunk("")).encode()[: len(json.dumps(chunk(""))) - 30],
    ],
)
def test_whatever_else_is_not(raw: bytes) -> None:
    assert learned(chunk("first")).passed(raw) is None


def test_no_pattern_is_made_of_a_chunk_that_says_more() -> None:
    raw = json.dumps(chunk("x")).encode()
    for odd in (
        chunk("x", usage={"total_tokens": 1}),
        chunk("x", choices=[]),
        chunk("x", choices=["x"]),
        chunk("x", choices=chunk("x")["choices"] * 2),
        chunk("x", choices=[{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]),
        chunk("x", choices=[{"index": 0, "delta": {"content": "x"}, "logprobs": {"content": []}}]),
        chunk("x", choices=[{"index": 0, "delta": {"content": "x", "tool_calls": [{"id": "1"}]}}]),
        chunk("x", choices=[{"index": 0, "delta": {"role": "assistant"}}]),
        chunk("x", note={"content": "x"}),
    ):
        passing = Passing()
        passing.learn(json.dumps(odd).encode(), odd, odd)
        assert passing.passed(json.dumps(odd).encode()) is None
        assert passing.passed(raw) is None


def test_a_key_that_is_there_twice_makes_no_pattern() -> None:
    raw = json.dumps(chunk("x")).replace('"delta": {', '"delta": {"content": 1, ').encode()
    passing = Passing()
    passing.learn(raw.replace(b'"content": "x"', b'"content": "x", "content": "y"'), chunk("y"), chunk("y"))
    assert passing.passed(raw) is None
    passing.learn(b'{"content": "x"', chunk("x"), chunk("x"))
    assert passing.passed(b'{"content": "x"') is None


def test_a_server_that_changes_more_than_words_is_given_up() -> None:
    passing = Passing()
    for number in range(MAX_VAIN + 1):
        value = chunk("x", created=number)
        passing.learn(json.dumps(value).encode(), value, value)
    assert passing.passed(json.dumps(chunk("y", created=MAX_VAIN)).encode()) is None
    assert passing.passed(json.dumps(chunk("y", created=MAX_VAIN - 1)).encode()) is not None
