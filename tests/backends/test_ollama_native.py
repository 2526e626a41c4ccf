from __future__ import annotations

import json
from typing import Any

import pytest

from atmo.backends import ollama_native as native
from atmo.backends.openai_shapes import BadAnswer
from atmo.errors import RequestError

PIXEL = "iVBORw0KGgo="
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("options", {"num_ctx": 8_192}),
        ("num_ctx", 8_192),
        ("keep_alive", -1),
        ("think", False),
        ("format", "json"),
        ("top_k", 0),
    ],
)
def test_ollamas_own_fields_go_its_own_way(field: str, value: Any) -> None:
    assert native.wants_native({"messages": [], field: value})
    assert not native.wants_native({"messages": [], field: None, "temperature": 0, "max_tokens": 3})


def test_a_chat_in_ollamas_terms() -> None:
    body = {
        "model": "auto", "stream": True, "temperature": 0.5, "seed": 7, "stop": "END", "max_completion_tokens": 10,
        "top_k": 20, "options": {"num_ctx": 4_096, "temperature": 0.1}, "keep_alive": "5m", "user": "me",
        "tools": [{"type": "function", "function": {"name": "weather"}}], "tool_choice": "auto", "top_logprobs": 2,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
        "reasoning_effort": "low", "logprobs": True,
        "messages": [
            {"role": "developer", "content": "Be brief."},
            user([{"type": "text", "text": "what is"}, {"type": "text", "text": "this?"},
                  {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}]),
            {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning": "hm"},
            {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        ],
    }  # fmt: skip
    assert native.native_chat(body, "m", stream=True) == {
        "model": "m",
        "stream": True,
        "options": {"temperature": 0.1, "seed": 7, "top_k": 20, "num_predict": 10, "stop": ["END"], "num_ctx": 4_096},
        "tools": body["tools"],
        "format": {"type": "object"},
        "think": "low",
        "keep_alive": "5m",
        "logprobs": True,
        "top_logprobs": 2,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "what is\nthis?", "images": [PIXEL]},
            {
                "role": "assistant",
                "content": "",
                "thinking": "hm",
                "tool_calls": [{"id": "call_1", "function": {"name": "weather", "arguments": {"city": "Rome"}}}],
            },
            {"role": "tool", "content": "sunny", "tool_name": "weather", "tool_call_id": "call_1"},
        ],
    }


def test_ollamas_own_words_win() -> None:
    body = {
        "messages": [],
        "format": "json",
        "think": True,
        "reasoning_effort": "none",
        "num_predict": 3,
        "max_tokens": 9,
    }
    out = native.native_chat(body | {"tools": [1], "tool_choice": "none"}, "m", stream=False)
    assert (out["format"], out["think"], out["options"]) == ("json", True, {"num_predict": 3})
    assert "tools" not in out
    plain = native.native_chat({"messages": [], "response_format": {"type": "json_object"}}, "m", stream=False)
    assert plain["format"] == "json"
    silent = native.native_chat({"messages": [], "reasoning": {"effort": "none"}}, "m", stream=False)
    assert silent["think"] is False


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (user([{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]), "data URLs only"),
        (user([{"type": "image_url", "image_url": "data:image/png,xyz"}]), "in base64"),
        (user([{"type": "input_audio", "input_audio": {}}]), "no 'input_audio'"),
        (user(["x"]), "no 'None'"),
        ({"role": "assistant", "tool_calls": [{"id": "x"}]}, "no function"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}, "not JSON"),
    ],
)
def test_messages_that_ollama_does_not_take(message: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says) as caught:
        native.native_chat({"messages": [message]}, "m", stream=False)
    assert (caught.value.status, caught.value.param) == (400, "messages")


def test_a_completion_in_ollamas_terms() -> None:
    body = {"prompt": ["def f("], "suffix": ")", "max_tokens": 5, "logprobs": 2, "options": {"num_ctx": 9}, "raw": True}
    assert native.native_text(body, "m", stream=False) == {
        "model": "m", "prompt": "def f(", "stream": False, "options": {"num_predict": 5, "num_ctx": 9}, "suffix": ")",
        "raw": True, "logprobs": True, "top_logprobs": 2,
    }  # fmt: skip
    for prompt in (["a", "b"], [1, 2], [[1], [2]], None):
        with pytest.raises(RequestError) as caught:
            native.compatible({"prompt": prompt}, chat=False)
        assert caught.value.param == "prompt"


