from __future__ import annotations

from typing import Any

import pytest

from atmo.errors import RequestError
from atmo.gateway.responses_request import ResponseRequest, read_request_untrusted

FUNCTION = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True}
SCHEMA = {"type": "json_schema", "name": "city", "schema": {"type": "object"}, "strict": True}


def read(**fields: Any) -> ResponseRequest:
    return read_request_untrusted({"input": "hi", **fields}, lambda word: f"{word}_1")


def test_the_least_request() -> None:
    request = read()
    assert request.chat_body(request.items) == {"messages": [{"role": "user", "content": "hi"}]}
    assert (request.store, request.stream, request.previous, request.logprobs) == (True, False, "", False)
    assert request.echo["tool_choice"] == "auto"
    assert request.echo["text"] == {"format": {"type": "text"}}
    assert request.echo["parallel_tool_calls"] is True


def test_fields_are_put_into_the_words_of_a_chat() -> None:
    request = read(
        model="m",
        instructions="be brief",
        max_output_tokens=50,
        temperature=0.5,
        top_p=0.9,
        reasoning={"effort": "low", "summary": "auto"},
        text={"format": SCHEMA, "verbosity": "low"},
        include=["message.output_text.logprobs", "reasoning.encrypted_content"],
        top_logprobs=3,
        metadata={"a": "b"},
        user="me",
        store=False,
        stream=True,
        stream_options={"include_obfuscation": False},
        truncation="auto",
        service_tier="flex",
        seed=7,
        atmosphere={"local_only": True},
    )
    assert request.chat_body(request.items) == {
        "model": "m",
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
        "max_completion_tokens": 50,
        "temperature": 0.5,
        "top_p": 0.9,
        "reasoning_effort": "low",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "city", "schema": {"type": "object"}, "strict": True},
        },
        "verbosity": "low",
        "logprobs": True,
        "top_logprobs": 3,
        "user": "me",
        "service_tier": "flex",
        "seed": 7,
        "atmosphere": {"local_only": True},
    }
    assert (request.store, request.stream, request.logprobs) == (False, True, True)
    assert request.echo["reasoning"] == {"effort": "low", "summary": "auto"}
    assert request.echo["text"] == {"format": SCHEMA, "verbosity": "low"}
    assert request.echo["truncation"] == "disabled"


def test_json_without_a_schema() -> None:
    assert read(text={"format": {"type": "json_object"}}).chat["response_format"] == {"type": "json_object"}


class TestTools:
    def test_functions(self) -> None:
        request = read(tools=[FUNCTION], tool_choice={"type": "function", "name": "weather"}, parallel_tool_calls=False)
        function = {"name": "weather", "parameters": {"type": "object"}, "strict": True}
        assert request.chat["tools"] == [{"type": "function", "function": function}]
        assert request.chat["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
        assert request.chat["parallel_tool_calls"] is False
        assert request.echo["tools"] == [{**FUNCTION, "description": None}]
        assert request.echo["tool_choice"] == {"type": "function", "name": "weather"}

    def test_without_tools_a_chat_has_nothing_about_them(self) -> None:
        assert read(tool_choice="auto", parallel_tool_calls=True, tools=[]).chat == {}
        assert read(tool_choice="none").chat == {}

    def test_allowed_tools_are_those_that_the_chat_has(self) -> None:
        allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]}
        request = read(tools=[FUNCTION, {"type": "function", "name": "other"}], tool_choice=allowed)
        assert [tool["function"]["name"] for tool in request.chat["tools"]] == ["weather"]
        assert request.chat["tool_choice"] == "required"
        assert request.echo["tool_choice"] == allowed

    def test_a_tool_that_openai_runs_is_left_out_and_named(self) -> None:
        request = read(tools=[FUNCTION, {"type": "web_search"}])
        assert request.ignored == ("tools[1] web_search",)
        assert [tool["function"]["name"] for tool in request.chat["tools"]] == ["weather"]
        assert [tool["type"] for tool in request.echo["tools"]] == ["function"]

    def test_a_tool_that_openai_runs_cannot_be_demanded(self) -> None:
        with pytest.raises(RequestError, match="'web_search', which OpenAI runs") as caught:
            read(tools=[FUNCTION, {"type": "web_search"}], tool_choice={"type": "web_search"})
        assert (caught.value.status, caught.value.param) == (400, "tool_choice")
        assert caught.value.code == "unsupported_tool"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"instructions": ["x"]}, "instructions"),
    ({"previous_response_id": 3}, "previous_response_id"),
    ({"previous_response_id": "x" * 300}, "previous_response_id"),
    ({"stream": "yes"}, "stream"),
    ({"store": "yes"}, "store"),
    ({"stream_options": True}, "stream_options"),
    ({"background": True}, "background"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"prompt": {"id": "x"}}, "prompt"),
    ({"messages": []}, "messages"),
    ({"response_format": {}}, "response_format"),
    ({"max_tokens": 3}, "max_tokens"),
    ({"n": 2}, "n"),
    ({"user": 3}, "user"),
    ({"truncation": "maybe"}, "truncation"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"max_output_tokens": True}, "max_output_tokens"),
    ({"top_logprobs": 21}, "top_logprobs"),
    ({"include": "x"}, "include"),
    ({"include": [1]}, "include"),
    ({"metadata": []}, "metadata"),
    ({"metadata": {"a": 1}}, "metadata"),
    ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
    ({"reasoning": "high"}, "reasoning"),
    ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
    ({"reasoning": {"summary": 1}}, "reasoning.summary"),
    ({"text": "x"}, "text"),
    ({"text": {"format": "json"}}, "text"),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format"),
    ({"text": {"format": {**SCHEMA, "strict": 1}}}, "text.format.strict"),
    ({"text": {"verbosity": "some"}}, "text.verbosity"),
    ({"tools": {}}, "tools"),
    ({"tools": ["x"]}, "tools[0]"),
    ({"tools": [{"type": "function"}]}, "tools[0].name"),
    ({"tools": [{**FUNCTION, "description": 1}]}, "tools[0].description"),
    ({"tools": [{**FUNCTION, "parameters": "x"}]}, "tools[0].parameters"),
    ({"tools": [{**FUNCTION, "strict": "x"}]}, "tools[0].strict"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": "some", "tools": [FUNCTION]}, "tool_choice"),
    ({"tool_choice": {"type": "web_search"}, "tools": [FUNCTION]}, "tool_choice"),
    ({"tool_choice": {"type": "allowed_tools", "mode": "x"}}, "tool_choice.mode"),
    ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}}, "tool_choice.tools"),
    ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": 3}}, "tool_choice.tools"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED)
def test_what_cannot_be_done_is_refused_with_its_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        read(**fields)
    assert (caught.value.status, caught.value.param) == (400, param)
