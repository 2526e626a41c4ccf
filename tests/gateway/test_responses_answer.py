from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from atmo.errors import RequestError
from atmo.gateway.responses_answer import Event, ResponseWriter
from atmo.gateway.responses_request import read_request_untrusted
from tests.gateway.world import chunk, completion

USAGE = {
    "prompt_tokens": 5,
    "completion_tokens": 7,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
LOGPROBS = [{"token": "a", "logprob": -0.5, "bytes": None, "top_logprobs": [{"token": "b", "logprob": -1}]}]


def writer(**fields: Any) -> ResponseWriter:
    numbers = count(1)
    request = read_request_untrusted({"input": "hi", **fields}, lambda word: word)
    return ResponseWriter(request, "m", "resp_1", 10, lambda word: f"{word}_{next(numbers)}")


def told(one: ResponseWriter, *deltas: dict[str, Any], finish: str | None = "stop") -> list[Event]:
    """Returns every event of a stream of these deltas."""
    events = one.begin()
    for delta in deltas:
        events += one.chunk(chunk("m", delta))
    events += one.chunk(chunk("m", {}, finish))
    return events + one.end(20)


def call(index: int | None, arguments: str = "", name: str | None = None, call_id: str = "") -> dict[str, Any]:
    function = {"arguments": arguments, **({"name": name} if name else {})}
    return {"tool_calls": [{"index": index, "function": function, **({"id": call_id} if call_id else {})}]}


def names(events: list[Event]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


class TestStream:
    def test_a_piece_of_a_call_that_is_over_may_say_nothing(self) -> None:
        pieces = [call(0, "{}", "a", "c1"), call(1, "{}", "b", "c2"), call(0, "")]
        output = told(writer(), *pieces, finish="tool_calls")[-1]["response"]["output"]
        assert [(item["name"], item["arguments"]) for item in output] == [("a", "{}"), ("b", "{}")]

    def test_a_text(self) -> None:
        one = writer()
        events = told(one, {"role": "assistant", "content": ""}, {"content": "Hel"}, {"content": "lo"})
        assert names(events) == [
            "created",
            "in_progress",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "completed",
        ]
        assert [event["sequence_number"] for event in events] == list(range(10))
        assert events[0]["response"]["status"] == "in_progress"
        assert events[0]["response"]["output"] == []
        assert events[2]["item"] == {
            "type": "message",
            "role": "assistant",
            "content": [],
            "id": "msg_1",
            "status": "in_progress",
        }
        assert events[4]["delta"] == "Hel"
        assert (events[4]["item_id"], events[4]["output_index"], events[4]["content_index"]) == ("msg_1", 0, 0)
        assert events[6]["text"] == "Hello"
        assert events[8]["item"]["content"][0]["text"] == "Hello"
        response = events[9]["response"]
        assert (response["status"], response["completed_at"], response["model"]) == ("completed", 20, "m")
        assert response["output"] == [events[8]["item"]]

    def test_nothing_said_is_an_empty_text(self) -> None:
        one = writer()
        told(one)
        assert one.response["output"][0]["content"][0]["text"] == ""

    def test_calls_of_functions_after_a_text(self) -> None:
        one = writer()
        events = told(
            one,
            {"content": "I look."},
            call(0, name="weather", call_id="c1"),
            call(0, '{"a"'),
            call(0, ":1}"),
            call(1, "{}", "time"),
            finish="tool_calls",
        )
        assert names(events)[6:] == [
            "content_part.done",
            "output_item.done",
            "output_item.added",
            "function_call_arguments.delta",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
            "output_item.added",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
            "completed",
        ]
        added, done = events[8], events[11]
        assert added["item"]["arguments"] == ""
        assert added["output_index"] == 1
        assert (done["name"], done["arguments"]) == ("weather", '{"a":1}')
        first, second = one.response["output"][1:]
        assert first == {
            "type": "function_call",
            "call_id": "c1",
            "name": "weather",
            "arguments": '{"a":1}',
            "id": "fc_2",
            "status": "completed",
        }
        assert second["call_id"] == "call_3"

    def test_a_thought_before_a_text(self) -> None:
        one = writer()
        events = told(one, {"reasoning_content": "hm", "reasoning": "hm"}, {"content": "yes"})
        assert names(events)[2:8] == [
            "output_item.added",
            "content_part.added",
            "reasoning_text.delta",
            "reasoning_text.done",
            "content_part.done",
            "output_item.done",
        ]
        thought, message = one.response["output"]
        assert thought["content"] == [{"type": "reasoning_text", "text": "hm"}]
        assert thought["summary"] == []
        assert message["content"][0]["text"] == "yes"

    def test_a_refusal_is_a_part_of_the_same_message(self) -> None:
        one = writer()
        events = told(one, {"content": "Well,"}, {"refusal": "no"})
        assert names(events)[5:12] == [
            "output_text.done",
            "content_part.done",
            "content_part.added",
            "refusal.delta",
            "refusal.done",
            "content_part.done",
            "output_item.done",
        ]
        assert events[8]["content_index"] == 1
        assert events[9]["refusal"] == "no"
        (message,) = one.response["output"]
        assert [part["type"] for part in message["content"]] == ["output_text", "refusal"]

    @pytest.mark.parametrize(
        ("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
    )
    def test_what_was_cut_short_is_incomplete(self, finish: str, reason: str) -> None:
        one = writer()
        events = told(one, {"content": "Hel"}, finish=finish)
        assert names(events)[-1] == "incomplete"
        assert one.response["incomplete_details"] == {"reason": reason}
        assert one.response["completed_at"] is None
        assert one.response["output"][0]["status"] == "incomplete"

    @pytest.mark.parametrize(("status", "code"), [(502, "server_error"), (429, "rate_limit_exceeded")])
    def test_a_failure_in_the_middle(self, status: int, code: str) -> None:
        one = writer()
        one.begin()
        one.chunk(chunk("m", {"content": "Hel"}))
        error, failed = one.fail(RequestError(status, "beta vanished", kind="api_error", code="node_failed"))
        assert (error["type"], error["code"], error["message"]) == ("error", "node_failed", "beta vanished")
        assert failed["type"] == "response.failed"
        assert failed["sequence_number"] == error["sequence_number"] + 1
        assert failed["response"]["error"] == {"code": code, "message": "beta vanished"}
        assert failed["response"]["output"][0]["status"] == "incomplete"

    def test_usage(self) -> None:
        one = writer()
        one.chunk({"choices": [], "usage": USAGE, "service_tier": "flex"})
        one.end(20)
        assert one.response["usage"] == {
            "input_tokens": 5,
            "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
            "output_tokens": 7,
            "output_tokens_details": {"reasoning_tokens": 3},
            "total_tokens": 12,
        }
        assert one.response["service_tier"] == "flex"

    def test_usage_of_what_failed(self) -> None:
        one = writer()
        one.chunk({"choices": [], "usage": USAGE})
        assert one.fail(RequestError(502, "no"))[1]["response"]["usage"]["output_tokens"] == 7

    def test_probabilities_of_tokens_where_they_were_asked_for(self) -> None:
        part = chunk("m", {"content": "a"})
        bad_row = {"token": "x", "logprob": float("-inf")}
        part["choices"][0]["logprobs"] = {"content": [*LOGPROBS, bad_row, "x"]}
        asked, plain = writer(include=["message.output_text.logprobs"]), writer()
        short = {"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "b", "logprob": -1}]}
        assert asked.chunk(part)[-1]["logprobs"] == [short]
        assert plain.chunk(part)[-1]["logprobs"] == []
        done = asked.end(20)
        assert done[0]["logprobs"] == [short]
        row = asked.response["output"][0]["content"][0]["logprobs"][0]
        assert row == {
            **short,
            "bytes": [97],
            "top_logprobs": [{"token": "b", "bytes": [98], "logprob": -1}],
        }

    def test_only_the_first_choice_counts(self) -> None:
        one = writer()
        part = chunk("m", {"content": "x"})
        part["choices"][0]["index"] = 1
        assert one.chunk(part) == []

    @pytest.mark.parametrize(
        "part",
        [
            {},
            {"choices": ["x"]},
            chunk("m", call(0, "{}")),
            chunk("m", call(None, "{}", "f")),
            chunk("m", {"tool_calls": ["x"]}),
        ],
    )
    def test_what_is_no_chat_fails(self, part: dict[str, Any]) -> None:
        with pytest.raises(RequestError) as caught:
            writer().chunk(part)
        assert (caught.value.status, caught.value.code) == (502, "bad_answer")

    @pytest.mark.parametrize("delta", [{"tool_calls": 5}, {"content": ["x"]}, {"refusal": 1, "reasoning": {}}])
    def test_what_says_nothing_is_passed_over(self, delta: dict[str, Any]) -> None:
        part = chunk("m", delta)
        part["choices"][0]["logprobs"] = {"content": 7}
        assert writer().chunk(part) == []


class TestWhole:
    def test_is_what_the_stream_ends_with(self) -> None:
        streamed, whole = writer(), writer()
        told(streamed, {"content": "Hello"}, call(0, "{}", "f", "c1"), finish="tool_calls")
        answer = completion("m", "Hello")
        answer["usage"] = None
        answer["choices"][0]["finish_reason"] = "tool_calls"
        answer["choices"][0]["message"]["tool_calls"] = [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        ]
        assert whole.whole(answer, 20) == streamed.response

    def test_an_answer_without_a_message_fails(self) -> None:
        with pytest.raises(RequestError, match="no message"):
            writer().whole({"choices": []}, 20)
