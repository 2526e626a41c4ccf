from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo.backends import openai_shapes as shapes
from atmo.backends.openai_shapes import BadAnswer, ChunkStream


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        (
            b'{"error": {"message": "no such model", "type": "x", "code": "model_not_found"}}',
            "no such model",
            "model_not_found",
        ),
        (b'{"error": "plain words"}', "plain words", None),
        (b'{"detail": "from FastAPI"}', "from FastAPI", None),
        (b'{"detail": [{"loc": ["body"], "msg": "field required"}]}', "field required", None),
        (b'{"object": "error", "message": "from vLLM", "code": 400}', "from vLLM", None),
        (b'[{"error": {"message": "from Google"}}]', "from Google", None),
        (b'"just a string"', "just a string", None),
        (b"upstream   connect\nerror", "upstream connect error", None),
        (b"<!DOCTYPE html><html>502 Bad Gateway</html>", "an HTML page", None),
        (b"{}", "", None),
        (b"", "", None),
        (b"[]", "", None),
        (b"[" * 100_000, "[" * 500, None),
    ],
)
def test_errors_of_any_shape(body: bytes, message: str, code: str | None) -> None:
    assert shapes.error_of(body)[:2] == (message, code)


def test_json_or_a_reason() -> None:
    assert shapes.parse_json(b"[1]") == [1]
    with pytest.raises(BadAnswer, match="HTML page"):
        shapes.parse_json(b"  <html>", "")
    with pytest.raises(BadAnswer, match="HTML page"):
        shapes.parse_json(b"hello", "text/html")
    with pytest.raises(BadAnswer, match="not JSON"):
        shapes.parse_json(b"hello", "application/json")


def test_whole_answers() -> None:
    body = {"id": "1", "created": 5, "model": "theirs", "choices": [{"message": {"content": "hi", "tool_calls": []}}]}
    answer = shapes.completion(body, "ours", "r")
    assert answer == {
        "id": "1",
        "object": "chat.completion",
        "created": 5,
        "model": "ours",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hi", "refusal": None},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    }
    called = [
        {"function": {"name": "f", "arguments": {"a": 1}}},
        {"id": "c", "type": "custom", "custom": {"name": "g"}},
    ]
    answer = shapes.completion({"choices": [{"message": {"tool_calls": called}, "finish_reason": None}]}, "ours", "req")
    assert (answer["id"], answer["choices"][0]["finish_reason"]) == ("req", "tool_calls")
    mended, custom = answer["choices"][0]["message"]["tool_calls"]
    assert mended["id"].startswith("call_")
    assert (mended["type"], mended["function"]) == ("function", {"name": "f", "arguments": '{"a": 1}'})
    assert custom == called[1]
    several: list[Any] = [
        {}, {"choices": []}, {"choices": [{"text": "x"}]}, {"choices": ["x"]}, [],
        {"choices": [{"message": {"tool_calls": ["x"]}}]},
    ]  # fmt: skip
    for bad in several:
        with pytest.raises(BadAnswer):
            shapes.completion(bad, "m", "")


NO_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def delta(*choices: Any, **more: Any) -> dict[str, Any]:
    return {"id": "c", "created": 1, "model": "theirs", "choices": list(choices), **more}


def test_chunks_get_one_head_and_lose_unwanted_usage() -> None:
    stream = ChunkStream("ours", "r", wants_usage=False)
    first = stream.chunk(delta({"index": 0, "delta": {"role": "assistant", "content": "a"}}, usage=None))
    assert first is not None
    assert (first["model"], first["object"], "usage" in first) == ("ours", "chat.completion.chunk", False)
    assert first["choices"][0]["finish_reason"] is None
    other = stream.chunk(delta({"delta": {"content": "b"}}) | {"id": "changes"})
    assert other is not None
    assert (other["id"], other["choices"][0]["index"]) == ("c", 0)
    last = stream.chunk(delta({"delta": {}, "finish_reason": "length"}))
    assert last is not None
    assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "length")
    assert stream.finished
    assert stream.chunk(delta(usage={"total_tokens": 3})) is None
    assert stream.ending() == []


def test_usage_that_was_asked_for_comes_last_and_alone() -> None:
    stream = ChunkStream("ours", "r", wants_usage=True)
    for text, tokens in (("a", 1), ("b", 2)):
        chunk = stream.chunk(delta({"delta": {"content": text}}, usage={"total_tokens": tokens}))
        assert chunk is not None
        assert "usage" not in chunk
    assert stream.chunk(delta({"delta": {}, "finish_reason": "stop"}, usage=None)) is not None
    assert stream.chunk(delta(usage={"total_tokens": 3})) is None
    (last,) = stream.ending()
    assert (last["choices"], last["usage"]) == ([], NO_USAGE | {"total_tokens": 3})
    assert stream.ending() == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, None),
        ("x", None),
        ({"prompt_tokens": 2, "completion_tokens": 3}, {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}),
        ({"completion_tokens": None, "cost": 1}, NO_USAGE | {"cost": 1}),
    ],
)
def test_strict_clients_find_all_counts(given: Any, told: Any) -> None:
    """Clients in Rust, Go and Java refuse a whole stream for one that is missing."""
    stream = ChunkStream("ours", "r", wants_usage=True)
    stream.chunk(delta({"delta": {"content": "a"}, "finish_reason": "stop"}, usage=given))
    assert [part["usage"] for part in stream.ending() if not part["choices"]] == ([] if told is None else [told])


