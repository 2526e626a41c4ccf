"""Tools of the Responses API that are no plain functions: what Codex and agents send."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import pytest

from atmo.errors import RequestError
from atmo.gateway.responses_items import messages_of, read_items_untrusted
from atmo.gateway.responses_tools import Called, custom_input, read_tools_untrusted
from tests.gateway.test_responses_answer import call, names, told, writer

PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edits files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: hunk+"},
}
SEARCH = {"type": "function", "name": "search", "description": "d", "parameters": {"type": "object"}, "strict": False}
WIKI = {"type": "namespace", "name": "mcp__wiki", "description": "A wiki.", "tools": [SEARCH]}


def functions(**body: Any) -> dict[str, Any]:
    return {tool["function"]["name"]: tool["function"] for tool in read_tools_untrusted(body).chat.get("tools", [])}


class TestRequest:
    def test_a_custom_tool_is_a_function_with_one_text(self) -> None:
        tools = read_tools_untrusted({"tools": [PATCH], "tool_choice": {"type": "custom", "name": "apply_patch"}})
        function = tools.chat["tools"][0]["function"]
        assert function["parameters"]["required"] == ["input"]
        assert function["description"].startswith("Edits files.\n\n'input' is a text of this grammar (lark):\nstart:")
        assert tools.chat["tool_choice"] == {"type": "function", "function": {"name": "apply_patch"}}
        assert tools.echo == [PATCH]
        assert tools.called == {"apply_patch": Called("apply_patch", custom=True)}

    def test_the_tools_of_a_namespace_have_both_names(self) -> None:
        tools = read_tools_untrusted({"tools": [WIKI, SEARCH]})
        assert tools.echo == [WIKI, SEARCH]
        assert list(tools.called.items()) == [
            ("mcp__wiki__search", Called("search", "mcp__wiki")),
            ("search", Called("search")),
        ]
        choice = {"type": "function", "namespace": "mcp__wiki", "name": "search"}
        named = read_tools_untrusted({"tools": [WIKI], "tool_choice": choice}).chat["tool_choice"]
        assert named["function"]["name"] == "mcp__wiki__search"

    def test_a_text_tool_needs_no_description(self) -> None:
        plain = {"type": "custom", "name": "say"}
        assert functions(tools=[plain])["say"]["description"] == ""
        assert read_tools_untrusted({"tools": [plain]}).echo == [{**plain, "format": {"type": "text"}}]

    def test_what_is_left_out_is_named_up_to_a_bound(self) -> None:
        tools = read_tools_untrusted({"tools": [{"type": "x" * 100}, *[{"type": "web_search"}] * 20]})
        assert tools.ignored[0] == f"tools[0] {'x' * 64}"
        assert len(tools.ignored) == 8
        assert tools.chat == {}

    def test_allowed_tools_may_name_some_that_nobody_runs(self) -> None:
        rows = [{"type": "custom", "name": "apply_patch"}, {"type": "web_search"}]
        choice = {"type": "allowed_tools", "mode": "auto", "tools": rows}
        assert list(functions(tools=[PATCH, WIKI], tool_choice=choice)) == ["apply_patch"]

    @pytest.mark.parametrize(
        ("tools", "param"),
        [
            ([{"type": "custom"}], "tools[0].name"),
            ([{**PATCH, "format": "lark"}], "tools[0].format"),
            ([{**WIKI, "tools": []}], "tools[0].tools"),
            ([{**WIKI, "tools": [WIKI]}], "tools[0].tools[0].type"),
            ([{**WIKI, "name": ""}], "tools[0].name"),
            ([{**WIKI, "tools": [{**SEARCH, "strict": 1}]}], "tools[0].tools[0].strict"),
            ([SEARCH, SEARCH], "tools[1].name"),
            ([{**SEARCH, "name": f"f{number}"} for number in range(1_025)], "tools"),
        ],
    )
    def test_a_field_at_fault_is_named(self, tools: list[Any], param: str) -> None:
        with pytest.raises(RequestError) as caught:
            read_tools_untrusted({"tools": tools})
        assert (caught.value.status, caught.value.param) == (400, param)

    def test_an_allowed_tool_without_a_name(self) -> None:
        for rows in ([{"type": "function"}], ["x"]):
            with pytest.raises(RequestError) as caught:
                read_tools_untrusted({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": rows}})
            assert caught.value.param == "tool_choice.tools[0]"


class TestItems:
    def test_calls_become_those_of_functions(self) -> None:
        given = [
            {"type": "custom_tool_call", "call_id": "c1", "name": "apply_patch", "input": '*** "a"'},
            {"type": "function_call", "call_id": "c2", "namespace": "mcp__wiki", "name": "search", "arguments": "{}"},
            {"type": "custom_tool_call_output", "call_id": "c1", "output": "done"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "found"}]},
        ]
        numbers = count(1)
        items = read_items_untrusted(given, lambda word: f"{word}_{next(numbers)}")
        assert [item["id"] for item in items] == ["ctc_1", "fc_2", "ctco_3", "fco_4"]
        asked, patched, found = messages_of(None, items)
        calls = [(one["id"], one["function"]["name"], one["function"]["arguments"]) for one in asked["tool_calls"]]
        assert calls == [("c1", "apply_patch", json.dumps({"input": '*** "a"'})), ("c2", "mcp__wiki__search", "{}")]
        assert patched == {"role": "tool", "tool_call_id": "c1", "content": "done"}
        assert found == {"role": "tool", "tool_call_id": "c2", "content": "found"}


class TestAnswer:
    def test_a_call_of_a_custom_tool_is_told_as_its_text(self) -> None:
        events = told(
            writer(tools=[PATCH]),
            call(0, '{"input": "*** Be', "apply_patch", "c1"),
            call(0, 'gin"}'),
            finish="tool_calls",
        )
        assert names(events)[2:] == [
            "output_item.added",
            "custom_tool_call_input.delta",
            "custom_tool_call_input.done",
            "output_item.done",
            "completed",
        ]
        assert (events[3]["delta"], events[4]["input"]) == ("*** Begin", "*** Begin")
        assert events[5]["item"] == {
            "type": "custom_tool_call",
            "id": "ctc_1",
            "call_id": "c1",
            "name": "apply_patch",
            "input": "*** Begin",
            "status": "completed",
        }

    def test_a_call_without_input(self) -> None:
        events = told(writer(tools=[PATCH]), call(0, '{"input": ""}', "apply_patch", "c1"))
        assert names(events)[3:5] == ["custom_tool_call_input.done", "output_item.done"]

    def test_a_call_in_a_namespace_has_the_names_apart(self) -> None:
        item = told(writer(tools=[WIKI]), call(0, "{}", "mcp__wiki__search", "c1"))[-1]["response"]["output"][0]
        assert (item["type"], item["namespace"], item["name"]) == ("function_call", "mcp__wiki", "search")

    def test_a_call_of_nothing_known_is_a_function(self) -> None:
        item = told(writer(), call(0, "{}", "elsewhere", "c1"))[-1]["response"]["output"][0]
        assert (item["type"], item["name"]) == ("function_call", "elsewhere")

    @pytest.mark.parametrize("said", ["*** Begin", '{"input": 3}', '["input"]', '{"text": "x"}'])
    def test_what_is_no_such_call_is_taken_as_it_stands(self, said: str) -> None:
        assert custom_input(said) == said
