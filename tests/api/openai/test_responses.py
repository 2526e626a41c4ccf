"""The routes under `/v1/responses`, and every answer and event against OpenAI's published specification."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from functools import cache
from typing import Any

import httpx
import pytest
import trio

from atmo.api.account import account_of
from atmo.api.openai import responses
from atmo.api.openai.responses import responses_routes
from atmo.backends.base import Call, Encoded, Part
from atmo.gateway.jsontext import dump
from atmo.gateway.responses_kept import KeepConfig, KeptResponses
from atmo.router.capability import CHAT, Capability
from tests.api.face import application, in_process, make_app
from tests.api.openai.test_openai_schema import SPECIFICATION, check, specification
from tests.gateway.world import Echo, Failing, chunk, completion, loop_net, refused

URL = "/v1/responses"
FUNCTION = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}, "strict": True}
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
LOGPROBS = {"content": [{"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": []}]}


class Says(Echo):
    """Answers every chat with the same deltas, the last of them as bytes; remembers what it was asked."""

    def __init__(self, *deltas: dict[str, Any], finish: str = "stop") -> None:
        features = ("json_schema", "logprobs", "tools")
        super().__init__(Capability("says:says", CHAT, "says", general=True, features=features), name="says")
        self.deltas = deltas
        self.finish = finish

    async def answer(self, call: Call) -> AsyncGenerator[Part, None]:
        model = call.capability.model
        await trio.lowlevel.checkpoint()
        if not call.stream:
            whole = completion(model, "")
            whole["choices"][0]["finish_reason"] = self.finish
            whole["choices"][0]["logprobs"] = LOGPROBS
            for delta in self.deltas:
                whole["choices"][0]["message"] |= delta
            yield {**whole, "usage": USAGE}
            return
        yield chunk(model, {"role": "assistant", "content": ""})
        for delta in self.deltas:
            part = chunk(model, delta)
            part["choices"][0]["logprobs"] = LOGPROBS
            yield Encoded(dump(part), more=True)
        yield chunk(model, {}, self.finish)
        yield {
            "id": "x",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": model,
            "choices": [],
            "usage": USAGE,
        }


TEXT = {"content": "a"}
CALLING = {
    "tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]
}
ANSWERS = {
    "text": Says(TEXT),
    "tools": Says(TEXT, CALLING, finish="tool_calls"),
    "refusal": Says({"refusal": "no"}),
    "thought": Says({"reasoning_content": "hm"}, TEXT),
    "cut": Says(TEXT, finish="length"),
}


def events_of(answer: httpx.Response) -> list[dict[str, Any]]:
    """Returns the events of a stream, each of them seen to carry its type as its name."""
    events = []
    for block in answer.text.split("\n\n")[:-1]:
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


@cache
def schema_of(kind: str) -> str:
    """Returns the name of the schema of an event."""
    for name, schema in specification()["components"]["schemas"].items():
        kinds = schema.get("properties", {}).get("type", {}).get("enum")
        if name.startswith("Response") and name.endswith("Event") and kinds == [kind]:
            return str(name)
    raise LookupError(kind)


specified = pytest.mark.skipif(
    not SPECIFICATION.exists(),
    reason=f"OpenAI's openapi.yaml is not in {SPECIFICATION.parent}: nothing to compare with",
)


@specified
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("more", [{}, {"include": ["message.output_text.logprobs"], "tools": [FUNCTION], "user": "me"}])
async def test_everything_is_as_specified(answer: str, more: dict[str, Any]) -> None:
    async with loop_net() as net, in_process(make_app(await net.add("alpha", ANSWERS[answer]))) as client:
        whole = await client.post(URL, json={"input": "hi", **more})
        stream = await client.post(URL, json={"input": "hi", "stream": True, **more})
        items = await client.get(f"{URL}/{whole.json()['id']}/input_items")
        kept = await client.get(f"{URL}/{whole.json()['id']}")
    check("Response", whole.json())
    check("ResponseItemList", items.json())
    assert kept.json() == whole.json()
    events = events_of(stream)
    for event in events:
        check(schema_of(event["type"]), event)
    last = events[-1]["response"]
    differ = {"id", "created_at", "completed_at", "output"}
    assert {key: last[key] for key in last.keys() - differ} == {
        key: value for key, value in whole.json().items() if key not in differ
    }
    assert [item["type"] for item in last["output"]] == [item["type"] for item in whole.json()["output"]]


@specified
@pytest.mark.parametrize("kind", ["custom_tool_call", "function_call"])
async def test_custom_tools_and_namespaces_have_the_shape_of_the_specification(kind: str) -> None:
    """What Codex sends and expects."""
    custom = {"type": "custom", "name": "weather", "description": "d", "format": {"type": "text"}}
    within = {"type": "namespace", "name": "mcp__a", "description": "d", "tools": [FUNCTION]}
    tool, name = (custom, "weather") if kind == "custom_tool_call" else (within, "mcp__a__weather")
    function = {"name": name, "arguments": '{"input": "x"}'}
    says = Says(
        {"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": function}]}, finish="tool_calls"
    )
    body = {"input": "hi", "tools": [tool], "parallel_tool_calls": True}
    async with loop_net() as net, in_process(make_app(await net.add("alpha", says))) as client:
        whole = (await client.post(URL, json=body)).json()
        events = events_of(await client.post(URL, json={**body, "stream": True}))
    check("Response", whole)
    for event in events:
        check(schema_of(event["type"]), event)
    told = [{key: value for key, value in item.items() if key != "id"} for item in whole["output"]]
    said = {"input": "x"} if kind == "custom_tool_call" else {"arguments": '{"input": "x"}', "namespace": "mcp__a"}
    assert told == [{"type": kind, "call_id": "c1", "name": "weather", "status": "completed", **said}]
    assert [item["type"] for item in events[-1]["response"]["output"]] == [kind]


@specified
async def test_a_failure_in_the_middle_is_as_specified() -> None:
    async with (
        loop_net() as net,
        in_process(make_app(await net.add("alpha", Failing(error=refused(502), after=2)))) as c,
    ):
        stream = await c.post(URL, json={"input": "hi", "stream": True})
    events = events_of(stream)
    for event in events:
        check(schema_of(event["type"]), event)
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    assert stream.status_code == 200


async def test_the_answer_says_who_gave_it() -> None:
    async with loop_net() as net, in_process(make_app(await net.add("alpha", Echo()))) as client:
        whole = await client.post(URL, json={"input": "abc", "model": "echo"})
        stream = await client.post(URL, json={"input": "abc", "stream": True})
    assert whole.json()["output"][0]["content"][0]["text"] == "cba"
    assert whole.json()["model"] == "echo"
    assert whole.headers["x-atmosphere-node"] == "alpha"
    assert stream.headers["x-atmosphere-model"] == "echo"
    assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"


async def test_failures_before_the_answer_are_a_status_and_are_not_kept() -> None:
    async with loop_net() as net, in_process(make_app(await net.add("alpha", Failing(error=refused(429))))) as client:
        for stream in (False, True):
            answer = await client.post(URL, json={"input": "hi", "stream": stream})
            assert answer.status_code == 429
            assert answer.json()["error"]["message"]


async def test_an_answer_without_an_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "ANSWER_BYTES", 10_000)
    async with loop_net() as net, in_process(make_app(await net.add("alpha", Says(*[TEXT] * 200)))) as client:
        stream = await client.post(URL, json={"input": "hi", "stream": True})
    assert len(stream.content) < 30_000
    assert events_of(stream)[-1]["response"]["error"]["message"].startswith("The answer of alpha is longer than")


async def test_a_field_at_fault_is_named() -> None:
    async with loop_net() as net, in_process(make_app(await net.add("alpha", Echo()))) as client:
        answer = await client.post(URL, json={"input": "hi", "tool_choice": {"type": "web_search"}})
        hot = await client.post(URL, json={"input": "hi", "temperature": 9})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_tool")
    assert (hot.status_code, hot.json()["error"]["param"]) == (400, "temperature")


async def test_a_tool_that_openai_runs_is_named_in_a_warning() -> None:
    """Codex sends `web_search` with every request."""
    backend = Says(TEXT)
    async with loop_net() as net, in_process(make_app(await net.add("alpha", backend))) as client:
        for stream in (False, True):
            body = {"input": "hi", "tools": [{"type": "web_search"}], "tool_choice": "auto", "stream": stream}
            answer = await client.post(URL, json=body)
            assert answer.status_code == 200
            assert answer.headers["x-atmosphere-warning"] == "not honoured by this model: tools[0] web_search"
    assert "tools" not in backend.calls[0].body


async def test_many_small_items_take_more_room_than_their_text(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(KeptResponses, "keep", lambda self, kept, now: sizes.append(kept.size))
    async with loop_net() as net, in_process(make_app(await net.add("alpha", Says(TEXT)))) as client:
        for count in (1, 1_001):
            given = [{"role": "user", "content": ""}] * count
            assert (await client.post(URL, json={"input": given})).status_code == 200
    assert sizes[1] - sizes[0] > 1_000 * responses.OBJECT_BYTES


class TestConversation:
    async def test_goes_on_after_a_response(self) -> None:
        backend = Says(TEXT)
        async with loop_net() as net, in_process(make_app(await net.add("alpha", backend))) as client:
            first = (await client.post(URL, json={"input": "one", "instructions": "be brief"})).json()
            second = events_of(
                await client.post(URL, json={"input": "two", "previous_response_id": first["id"], "stream": True})
            )[-1]["response"]
            reference = {"type": "item_reference", "id": second["output"][0]["id"]}
            third = await client.post(URL, json={"input": [reference, {"role": "user", "content": "three"}]})
            items = (await client.get(f"{URL}/{second['id']}/input_items", params={"order": "asc"})).json()
        assert second["previous_response_id"] == first["id"]
        asked = [[message["content"] for message in call.body["messages"]] for call in backend.calls]
        assert asked == [["be brief", "one"], ["one", "a", "two"], ["a", "three"]]
        assert third.status_code == 200
        assert [item["role"] for item in items["data"]] == ["user", "assistant", "user"]

    async def test_an_item_may_be_referred_to_again_and_again(self) -> None:
        """As the Vercel AI SDK does in every turn."""
        backend = Says(TEXT)
        async with loop_net() as net, in_process(make_app(await net.add("alpha", backend))) as client:
            answer = (await client.post(URL, json={"input": "one"})).json()
            reference = {"type": "item_reference", "id": answer["output"][0]["id"]}
            for _ in range(3):
                given = [reference, {"role": "user", "content": "on"}]
                answer = (await client.post(URL, json={"input": given})).json()
            await client.delete(f"{URL}/{answer['id']}")
            answer = (await client.post(URL, json={"input": given})).json()
            await client.post(URL, json={"input": "two", "previous_response_id": answer["id"]})
        asked = [[message["content"] for message in call.body["messages"]] for call in backend.calls]
        assert asked == [["one"], *[["a", "on"]] * 4, ["a", "on", "a", "two"]]

    async def test_a_call_and_its_output(self) -> None:
        backend = Says(CALLING, finish="tool_calls")
        async with loop_net() as net, in_process(make_app(await net.add("alpha", backend))) as client:
            first = (await client.post(URL, json={"input": "hi", "tools": [FUNCTION]})).json()
            output = {"type": "function_call_output", "call_id": "c1", "output": "rain"}
            await client.post(URL, json={"input": [output], "previous_response_id": first["id"]})
        told = backend.calls[1].body["messages"]
        assert [message["role"] for message in told] == ["user", "assistant", "tool"]
        assert told[1]["tool_calls"][0]["id"] == told[2]["tool_call_id"] == "c1"

    async def test_what_is_not_to_be_kept_is_not(self) -> None:
        async with loop_net() as net, in_process(make_app(await net.add("alpha", Echo()))) as client:
            first = (await client.post(URL, json={"input": "hi", "store": False})).json()
            answer = await client.post(URL, json={"input": "hi", "previous_response_id": first["id"]})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "previous_response_not_found")
        assert "60 minutes" in answer.json()["error"]["message"]

    async def test_belongs_to_the_key_that_made_it(self) -> None:
        async with loop_net() as net:
            app = make_app(await net.add("alpha", Echo()))

            async def keyed(scope: Any, receive: Any, send: Any) -> None:
                account = account_of(scope)
                account.key_id = next((v.decode() for k, v in scope["headers"] if k == b"x-key"), "")
                await app(scope, receive, send)

            async with httpx.AsyncClient(transport=httpx.ASGITransport(keyed), base_url="http://127.0.0.1") as client:
                first = (await client.post(URL, json={"input": "hi"}, headers={"x-key": "anna"})).json()
                own = await client.get(f"{URL}/{first['id']}", headers={"x-key": "anna"})
                for key in ({"x-key": "bert"}, {}):
                    assert (await client.get(f"{URL}/{first['id']}", headers=key)).status_code == 404
                    assert (await client.delete(f"{URL}/{first['id']}", headers=key)).status_code == 404
                    more = {"input": "x", "previous_response_id": first["id"]}
                    assert (await client.post(URL, json=more, headers=key)).status_code == 404
        assert own.status_code == 200


class TestKept:
    async def test_is_forgotten_when_asked_to(self) -> None:
        async with loop_net() as net, in_process(make_app(await net.add("alpha", Echo()))) as client:
            first = (await client.post(URL, json={"input": "hi"})).json()
            answer = await client.delete(f"{URL}/{first['id']}")
            again = await client.delete(f"{URL}/{first['id']}")
        assert answer.json() == {"id": first["id"], "object": "response", "deleted": True}
        assert again.status_code == 404

    async def test_is_over_and_cannot_be_cancelled_or_streamed_again(self) -> None:
        async with loop_net() as net, in_process(make_app(await net.add("alpha", Echo()))) as client:
            first = (await client.post(URL, json={"input": "hi"})).json()
            cancel = await client.post(f"{URL}/{first['id']}/cancel")
            unknown = await client.post(f"{URL}/resp_0/cancel")
            stream = await client.get(f"{URL}/{first['id']}", params={"stream": "true"})
        assert (cancel.status_code, cancel.json()["error"]["code"]) == (400, "not_cancellable")
        assert unknown.status_code == 404
        assert (stream.status_code, stream.json()["error"]["param"]) == (400, "stream")

    async def test_pages_of_items(self) -> None:
        given = [{"role": "user", "content": str(number), "id": f"i{number}"} for number in range(5)]
        async with loop_net() as net, in_process(make_app(await net.add("alpha", Echo()))) as client:
            first = (await client.post(URL, json={"input": given})).json()
            url = f"{URL}/{first['id']}/input_items"
            newest = (await client.get(url, params={"limit": 2})).json()
            next_ = (await client.get(url, params={"limit": 2, "after": newest["last_id"]})).json()
            rest = (await client.get(url, params={"limit": 9, "order": "asc", "after": "i3"})).json()
            none = (await client.get(url, params={"after": "i0"})).json()
            bad = [await client.get(url, params=wrong) for wrong in ({"after": "x"}, {"limit": "0"}, {"order": "up"})]
        assert [item["id"] for item in newest["data"]] == ["i4", "i3"]
        assert (newest["first_id"], newest["last_id"], newest["has_more"]) == ("i4", "i3", True)
        assert [item["id"] for item in next_["data"]] == ["i2", "i1"]
        assert ([item["id"] for item in rest["data"]], rest["has_more"]) == (["i4"], False)
        assert (none["data"], none["first_id"]) == ([], "")
        assert [answer.status_code for answer in bad] == [400, 400, 400]

    async def test_no_more_than_so_many(self) -> None:
        async with loop_net() as net:
            node = await net.add("alpha", Echo())
            app = application(responses_routes(node.gateway, KeepConfig(responses=1)))
            async with in_process(app) as client:
                ids = [(await client.post(URL, json={"input": "hi"})).json()["id"] for _ in range(2)]
                found = [(await client.get(f"{URL}/{response_id}")).status_code for response_id in ids]
        assert found == [404, 200]