def test_a_role_that_is_null_or_empty() -> None:
    for role in (None, ""):
        chunk = ChunkStream("ours", "r", wants_usage=False).chunk(delta({"delta": {"role": role, "content": "a"}}))
        assert chunk is not None
        assert chunk["choices"][0]["delta"]["role"] == "assistant"


def test_the_role_comes_first_and_the_end_alone() -> None:
    stream = ChunkStream("ours", "r", wants_usage=False)
    deltas = []
    for content, reason in (("a", None), ("b", "length")):
        # As Ollama sends it: the role with every delta, the reason with the last text.
        delta_ = {"role": "assistant", "content": content}
        chunk = stream.chunk(delta({"index": 0, "delta": delta_, "finish_reason": reason}))
        assert chunk is not None
        deltas.append((chunk["choices"][0]["delta"], chunk["choices"][0]["finish_reason"]))
    assert deltas == [({"role": "assistant", "content": "a"}, None), ({"content": "b"}, None)]
    assert stream.finished
    (end,) = stream.ending()
    assert (end["choices"][0]["delta"], end["choices"][0]["finish_reason"]) == ({}, "length")
    silent = ChunkStream("ours", "r", wants_usage=False).chunk(delta({"delta": {"content": "a"}}))
    assert silent is not None
    assert silent["choices"][0]["delta"] == {"role": "assistant", "content": "a"}


def test_reasons_of_other_servers_are_told_in_openais_words() -> None:
    for said, told in (("eos", "stop"), ("max_tokens", "length"), (3, "stop")):
        answer = shapes.completion({"choices": [{"message": {"content": "a"}, "finish_reason": said}]}, "m", "r")
        assert answer["choices"][0]["finish_reason"] == told
    stream = ChunkStream("ours", "r", wants_usage=False)
    for said, told_last in (("", None), ("eos", "stop")):
        chunk = stream.chunk(delta({"delta": {}, "finish_reason": said}))
        assert chunk is not None
        assert chunk["choices"][0]["finish_reason"] == told_last


def test_errors_beside_choices_are_errors() -> None:
    """As OpenRouter sends them, with status 200."""
    stream = ChunkStream("ours", "r", wants_usage=False)
    assert stream.chunk(delta({"delta": {"content": "a"}}, error=None)) is not None
    assert stream.chunk(delta({"delta": {"content": "a"}}, error={})) is not None
    with pytest.raises(BadAnswer, match="an error: gone"):
        stream.chunk(delta({"delta": {}, "finish_reason": "error"}, error={"code": 502, "message": "gone"}))
    with pytest.raises(BadAnswer, match="answered with an error: gone"):
        shapes.completion({"error": {"message": "gone"}}, "m", "r")


def test_a_missing_finish_reason_is_added() -> None:
    stream = ChunkStream("ours", "r", wants_usage=False)
    assert stream.ending() == []
    stream.chunk(delta({"index": 0, "delta": {"content": "a"}}, {"index": 1, "delta": {"content": "b"}}))
    (ending,) = stream.ending()
    assert [(c["index"], c["finish_reason"]) for c in ending["choices"]] == [(0, "stop"), (1, "stop")]
    assert stream.ending() == []


def test_only_what_has_something_instead_is_without_a_text() -> None:
    for message, content in (
        ({}, ""), ({"content": None, "reasoning_content": "r"}, ""), ({"refusal": "no"}, None),
        ({"audio": {"id": "a"}}, None), ({"function_call": {"name": "f"}}, None),
        ({"content": "a", "refusal": "b"}, "a"),
    ):  # fmt: skip
        answer = shapes.completion({"choices": [{"message": message}]}, "m", "r")
        assert answer["choices"][0]["message"]["content"] == content


def test_a_character_in_two_pieces_is_put_together() -> None:
    """A half cannot be written as UTF-8, nor sent to another node."""
    stream = ChunkStream("ours", "r", wants_usage=False)
    told = []
    for text in ("a\ud83d", "\ude00b", "\ude00", "é", "x\ud83d"):
        chunk = stream.chunk(delta({"delta": {"content": text}}))
        assert chunk is not None
        told.append(chunk["choices"][0]["delta"]["content"])
    assert told == ["a", "😀b", "\ufffd", "é", "x"]


