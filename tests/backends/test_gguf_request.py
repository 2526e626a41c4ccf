"""Requests and errors between OpenAI's API and llama.cpp's server."""

from __future__ import annotations

from typing import Any

import pytest

from atmo.backends.gguf_request import ignored_fields, plain_logprobs, request_body, too_long
from atmo.backends.gguf_whole import Whole
from atmo.errors import RequestError
from atmo.router.capability import CHAT, COMPLETIONS, EMBEDDINGS

MESSAGES = [{"role": "user", "content": "Hi"}]


def test_only_known_fields_go_on() -> None:
    body = {
        "model": "x", "messages": MESSAGES, "temperature": 0.1, "n_predict": -1, "lora": [{"id": 0}], "id_slot": 3,
        "atmosphere": {}, "user": "me", "stop": None, "top_k": 5,
    }  # fmt: skip
    assert request_body(CHAT, body, 4) == {"messages": MESSAGES, "temperature": 0.1, "top_k": 5}
    assert ignored_fields(CHAT, body) == ("n_predict", "lora", "id_slot")


def test_fields_that_change_nothing_are_not_named() -> None:
    body = {"prompt": "a", "echo": False, "best_of": 1, "suffix": None, "user": "me"}
    assert ignored_fields(COMPLETIONS, body) == ()
    assert ignored_fields(COMPLETIONS, body | {"echo": True, "best_of": 3}) == ("echo", "best_of")
    assert ignored_fields(EMBEDDINGS, {"input": "a", "encoding_format": "base64", "dimensions": 5}) == ()
    assert ignored_fields(CHAT, {"messages": MESSAGES, "modalities": ["text"], "verbosity": "low"}) == ("verbosity",)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"max_completion_tokens": 7}, {"max_tokens": 7}),
        ({"max_tokens": 9, "max_completion_tokens": 7}, {"max_tokens": 7}),
        ({"seed": -1}, {"seed": 2**32 - 2}),
        ({"seed": 2**32 - 1}, {"seed": 0}),
        ({"seed": 5}, {"seed": 5}),
    ],
)
def test_fields_that_have_other_words(given: dict[str, Any], sent: dict[str, Any]) -> None:
    assert request_body(CHAT, {"messages": MESSAGES, **given}, 4) == {"messages": MESSAGES, **sent}


def test_a_developer_is_the_system() -> None:
    out = request_body(CHAT, {"messages": [{"role": "developer", "content": "a"}, *MESSAGES]}, 4)
    assert [message["role"] for message in out["messages"]] == ["system", "user"]


def test_a_named_tool_is_the_only_one() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("a", "b")]
    body = {"messages": MESSAGES, "tools": tools, "tool_choice": {"type": "function", "function": {"name": "b"}}}
    out = request_body(CHAT, body, 4)
    assert (out["tools"], out["tool_choice"]) == ([tools[1]], "required")
    assert request_body(CHAT, body | {"tool_choice": "auto"}, 4)["tools"] == tools
    for wrong in ({"function": {"name": "c"}}, {"function": 3}, {}):
        with pytest.raises(RequestError, match="none of the tools"):
            request_body(CHAT, body | {"tool_choice": wrong}, 4)


def test_more_answers_than_slots() -> None:
    with pytest.raises(RequestError, match="2 answers to one request at most") as caught:
        request_body(CHAT, {"messages": MESSAGES, "n": 3}, 2)
    assert caught.value.param == "n"


def test_errors_about_length() -> None:
    said = "request (9019 tokens) exceeds the available context size (8192 tokens), try increasing it"
    error = too_long(CHAT, "tiny", said)
    assert error is not None
    assert "maximum context length is 8192 tokens, and the request has 9019" in error.message
    vague = too_long(EMBEDDINGS, "tiny", "the input is too large to process")
    assert vague is not None
    assert vague.param == "input"
    assert too_long(CHAT, "tiny", "something else (1 tokens) 2") is None


def test_logprobs_of_completions() -> None:
    row = {"token": "ab", "logprob": -1.0, "top_logprobs": [{"token": "c", "logprob": -0.5}]}
    offsets: dict[int, int] = {}
    part = {"choices": [{"index": 0, "logprobs": {"content": [row, row]}}, {"index": 1, "logprobs": None}]}
    told = plain_logprobs(part, offsets)["choices"]
    assert told[0]["logprobs"] == {
        "tokens": ["ab", "ab"],
        "token_logprobs": [-1.0, -1.0],
        "top_logprobs": [{"c": -0.5}] * 2,
        "text_offset": [0, 2],
    }
    assert told[1]["logprobs"] is None
    assert offsets == {0: 4}


def chunk(*choices: Any, **more: Any) -> dict[str, Any]:
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": list(choices), **more}


def piece(delta: Any, reason: str | None = None, index: int = 0, logprobs: Any = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": reason, "logprobs": logprobs}


def test_a_streamed_chat_put_together() -> None:
    whole = Whole(text=False)
    first = {"index": 0, "id": "t1", "type": "function", "function": {"name": "f", "arguments": "{"}}
    rest = {"index": 0, "function": {"arguments": "}"}}
    for part in (
        chunk(piece({"role": "assistant", "content": None})),
        chunk(piece({"content": "a"}, logprobs={"content": [1]}), piece({"content": "x"}, index=1)),
        chunk(piece({"content": "b", "reasoning_content": "r"}, logprobs={"content": [2]})),
        chunk(piece({"tool_calls": [first]})),
        chunk(piece({"tool_calls": [rest]})),
        chunk(piece({}, "tool_calls"), piece({}, "length", 1)),
        chunk(usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}),
    ):
        whole.add(part)
    answer = whole.answer()
    assert (answer["object"], answer["id"], answer["usage"]["total_tokens"]) == ("chat.completion", "c", 3)
    call = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    message = {"role": "assistant", "content": "ab", "reasoning_content": "r", "tool_calls": [call]}
    assert answer["choices"] == [
        {"index": 0, "logprobs": {"content": [1, 2]}, "finish_reason": "tool_calls", "message": message},
        {"index": 1, "logprobs": None, "finish_reason": "length", "message": {"role": "assistant", "content": "x"}},
    ]


def test_a_streamed_completion_put_together() -> None:
    whole = Whole(text=True)
    for text, reason in (("a", None), ("b", None), ("", "stop")):
        whole.add(chunk({"index": 0, "text": text, "finish_reason": reason, "logprobs": None}))
    answer = whole.answer()
    assert answer["object"] == "text_completion"
    assert answer["choices"] == [{"index": 0, "logprobs": None, "finish_reason": "stop", "text": "ab"}]
    assert answer["usage"]["total_tokens"] == 0