def test_what_the_compatible_route_gets() -> None:
    body = {"messages": [{"role": "developer", "content": "x"}, user("y")], "max_completion_tokens": 5, "tools": [1]}
    out = native.compatible(body | {"tool_choice": "none"}, chat=True)
    assert out["messages"] == [{"role": "system", "content": "x"}, user("y")]
    assert (out["max_tokens"], "max_completion_tokens" in out, "tools" in out) == (5, False, False)
    assert native.compatible({"prompt": ["x"], "n": 1}, chat=False) == {"prompt": "x", "n": 1}


def test_what_ollama_drops() -> None:
    body = {
        "model": "m", "messages": [], "n": 2, "logit_bias": {"1": 2}, "tool_choice": "required", "num_ctx": 5,
        "temperature": 1, "user": "me", "stream": True, "verbosity": "low",
    }  # fmt: skip
    assert sorted(native.ignored_fields(body, chat=True)) == ["logit_bias", "n", "tool_choice", "verbosity"]
    assert native.ignored_fields({"messages": [], "n": 1, "tool_choice": "none"}, chat=True) == ()
    assert native.ignored_fields({"prompt": "x", "echo": True, "best_of": 1}, chat=False) == ("echo",)


DONE = {"done": True, "done_reason": "stop", "prompt_eval_count": 3, "eval_count": 4}
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


def test_a_whole_answer() -> None:
    tool = {"function": {"name": "weather", "arguments": {"city": "Rome"}}}
    message = {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [tool]}
    answer = native.NativeAnswer("m", "req", chat=True).whole({"message": message} | DONE)
    assert (answer["id"], answer["object"], answer["model"], answer["usage"]) == ("req", "chat.completion", "m", USAGE)
    (choice,) = answer["choices"]
    assert (choice["finish_reason"], choice["logprobs"]) == ("tool_calls", None)
    assert (choice["message"]["content"], choice["message"]["reasoning"]) == (None, "hm")
    (call,) = choice["message"]["tool_calls"]
    assert call["id"].startswith("call_")
    assert json.loads(call["function"]["arguments"]) == {"city": "Rome"}
    assert "index" not in call
    text = native.NativeAnswer("m", "req", chat=False).whole({"response": "hi", "done": True, "done_reason": "length"})
    assert (text["object"], text["choices"][0]["text"]) == ("text_completion", "hi")
    assert text["choices"][0]["finish_reason"] == "length"


def test_a_streamed_chat() -> None:
    answer = native.NativeAnswer("m", "req", chat=True)
    lines = [
        {"message": {"content": "", "thinking": "hm"}, "done": False},
        {"message": {"content": "a"}, "logprobs": [{"token": "a", "logprob": -1}]},
        {"message": {"content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}},
        {"message": {"content": "", "tool_calls": [{"id": "x", "function": {"name": "g", "arguments": "{}"}}]}},
        {"message": {"content": ""}} | DONE,
    ]
    chunks = [chunk for line in lines for chunk in answer.chunks(line)]
    assert {(chunk["id"], chunk["object"]) for chunk in chunks} == {("req", "chat.completion.chunk")}
    assert all("usage" not in chunk for chunk in chunks)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[:2] == [{"role": "assistant", "content": "", "reasoning": "hm"}, {"content": "a"}]
    assert chunks[1]["choices"][0]["logprobs"] == {"content": [{"token": "a", "logprob": -1}], "refusal": None}
    assert [delta["tool_calls"][0]["index"] for delta in deltas[2:4]] == [0, 1]
    assert deltas[3]["tool_calls"][0]["id"] == "x"
    assert deltas[4] == {}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 4 + ["tool_calls"]
    assert answer.finished
    last = answer.usage_chunk()
    assert (last["choices"], last["usage"], last["object"]) == ([], USAGE, "chat.completion.chunk")


def test_a_streamed_completion() -> None:
    answer = native.NativeAnswer("m", "req", chat=False)
    rows = [{"token": "b", "logprob": -1}]
    lines = [{"response": "a"}, {"response": "b", "logprobs": rows}, {"response": ""} | DONE]
    chunks = [chunk for line in lines for chunk in answer.chunks(line)]
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["a", "b", ""]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "stop"]
    assert chunks[1]["choices"][0]["logprobs"]["text_offset"] == [1]
    assert answer.usage_chunk()["object"] == "text_completion"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], "not an object"),
        ({"error": "model runner has unexpectedly stopped"}, "unexpectedly stopped"),
        ({"done": True}, "without a message"),
        ({"message": {"tool_calls": [{}]}}, "without a name"),
    ],
)
def test_answers_that_are_none(value: Any, says: str) -> None:
    with pytest.raises(BadAnswer, match=says):
        native.NativeAnswer("m", "r", chat=True).whole(value)
    with pytest.raises(BadAnswer):
        list(native.NativeAnswer("m", "r", chat=False).chunks(value))