def test_tool_calls_get_an_index() -> None:
    stream = ChunkStream("ours", "r", wants_usage=False)

    def tools(*calls: Any) -> list[Any]:
        chunk = stream.chunk(delta({"delta": {"tool_calls": list(calls)}}))
        assert chunk is not None
        return [call["index"] for call in chunk["choices"][0]["delta"]["tool_calls"]]

    assert tools({"id": "a", "function": {"name": "f", "arguments": ""}}) == [0]
    assert tools({"function": {"arguments": "{"}}) == [0]
    assert tools({"id": "b", "function": {"name": "g"}}) == [1]
    assert tools({"function": {"arguments": "}"}}) == [1]
    assert tools({"index": 7, "id": "c"}) == [7]
    (ending,) = stream.ending()
    assert ending["choices"][0]["finish_reason"] == "tool_calls"
    both = ChunkStream("ours", "r", wants_usage=False).chunk(delta({"delta": {"tool_calls": [{"function": {}}] * 2}}))
    assert both is not None
    calls = both["choices"][0]["delta"]["tool_calls"]
    assert [call["index"] for call in calls] == [0, 1]
    assert len({call["id"] for call in calls}) == 2
    assert {call["type"] for call in calls} == {"function"}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("x", "not an object"),
        ({"error": {"message": "out of memory"}}, "with an error: out of memory"),
        ({"error": "boom"}, "with an error: boom"),
        ({}, "without choices"),
        ({"choices": ["x"]}, "choice that is not"),
        ({"choices": [{"delta": {"tool_calls": ["x"]}}]}, "tool call that is not"),
    ],
)
def test_bad_chunks(value: Any, says: str) -> None:
    with pytest.raises(BadAnswer, match=says):
        ChunkStream("m", "", wants_usage=False).chunk(value)


def test_a_whole_answer_as_a_stream() -> None:
    tool = {"id": "t", "type": "function", "function": {"name": "f", "arguments": ""}}
    message = {"content": "hi", "tool_calls": [tool]}
    whole = shapes.completion({"choices": [{"message": message}], "usage": {"total_tokens": 1}}, "m", "r")
    first, last, usage = shapes.chunks_of(whole, wants_usage=True)
    assert first["choices"][0]["delta"]["content"] == "hi"
    assert first["choices"][0]["delta"]["tool_calls"] == [tool | {"index": 0}]
    assert (first["object"], last["choices"][0]["finish_reason"]) == ("chat.completion.chunk", "tool_calls")
    assert usage["usage"] == NO_USAGE | {"total_tokens": 1}
    assert len(shapes.chunks_of(whole, wants_usage=False)) == 2


def decoded(answer: dict[str, Any]) -> list[list[float]]:
    return [np.frombuffer(base64.b64decode(row["embedding"]), "<f4").tolist() for row in answer["data"]]


def test_embeddings_become_base64_in_order() -> None:
    text = base64.b64encode(np.array([3, 4], "<f4").tobytes()).decode()
    body = {
        "data": [{"index": 1, "embedding": text}, {"index": 0, "embedding": [1, 2.0]}],
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }
    answer = shapes.embeddings(body, "ours", 2)
    assert decoded(answer) == [[1, 2], [3, 4]]
    assert (answer["model"], answer["usage"]) == ("ours", {"prompt_tokens": 7, "total_tokens": 7})
    assert decoded(shapes.embeddings({"data": [{"embedding": [1]}, {"embedding": [2]}]}, "m", 2)) == [[1], [2]]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"data": []},
        {"data": ["x"]},
        {"data": [{"embedding": None}]},
        {"data": [{"embedding": []}]},
        {"data": [{"embedding": ["1"]}]},
        {"data": [{"embedding": [True]}]},
        {"data": [{"embedding": [float("nan")]}]},
        {"data": [{"embedding": [1e300]}]},
        {"data": [{"embedding": [10**400]}]},
        {"data": [{"embedding": "%%%"}]},
        {"data": [{"embedding": "AAA="}]},
        {"data": [{"embedding": [1], "index": 5}]},
        {"data": [{"embedding": [1]}, {"embedding": [1]}]},
    ],
)
def test_bad_embeddings(body: Any) -> None:
    with pytest.raises(BadAnswer):
        shapes.embeddings(body, "m", 1)


def test_vectors_of_different_sizes() -> None:
    with pytest.raises(BadAnswer, match="different sizes"):
        shapes.embeddings({"data": [{"embedding": [1]}, {"embedding": [1, 2]}]}, "m", 2)


@pytest.mark.parametrize(
    ("given_input", "count"), [("a", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1], [2]], 2), (["a"], 1)]
)
def test_input_count(given_input: Any, count: int) -> None:
    assert shapes.input_count({"input": given_input}) == count


anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "delta",
                    "message",
                    "tool_calls",
                    "index",
                    "error",
                    "data",
                    "embedding",
                    "usage",
                    "id",
                    "created",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(st.lists(anything, max_size=4))
def test_only_bad_answer_escapes(values: list[Any]) -> None:
    stream = ChunkStream("m", "", wants_usage=True)
    for value in values:
        for read in (
            stream.chunk,
            lambda body: shapes.completion(body, "m", ""),
            lambda body: shapes.embeddings(body, "m", 1),
        ):
            try:
                read(value)
            except BadAnswer:
                continue
    stream.ending()
