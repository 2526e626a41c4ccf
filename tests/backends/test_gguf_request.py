"""Requests and errors between OpenAI's API and llama.cpp's server."""

from __future__ import annotations

import json
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
        ({"stop": ["", "a"]}, {"stop": ["a"]}),
        ({"stop": "a"}, {"stop": ["a"]}),
        ({"stop": ""}, {"stop": []}),
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


def test_allowed_tools_are_the_only_ones() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("a", "b", "c")]
    for mode in ("auto", "required"):
        allowed = {"mode": mode, "tools": [tools[0], tools[2]]}
        choice = {"type": "allowed_tools", "allowed_tools": allowed}
        out = request_body(CHAT, {"messages": MESSAGES, "tools": tools, "tool_choice": choice}, 4)
        assert (out["tools"], out["tool_choice"]) == ([tools[0], tools[2]], mode)


def test_what_llama_cpp_would_fail_at_is_the_clients_fault() -> None:
    """It answers all of this with status 500, which clients send again and again."""
    video = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "video_url"}]}]
    tools = [{"type": "custom", "custom": {"name": "f"}}]
    for body, param in (({"messages": video}, "messages[0].content[1].type"), ({"tools": tools}, "tools[0].type")):
        with pytest.raises(RequestError) as caught:
            request_body(CHAT, {"messages": MESSAGES, **body}, 4)
        assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("", "{}"),
        ('{"a":1}', '{"a":1}'),
        ('{"a":', json.dumps('{"a":')),
        ("NaN", '"NaN"'),
        ("[" * 10_000, f'"{"[" * 10_000}"'),
    ],
)
def test_what_a_model_once_called_a_tool_with_is_json(given: str, sent: str) -> None:
    """Agents send back what a model wrote, broken or empty; llama.cpp fails where it is no JSON."""
    call: dict[str, Any] = {"id": "c", "type": "function", "function": {"name": "f", "arguments": given}}
    body = {"messages": [*MESSAGES, {"role": "assistant", "content": None, "tool_calls": [call, {"id": "d"}]}]}
    first, second = request_body(CHAT, body, 4)["messages"][1]["tool_calls"]
    assert (first["function"]["arguments"], second) == (sent, {"id": "d"})
    assert call["function"]["arguments"] == given


def test_parts_with_a_text_are_texts() -> None:
    parts = [{"type": "refusal", "refusal": "no"}, {"type": "output_text", "text": "b"}, {"type": "text", "text": "c"}]
    out = request_body(CHAT, {"messages": [{"role": "assistant", "content": parts}]}, 4)
    assert out["messages"][0]["content"] == [{"type": "text", "text": text} for text in ("no", "b", "c")]


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
    message = {
        "role": "assistant", "content": "ab", "refusal": None, "reasoning_content": "r", "tool_calls": [call],
    }  # fmt: skip
    other = {"role": "assistant", "content": "x", "refusal": None}
    assert answer["choices"] == [
        {"index": 0, "logprobs": {"content": [1, 2]}, "finish_reason": "tool_calls", "message": message},
        {"index": 1, "logprobs": None, "finish_reason": "length", "message": other},
    ]


def test_what_says_nothing_has_an_empty_text_and_a_call_has_none() -> None:
    call = {"index": 0, "id": "t1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    for delta, content in (({}, ""), ({"tool_calls": [call]}, None)):
        whole = Whole(text=False)
        whole.add(chunk(piece({"role": "assistant", "content": None})))
        whole.add(chunk(piece(delta, "stop")))
        assert whole.answer()["choices"][0]["message"]["content"] == content


def test_a_streamed_completion_put_together() -> None:
    whole = Whole(text=True)
    for text, reason in (("a", None), ("b", None), ("", "stop")):
        whole.add(chunk({"index": 0, "text": text, "finish_reason": reason, "logprobs": None}))
    answer = whole.answer()
    assert answer["object"] == "text_completion"
    assert answer["choices"] == [{"index": 0, "logprobs": None, "finish_reason": "stop", "text": "ab"}]
    assert answer["usage"]["total_tokens"] == 0
